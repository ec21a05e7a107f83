// The sums of 16 vectors, each over its lanes, as one vector.
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

// The lanes of a, then those of b: those whose number lacks the bit, plus those that have it.
inline floats folded8(floats a, floats b) {
    return PICKED(ints, a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
           PICKED(ints, a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
}

inline floats folded4(floats a, floats b) {
    return PICKED(ints, a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
           PICKED(ints, a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
}

inline floats folded2(floats a, floats b) {
    return PICKED(ints, a, b, 0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29) +
           PICKED(ints, a, b, 2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23, 26, 27, 30, 31);
}

inline floats folded1(floats a, floats b) {
    return PICKED(ints, a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30) +
           PICKED(ints, a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
}

inline floats sums(floats* x) {
    for (int i = 0; i < 8; i++) x[i] = folded8(x[2 * i], x[2 * i + 1]);
    for (int i = 0; i < 4; i++) x[i] = folded4(x[2 * i], x[2 * i + 1]);
    for (int i = 0; i < 2; i++) x[i] = folded2(x[2 * i], x[2 * i + 1]);
    return folded1(x[0], x[1]);
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

inline floats sums(const floats* x) {
    half_floats out[2], halves[2], some[8];
    for (int half = 0; half < 2; half++) {
        for (int i = 0; i < 8; i++) {
            std::memcpy(halves, x + 8 * half + i, sizeof halves);
            some[i] = halves[0] + halves[1];
        }
        for (int i = 0; i < 4; i++) some[i] = folded4(some[2 * i], some[2 * i + 1]);
        for (int i = 0; i < 2; i++) some[i] = folded2(some[2 * i], some[2 * i + 1]);
        out[half] = folded1(some[0], some[1]);
    }
    return same_bits<floats>(out);
}

#endif

}  // namespace
