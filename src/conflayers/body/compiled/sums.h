// The sums of vectors, each over its lanes, as the lanes of one vector: in two steps, of four of them and of four such
// fours. The order in which lanes are added is the same on all processors.
#pragma once
#include "spans.h"

namespace {

// Of the lanes of two vectors side by side, those with the numbers given. No name is known to all compilers.
#ifdef __clang__
#define PICKED(KIND, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define PICKED(KIND, a, b, ...) __builtin_shuffle(a, b, KIND{__VA_ARGS__})
#endif

#ifdef __AVX512F__

// Lanes of a and b whose number lacks the bit plus those that have it; a's where it is lacking, b's elsewhere. What
// stays in its lane costs less than what moves.
inline floats folded8(floats a, floats b) {
    return PICKED(ints, a, b, 0, 1, 2, 3, 4, 5, 6, 7, 24, 25, 26, 27, 28, 29, 30, 31) +
           PICKED(ints, a, b, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23);
}

inline floats folded4(floats a, floats b) {
    return PICKED(ints, a, b, 0, 1, 2, 3, 20, 21, 22, 23, 8, 9, 10, 11, 28, 29, 30, 31) +
           PICKED(ints, a, b, 4, 5, 6, 7, 16, 17, 18, 19, 12, 13, 14, 15, 24, 25, 26, 27);
}

inline floats folded2(floats a, floats b) {
    return PICKED(ints, a, b, 0, 1, 18, 19, 4, 5, 22, 23, 8, 9, 26, 27, 12, 13, 30, 31) +
           PICKED(ints, a, b, 2, 3, 16, 17, 6, 7, 20, 21, 10, 11, 24, 25, 14, 15, 28, 29);
}

inline floats folded1(floats a, floats b) {
    return PICKED(ints, a, b, 0, 17, 2, 19, 4, 21, 6, 23, 8, 25, 10, 27, 12, 29, 14, 31) +
           PICKED(ints, a, b, 1, 16, 3, 18, 5, 20, 7, 22, 9, 24, 11, 26, 13, 28, 15, 30);
}

// Four vectors, their sums not yet over the last four lanes.
inline floats folded(const floats* x) { return folded4(folded8(x[0], x[1]), folded8(x[2], x[3])); }

// The sums of 16 vectors, in their order, of what four times four are folded to.
inline floats joined(const floats* x) {
    floats all = folded1(folded2(x[0], x[1]), folded2(x[2], x[3]));
    return PICKED(ints, all, all, 0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15);
}

#else

// Compilers take vectors apart, lane by lane, that are longer than registers: here are halves of them.
typedef float half_floats __attribute__((vector_size(2 * LANES)));
typedef int32_t half_ints __attribute__((vector_size(2 * LANES)));

inline half_floats folded4(half_floats a, half_floats b) {
    return PICKED(half_ints, a, b, 0, 1, 2, 3, 8, 9, 10, 11) + PICKED(half_ints, a, b, 4, 5, 6, 7, 12, 13, 14, 15);
}

inline half_floats folded2(half_floats a, half_floats b) {
    return PICKED(half_ints, a, b, 0, 1, 4, 5, 8, 9, 12, 13) + PICKED(half_ints, a, b, 2, 3, 6, 7, 10, 11, 14, 15);
}

inline half_floats folded1(half_floats a, half_floats b) {
    return PICKED(half_ints, a, b, 0, 2, 4, 6, 8, 10, 12, 14) + PICKED(half_ints, a, b, 1, 3, 5, 7, 9, 11, 13, 15);
}

// Four vectors, their sums not yet over the last four lanes.
inline floats folded(const floats* x) {
    half_floats halves[8], some[4], out[2];
    std::memcpy(halves, x, sizeof halves);
    for (int i = 0; i < 4; i++) some[i] = halves[2 * i] + halves[2 * i + 1];
    for (int i = 0; i < 2; i++) out[i] = folded4(some[2 * i], some[2 * i + 1]);
    return same_bits<floats>(out);
}

// The sums of 16 vectors, in their order, of what four times four are folded to.
inline floats joined(const floats* x) {
    half_floats halves[8], some[4], out[2];
    std::memcpy(halves, x, sizeof halves);
    for (int i = 0; i < 4; i++) some[i] = folded2(halves[2 * i], halves[2 * i + 1]);
    for (int i = 0; i < 2; i++) out[i] = folded1(some[2 * i], some[2 * i + 1]);
    return same_bits<floats>(out);
}

#endif

// The sums of 16 vectors.
inline floats sums(const floats* x) {
    floats some[4];
    for (int i = 0; i < 4; i++) some[i] = folded(x + 4 * i);
    return joined(some);
}

}  // namespace
