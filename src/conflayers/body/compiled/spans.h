// Numbers side by side, in vectors of floats, whatever they are in memory.
//
// A row is computed by the same instructions in the same order whatever its company and wherever it lies: sums run over
// the lanes of vectors, and the compiler may fuse a product with the sum that follows but not reorder. So no sum is of two
// products: which of them is fused may differ from place to place.
#pragma once
#include "lanes.h"

#include <cmath>

namespace {

constexpr int64_t SPAN = 2 * LANES;

struct bfloat16 {
    uint16_t bits;
};

// A span of numbers side by side. Which of them is in which lane is nobody's business: it is the same in all spans of a
// type. Of numbers of 16 bits one vector has the even ones and the other the odd, which is two instructions.
struct Span {
    floats one, other;
};

ALWAYS Span operator+(Span a, Span b) { return {a.one + b.one, a.other + b.other}; }
ALWAYS Span operator*(Span a, Span b) { return {a.one * b.one, a.other * b.other}; }
ALWAYS Span operator*(Span a, float b) { return {a.one * b, a.other * b}; }
ALWAYS Span operator/(Span a, float b) { return {a.one / b, a.other / b}; }

template <class To, class From>
ALWAYS To same_bits(const From& from) {
    static_assert(sizeof(To) == sizeof(From), "");
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

ALWAYS Span whole(const float* x) { return {loaded<floats>(x), loaded<floats>(x + LANES)}; }

ALWAYS Span whole(const bfloat16* x) {
    words both = loaded<words>(x);
    return {same_bits<floats>(both << 16), same_bits<floats>(both & 0xffff0000u)};
}

ALWAYS void put_whole(Span x, float* out) { stored(x.one, out), stored(x.other, out + LANES); }

// The upper 16 bits, to the nearest, ties to even; what is no number stays none.
ALWAYS words rounded(floats x) {
    words bits = same_bits<words>(x);
    return chosen(x == x, bits + 0x7fffu + ((bits >> 16) & 1u), bits | 0x00400000u);
}

ALWAYS void put_whole(Span x, bfloat16* out) {
    words both = (rounded(x.one) >> 16) | (rounded(x.other) & 0xffff0000u);
    stored(both, out);
}

// A vector of numbers side by side, in their order.
ALWAYS floats load16(const float* x) { return loaded<floats>(x); }

ALWAYS floats load16(const bfloat16* x) { return same_bits<floats>(converted<words>(loaded<halves>(x)) << 16); }

ALWAYS void put16(floats x, float* out) { stored(x, out); }

ALWAYS void put16(floats x, bfloat16* out) { stored(converted<halves>(rounded(x) >> 16), out); }

// Whole numbers nearest to such below 2^22, ties to even.
ALWAYS ints nearest(floats x) {
    const float round = 12582912.0f;
    return converted<ints>((x + round) - round);
}

ALWAYS floats sizes(floats x) { return same_bits<floats>(same_bits<words>(x) & 0x7fffffffu); }

// How many of a size it takes.
inline int64_t pieces(int64_t number, int64_t size) { return (number + size - 1) / size; }

// Memory that is read soon is asked for.
inline void ask_for(const void* at, int64_t bytes) {
    for (int64_t byte = 0; byte < bytes; byte += 64) __builtin_prefetch(static_cast<const char*>(at) + byte, 0, 2);
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

// A quarter of one.
typedef float quarter __attribute__((vector_size(LANES)));

inline float sum(floats x) {
    quarter parts[4];
    stored(x, parts);
    quarter all = (parts[0] + parts[1]) + (parts[2] + parts[3]);
    return (all[0] + all[1]) + (all[2] + all[3]);
}

ALWAYS floats higher(floats a, floats b) { return chosen(b > a, b, a); }

inline float highest(floats x) {
    quarter parts[4];
    stored(x, parts);
    for (int i = 1; i < 4; i++) parts[0] = parts[i] > parts[0] ? parts[i] : parts[0];
    float most = parts[0][0];
    for (int i = 1; i < 4; i++) most = parts[0][i] > most ? parts[0][i] : most;
    return most;
}

inline float sum(Span x) { return sum(x.one + x.other); }

// e to the x of at most 88, after Cephes.
ALWAYS floats exponential(floats x) {
    x = chosen(x < -87.0f, floats{} - 87.0f, x);
    const float round = 12582912.0f;
    floats n = (x * 1.44269504088896341f + round) - round;
    floats r = x - n * 0.693359375f + n * 2.12194440e-4f;
    floats p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return p * same_bits<floats>((converted<ints>(n) + 127) << 23);
}

ALWAYS floats silu(floats x) {
    floats against = chosen(x < -87.0f, floats{} + 87.0f, -x);
    return x / (1.0f + exponential(against));
}

}  // namespace
