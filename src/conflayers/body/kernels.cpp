// What a layer does beside its products, one call each, for a few rows in the processor's memory.
//
// A row is computed by the same instructions in the same order whatever its company and wherever it lies: sums run over
// the lanes of vectors, and the compiler is told neither to reorder nor to fuse.
#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

constexpr int64_t LANES = 16, SPAN = 2 * LANES;
typedef float floats __attribute__((vector_size(4 * LANES)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));
typedef uint32_t words __attribute__((vector_size(4 * LANES)));

struct bfloat16 {
    uint16_t bits;
};

// A span of numbers side by side. Which of them is in which lane is nobody's business: it is the same in all spans of a
// type. Of numbers of 16 bits one vector has the even ones and the other the odd, which is two instructions.
struct Span {
    floats one, other;
};

inline Span operator+(Span a, Span b) { return {a.one + b.one, a.other + b.other}; }
inline Span operator*(Span a, Span b) { return {a.one * b.one, a.other * b.other}; }
inline Span operator*(Span a, float b) { return {a.one * b, a.other * b}; }
inline Span operator/(Span a, float b) { return {a.one / b, a.other / b}; }

template <class To, class From>
inline To same_bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "");
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

inline Span whole(const float* x) {
    Span out;
    std::memcpy(&out, x, sizeof out);
    return out;
}

inline Span whole(const bfloat16* x) {
    words both;
    std::memcpy(&both, x, sizeof both);
    return {same_bits<floats>(both << 16), same_bits<floats>(both & 0xffff0000u)};
}

inline void put_whole(Span x, float* out) { std::memcpy(out, &x, sizeof x); }

// The upper 16 bits, to the nearest, ties to even; what is no number stays none.
inline words rounded(floats x) {
    words bits = same_bits<words>(x);
    return x == x ? bits + 0x7fffu + ((bits >> 16) & 1u) : bits | 0x00400000u;
}

inline void put_whole(Span x, bfloat16* out) {
    words both = (rounded(x.one) >> 16) | (rounded(x.other) & 0xffff0000u);
    std::memcpy(out, &both, sizeof both);
}

// The next of `left` numbers; zeros behind the last.
template <class T>
inline Span get(const T* x, int64_t left) {
    if (left >= SPAN) return whole(x);
    T some[SPAN] = {};
    std::memcpy(some, x, left * sizeof(T));
    return whole(some);
}

template <class T>
inline void put(Span x, T* out, int64_t left) {
    if (left >= SPAN) return put_whole(x, out);
    T some[SPAN];
    put_whole(x, some);
    std::memcpy(out, some, left * sizeof(T));
}

inline float sum(floats x) {
    typedef float quarter __attribute__((vector_size(LANES)));
    quarter parts[4];
    std::memcpy(parts, &x, sizeof x);
    quarter all = (parts[0] + parts[1]) + (parts[2] + parts[3]);
    return (all[0] + all[1]) + (all[2] + all[3]);
}

inline float sum(Span x) { return sum(x.one + x.other); }

// e to the x of at most 88, after Cephes.
inline floats exponential(floats x) {
    x = x < -87.0f ? (floats{} - 87.0f) : x;
    const float round = 12582912.0f;
    floats n = (x * 1.44269504088896341f + round) - round;
    floats r = x - n * 0.693359375f + n * 2.12194440e-4f;
    floats p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return p * same_bits<floats>((__builtin_convertvector(n, ints) + 127) << 23);
}

inline floats silu(floats x) {
    floats against = x < -87.0f ? (floats{} + 87.0f) : -x;
    return x / (1.0f + exponential(against));
}

// To the root mean square of 1, scaled.
template <class T>
inline void scaled(const T* x, const T* weight, float eps, T* out, int64_t width) {
    Span squares = {};
    for (int64_t i = 0; i < width; i += SPAN) {
        Span some = get(x + i, width - i);
        squares = squares + some * some;
    }
    float r = 1.0f / std::sqrt(sum(squares) / float(width) + eps);
    for (int64_t i = 0; i < width; i += SPAN)
        put(get(x + i, width - i) * r * get(weight + i, width - i), out + i, width - i);
}

// What is added is added to x in place.
template <class T>
void norm(T* x, const T* added, const T* weight, float eps, T* out, int64_t rows, int64_t width) {
    for (int64_t row = 0; row < rows; row++, x += width, out += width) {
        if (added) {
            for (int64_t i = 0; i < width; i += SPAN)
                put(get(x + i, width - i) + get(added + i, width - i), x + i, width - i);
            added += width;
        }
        scaled(x, weight, eps, out, width);
    }
}

template <class T>
void gated(const T* gate_up, T* out, int64_t rows, int64_t width) {
    for (int64_t row = 0; row < rows; row++, gate_up += 2 * width, out += width)
        for (int64_t i = 0; i < width; i += SPAN) {
            Span gate = get(gate_up + i, width - i);
            put(Span{silu(gate.one), silu(gate.other)} * get(gate_up + width + i, width - i), out + i, width - i);
        }
}

// One head of one token: normed where there is a weight, rotated where there are angles.
template <class T>
inline void turned(const T* x, const T* weight, float eps, const T* cos, const T* sin, T* out, int64_t width) {
    T some[1024];
    if (weight) {
        scaled(x, weight, eps, some, width);
        x = some;
    }
    if (!cos) {
        std::memcpy(out, x, width * sizeof(T));
        return;
    }
    int64_t half = width / 2;
    for (int64_t i = 0; i < half; i += SPAN) {
        int64_t left = half - i;
        Span low = get(x + i, left), high = get(x + half + i, left);
        put(low * get(cos + i, left) + high * get(sin + i, left), out + i, left);
        put(high * get(cos + half + i, left) + low * get(sin + half + i, left), out + half + i, left);
    }
}

template <class T>
void turn(const T* mixed, const T* q_norm, const T* k_norm, float eps, const T* cos, const T* sin, T* queries, T* keys,
          T* values, int64_t stride, int64_t tokens, int64_t heads, int64_t kv_heads, int64_t width) {
    for (int64_t token = 0; token < tokens; token++) {
        for (int64_t head = 0; head < heads; head++, mixed += width)
            turned(mixed, q_norm, eps, cos, sin, queries + (head * tokens + token) * width, width);
        for (int64_t head = 0; head < kv_heads; head++, mixed += width)
            turned(mixed, k_norm, eps, cos, sin, keys + head * stride + token * width, width);
        for (int64_t head = 0; head < kv_heads; head++, mixed += width)
            std::memcpy(values + head * stride + token * width, mixed, width * sizeof(T));
        if (cos) cos += width, sin += width;
    }
}

// One head of one token over all columns. `scores` has room for them and a vector more.
template <int SPANS, class T>
void attend_head(const T* query, const T* keys, const T* values, int64_t columns, float scale, float* scores, T* out) {
    constexpr int64_t width = SPANS * SPAN;
    Span some[SPANS];
    for (int s = 0; s < SPANS; s++) some[s] = whole(query + s * SPAN) * scale;
    for (int64_t column = 0; column < columns; column++, keys += width) {
        Span products = some[0] * whole(keys);
        for (int s = 1; s < SPANS; s++) products = products + some[s] * whole(keys + s * SPAN);
        scores[column] = sum(products);
    }
    for (int64_t column = columns; column % LANES; column++) scores[column] = -INFINITY;
    float most = -INFINITY;
    for (int64_t column = 0; column < columns; column++) most = scores[column] > most ? scores[column] : most;
    floats total = {};
    for (int64_t column = 0; column < columns; column += LANES) {
        floats one;
        std::memcpy(&one, scores + column, sizeof one);
        one = exponential(one - most);
        std::memcpy(scores + column, &one, sizeof one);
        total += one;
    }
    for (int s = 0; s < SPANS; s++) some[s] = Span{};
    for (int64_t column = 0; column < columns; column++, values += width)
        for (int s = 0; s < SPANS; s++) some[s] = some[s] + whole(values + s * SPAN) * scores[column];
    float all = sum(total);
    for (int s = 0; s < SPANS; s++) put_whole(some[s] / all, out + s * SPAN);
}

template <class T>
void attend(const T* queries, const T* keys, const T* values, int64_t stride, int64_t columns, int64_t heads,
            int64_t kv_heads, int64_t width, float scale, float* scores, T* out) {
    auto one = width == SPAN       ? attend_head<1, T>
               : width == 2 * SPAN ? attend_head<2, T>
               : width == 3 * SPAN ? attend_head<3, T>
                                   : attend_head<4, T>;
    for (int64_t head = 0; head < heads; head++, queries += width, out += width) {
        int64_t at = head / (heads / kv_heads) * stride;
        one(queries, keys + at, values + at, columns, scale, scores, out);
    }
}

}  // namespace

#define KERNELS(T, NAME)                                                                                              \
    extern "C" void norm_##NAME(T* x, const T* added, const T* weight, float eps, T* out, int64_t rows,               \
                                int64_t width) {                                                                      \
        norm(x, added, weight, eps, out, rows, width);                                                                \
    }                                                                                                                 \
    extern "C" void gated_##NAME(const T* gate_up, T* out, int64_t rows, int64_t width) {                             \
        gated(gate_up, out, rows, width);                                                                             \
    }                                                                                                                 \
    extern "C" void turn_##NAME(const T* mixed, const T* q_norm, const T* k_norm, float eps, const T* cos,            \
                                const T* sin, T* queries, T* keys, T* values, int64_t stride, int64_t tokens,         \
                                int64_t heads, int64_t kv_heads, int64_t width) {                                     \
        turn(mixed, q_norm, k_norm, eps, cos, sin, queries, keys, values, stride, tokens, heads, kv_heads, width);    \
    }                                                                                                                 \
    extern "C" void attend_##NAME(const T* queries, const T* keys, const T* values, int64_t stride, int64_t columns,  \
                                  int64_t heads, int64_t kv_heads, int64_t width, float scale, float* scores,         \
                                  T* out) {                                                                           \
        attend(queries, keys, values, stride, columns, heads, kv_heads, width, scale, scores, out);                   \
    }

KERNELS(float, float32)
KERNELS(bfloat16, bfloat16)
