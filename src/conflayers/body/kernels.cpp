// What a layer does beside its products, one call each, for a few rows in the processor's memory.
//
// A row is computed by the same instructions in the same order whatever its company and wherever it lies: sums run over
// the lanes of vectors, and the compiler may fuse a product with the sum that follows but not reorder.
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

// Of the lanes of two vectors side by side, those with the numbers given. No name is known to all compilers.
#ifdef __clang__
#define PICKED(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define PICKED(a, b, ...) __builtin_shuffle(a, b, ints{__VA_ARGS__})
#endif

// The lanes of a, then those of b: those whose number lacks the bit, plus those that have it.
inline floats folded8(floats a, floats b) {
    return PICKED(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
           PICKED(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
}

inline floats folded4(floats a, floats b) {
    return PICKED(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
           PICKED(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
}

inline floats folded2(floats a, floats b) {
    return PICKED(a, b, 0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29) +
           PICKED(a, b, 2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23, 26, 27, 30, 31);
}

inline floats folded1(floats a, floats b) {
    return PICKED(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30) +
           PICKED(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
}

// The sum of each of 16 vectors.
inline floats sums(floats* x) {
    for (int i = 0; i < 8; i++) x[i] = folded8(x[2 * i], x[2 * i + 1]);
    for (int i = 0; i < 4; i++) x[i] = folded4(x[2 * i], x[2 * i + 1]);
    for (int i = 0; i < 2; i++) x[i] = folded2(x[2 * i], x[2 * i + 1]);
    return folded1(x[0], x[1]);
}

// The next `LANES` columns of keys or values as vectors of floats, zeros behind the last.
template <int SPANS, class T>
inline void unpack(const T* x, int64_t columns, floats* block) {
    int64_t spans = (columns < LANES ? columns : LANES) * SPANS;
    for (int64_t i = 0; i < LANES * SPANS; i++) {
        Span some = i < spans ? whole(x + i * SPAN) : Span{};
        block[2 * i] = some.one, block[2 * i + 1] = some.other;
    }
}

// Scores to what they weigh, not yet divided by their sum, which is returned. Columns behind the first `seen`, and
// those that the bias hides, weigh nothing at all.
inline float weighed(float* scores, const float* bias, int64_t seen, int64_t room) {
    if (bias)
        for (int64_t column = 0; column < seen; column++)
            scores[column] = bias[column] < -1e30f ? -INFINITY : scores[column] + bias[column];
    for (int64_t column = seen; column < room; column++) scores[column] = -INFINITY;
    floats some, top = floats{} - INFINITY, total = {};
    for (int64_t at = 0; at < room; at += LANES) {
        std::memcpy(&some, scores + at, sizeof some);
        top = some > top ? some : top;
    }
    float highest = top[0];
    for (int64_t lane = 1; lane < LANES; lane++) highest = top[lane] > highest ? top[lane] : highest;
    for (int64_t at = 0; at < room; at += LANES) {
        std::memcpy(&some, scores + at, sizeof some);
        some = some == -INFINITY ? floats{} : exponential(some - highest);
        std::memcpy(scores + at, &some, sizeof some);
        total += some;
    }
    return sum(total);
}

// All rows that share one key-value head: of every query head in the group, the tokens one after the other. Token t
// sees of the first `columns` + t columns those that its row of the bias, if there is one, lets it. `scratch` has room,
// for every row, for twice the width, the last token's columns, and a vector more.
template <int SPANS, class T>
void attend_group(const T* queries, const T* keys, const T* values, const float* bias, int64_t biases, int64_t columns,
                  int64_t tokens, int64_t rows, float scale, float* scratch, T* out, int64_t apart) {
    constexpr int64_t width = SPANS * SPAN;
    constexpr int VECTORS = 2 * SPANS;
    int64_t most = columns + tokens - 1, room = (most + LANES - 1) / LANES * LANES;
    floats block[LANES * VECTORS], some[VECTORS];
    float *asked = scratch, *mixed = asked + rows * width;
    float *scores = mixed + rows * width, *totals = scores + rows * room;
    for (int64_t i = 0; i < rows * SPANS; i++) put_whole(whole(queries + i * SPAN) * scale, asked + i * SPAN);
    for (int64_t at = 0; at < most; at += LANES) {
        unpack<SPANS>(keys + at * width, most - at, block);
        for (int64_t row = 0; row < rows; row++) {
            floats found[LANES];
            std::memcpy(some, asked + row * width, sizeof some);
            for (int c = 0; c < LANES; c++) {
                found[c] = some[0] * block[c * VECTORS];
                for (int v = 1; v < VECTORS; v++) found[c] += some[v] * block[c * VECTORS + v];
            }
            floats all = sums(found);
            std::memcpy(scores + row * room + at, &all, sizeof all);
        }
    }
    for (int64_t row = 0; row < rows; row++) {
        int64_t token = row % tokens;
        totals[row] = weighed(scores + row * room, bias ? bias + token * biases : bias, columns + token, room);
    }
    std::memset(mixed, 0, rows * width * sizeof(float));
    for (int64_t at = 0; at < most; at += LANES) {
        unpack<SPANS>(values + at * width, most - at, block);
        for (int64_t row = 0; row < rows; row++) {
            const float* score = scores + row * room + at;
            std::memcpy(some, mixed + row * width, sizeof some);
            for (int c = 0; c < LANES; c++)
                for (int v = 0; v < VECTORS; v++) some[v] += block[c * VECTORS + v] * score[c];
            std::memcpy(mixed + row * width, some, sizeof some);
        }
    }
    for (int64_t row = 0; row < rows; row++) {
        T* to = out + row % tokens * apart + row / tokens * width;
        for (int s = 0; s < SPANS; s++) put_whole(whole(mixed + row * width + s * SPAN) / totals[row], to + s * SPAN);
    }
}

template <class T>
void attend(const T* queries, const T* keys, const T* values, const float* bias, int64_t biases, int64_t stride,
            int64_t columns, int64_t tokens, int64_t heads, int64_t kv_heads, int64_t width, float scale,
            float* scratch, T* out) {
    auto of_width = width == SPAN       ? attend_group<1, T>
                    : width == 2 * SPAN ? attend_group<2, T>
                    : width == 3 * SPAN ? attend_group<3, T>
                                        : attend_group<4, T>;
    int64_t group = heads / kv_heads, rows = group * tokens;
    for (int64_t head = 0; head < kv_heads; head++) {
        const T* first = queries + head * rows * width;
        of_width(first, keys + head * stride, values + head * stride, bias, biases, columns, tokens, rows, scale,
                 scratch, out + head * group * width, heads * width);
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
    extern "C" void attend_##NAME(const T* queries, const T* keys, const T* values, const float* bias,                \
                                  int64_t biases, int64_t stride, int64_t columns, int64_t tokens, int64_t heads,     \
                                  int64_t kv_heads, int64_t width, float scale, float* scratch, T* out) {             \
        attend(queries, keys, values, bias, biases, stride, columns, tokens, heads, kv_heads, width, scale, scratch,  \
               out);                                                                                                  \
    }

KERNELS(float, float32)
KERNELS(bfloat16, bfloat16)
