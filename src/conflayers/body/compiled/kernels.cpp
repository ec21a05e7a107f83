// What is called from Python, for a few rows in the processor's memory: a layer's operators one by one, and whole passes.
#include "attention.h"
#include "pass.h"
#include "rounding.h"
#include "rows.h"

#define KERNELS(T, NAME)                                                                                              \
    extern "C" void norm_##NAME(T* x, const T* added, const T* weight, float eps, T* out, int64_t rows,               \
                                int64_t width) {                                                                      \
        for (int64_t i = 0; i < rows * width; i += width)                                                             \
            norm(x + i, added ? added + i : added, weight, eps, out + i, width);                                      \
    }                                                                                                                 \
    extern "C" void gated_##NAME(const T* gate_up, T* out, int64_t rows, int64_t width) {                             \
        for (int64_t i = 0; i < rows; i++) gated(gate_up + i * 2 * width, out + i * width, width, 0, width);          \
    }                                                                                                                 \
    extern "C" void turn_##NAME(const T* mixed, const T* q_norm, const T* k_norm, float eps, const T* cos,            \
                                const T* sin, T* queries, T* keys, T* values, int64_t stride, int64_t tokens,         \
                                int64_t heads, int64_t kv_heads, int64_t width) {                                     \
        Turn<T> all{mixed, q_norm, k_norm, eps,    cos,   sin,      nullptr, queries,                                 \
                    keys,  values, stride, tokens, heads, kv_heads, width};                                           \
        for (int64_t token = 0; token < tokens; token++)                                                              \
            for (int64_t part = 0; part < all.parts(); part++) all.one(token, part);                                  \
    }                                                                                                                 \
    extern "C" void attend_##NAME(const T* queries, const T* keys, const T* values, const float* bias,                \
                                  int64_t biases, int64_t stride, int64_t columns, int64_t tokens, int64_t heads,     \
                                  int64_t kv_heads, int64_t width, float scale, char* scratch, T* out) {              \
        const Attention<T> all{queries, keys,   values, bias,     biases, stride,                                     \
                               columns, tokens, heads,  kv_heads, width,  scale};                                     \
        attend<VectorRows<T>>(all, Team{0, 1, nullptr}, scratch + VectorRows<T>::bytes(width), scratch, out);         \
    }                                                                                                                 \
    extern "C" int64_t attend_bytes_##NAME(int64_t columns, int64_t tokens, int64_t heads, int64_t width) {           \
        return VectorRows<T>::bytes(width) + Found::bytes(heads * tokens, columns + tokens, width);                   \
    }

KERNELS(float, float32)
KERNELS(bfloat16, bfloat16)

#ifdef HAS_PASSES
extern "C" int64_t has_passes() { return 1; }
extern "C" int64_t has_tiles() { return by_tiles<bfloat16>(); }

#define PASSES(T, NAME)                                                                                               \
    extern "C" int64_t pass_bytes_##NAME(const Pass<T>* pass) { return pass->bytes(); }                               \
    extern "C" void run_pass_##NAME(const Pass<T>* pass) { pass->run(); }                                             \
    extern "C" int64_t run_chain_##NAME(const Pass<T>* pass, int64_t* ids, int64_t* positions, int64_t most,          \
                                        Following following) {                                                        \
        return run_chain(*pass, ids, positions, most, following);                                                     \
    }                                                                                                                 \
    extern "C" void multiply_##NAME(const Product* product, const T* x, int64_t tokens, int64_t threads,              \
                                    char* scratch, T* out) {                                                          \
        multiply_alone(*product, x, tokens, threads, scratch, out);                                                   \
    }                                                                                                                 \
    extern "C" int64_t product_bytes_##NAME(const Product* product, int64_t threads) {                                \
        return Input<T>::shared_bytes(product->ins) + threads * Input<T>::own_bytes(product->ins);                    \
    }
#else
extern "C" int64_t has_passes() { return 0; }
extern "C" int64_t has_tiles() { return 0; }

#define PASSES(T, NAME)                                                                                               \
    extern "C" int64_t pass_bytes_##NAME(const void*) { return 0; }                                                   \
    extern "C" void run_pass_##NAME(const void*) {}                                                                   \
    extern "C" int64_t run_chain_##NAME(const void*, int64_t*, int64_t*, int64_t, int64_t (*)()) { return 0; }        \
    extern "C" void multiply_##NAME(const void*, const T*, int64_t, int64_t, char*, T*) {}                            \
    extern "C" int64_t product_bytes_##NAME(const void*, int64_t) { return 0; }
#endif

PASSES(float, float32)
PASSES(bfloat16, bfloat16)

#ifdef HAS_PASSES
#define ROUNDING(T, NAME)                                                                                             \
    extern "C" void round_matrix_##NAME(int64_t kind, const T* weight, int64_t outs, int64_t ins, int64_t threads,    \
                                        uint8_t* to, void* scales) {                                                  \
        round_matrix(Kind(kind), weight, outs, ins, threads, to, scales);                                             \
    }
#else
#define ROUNDING(T, NAME)                                                                                             \
    extern "C" void round_matrix_##NAME(int64_t, const T*, int64_t, int64_t, int64_t, uint8_t*, void*) {}
#endif

ROUNDING(float, float32)
ROUNDING(bfloat16, bfloat16)
