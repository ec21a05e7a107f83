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
                                  int64_t kv_heads, int64_t width, float scale, float* scratch, T* out) {             \
        Attention<T>{queries, keys,   values, bias,     biases, stride,                                               \
                     columns, tokens, heads,  kv_heads, width,  scale}                                                \
            .run(scratch, out);                                                                                       \
    }

KERNELS(float, float32)
KERNELS(bfloat16, bfloat16)

#ifdef HAS_PRODUCTS

extern "C" int64_t has_products() { return allowed(); }
extern "C" int64_t pass_bytes(const Pass* pass) { return pass->bytes(); }
extern "C" void run_pass(const Pass* pass) { pass->run(); }
extern "C" void multiply(const Product* product, const bfloat16* x, int64_t tokens, int64_t threads, char* scratch,
                         bfloat16* out) {
    multiply_alone(*product, x, tokens, threads, scratch, out);
}
extern "C" int64_t product_bytes(const Product* product, int64_t threads) {
    return Input::shared_bytes(product->ins) + threads * Input::own_bytes(product->ins);
}
extern "C" void round_matrix(int64_t kind, const bfloat16* weight, int64_t outs, int64_t ins, int64_t threads,
                             uint8_t* to, void* scales) {
    round_matrix(Kind(kind), weight, outs, ins, threads, to, scales);
}

#else

extern "C" int64_t has_products() { return 0; }
extern "C" int64_t pass_bytes(const void*) { return 0; }
extern "C" void run_pass(const void*) {}
extern "C" void multiply(const void*, const void*, int64_t, int64_t, char*, void*) {}
extern "C" int64_t product_bytes(const void*, int64_t) { return 0; }
extern "C" void round_matrix(int64_t, const void*, int64_t, int64_t, int64_t, void*, void*) {}

#endif
