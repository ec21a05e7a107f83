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

#ifdef LONG_REGISTERS

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

typedef Vector<int32_t>::held held_ints;

#ifdef __AVX__

inline held folded4(held a, held b) {
    return PICKED(held_ints, a, b, 0, 1, 2, 3, 8, 9, 10, 11) + PICKED(held_ints, a, b, 4, 5, 6, 7, 12, 13, 14, 15);
}

inline held folded2(held a, held b) {
    return PICKED(held_ints, a, b, 0, 1, 8, 9, 4, 5, 12, 13) + PICKED(held_ints, a, b, 2, 3, 10, 11, 6, 7, 14, 15);
}

inline held folded1(held a, held b) {
    return PICKED(held_ints, a, b, 0, 2, 8, 10, 4, 6, 12, 14) + PICKED(held_ints, a, b, 1, 3, 9, 11, 5, 7, 13, 15);
}

// Four vectors, their sums not yet over the last four lanes.
inline floats folded(const floats* x) {
    held some[4];
    for (int i = 0; i < 4; i++) some[i] = x[i].part[0] + x[i].part[1];
    return floats{{folded4(some[0], some[2]), folded4(some[1], some[3])}};
}

// The sums of 16 vectors, in their order, of what four times four are folded to.
inline floats joined(const floats* x) {
    held some[4];
    for (int i = 0; i < 4; i++) some[i] = folded2(x[i].part[0], x[i].part[1]);
    // Of eight sums the last two of both fours have changed places.
    held low = folded1(some[0], some[1]), high = folded1(some[2], some[3]);
    return floats{{PICKED(held_ints, low, low, 0, 1, 4, 5, 2, 3, 6, 7),
                   PICKED(held_ints, high, high, 0, 1, 4, 5, 2, 3, 6, 7)}};
}

#else

inline held folded2(held a, held b) { return PICKED(held_ints, a, b, 0, 1, 4, 5) + PICKED(held_ints, a, b, 2, 3, 6, 7); }

inline held folded1(held a, held b) { return PICKED(held_ints, a, b, 0, 2, 4, 6) + PICKED(held_ints, a, b, 1, 3, 5, 7); }

// Four vectors, their sums not yet over the last four lanes.
inline floats folded(const floats* x) {
    floats out;
    for (int i = 0; i < 4; i++) out.part[i] = (x[i].part[0] + x[i].part[2]) + (x[i].part[1] + x[i].part[3]);
    return out;
}

// The sums of 16 vectors, in their order, of what four times four are folded to.
inline floats joined(const floats* x) {
    floats out;
    for (int i = 0; i < 4; i++)
        out.part[i] = folded1(folded2(x[i].part[0], x[i].part[1]), folded2(x[i].part[2], x[i].part[3]));
    return out;
}

#endif

#endif

}  // namespace
