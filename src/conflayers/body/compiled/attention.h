// Attention of a few tokens over a cache.
#pragma once
#include "spans.h"

namespace {

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
// those that the bias hides, weigh nothing at all. `most` becomes the highest score.
inline float weighed(float* scores, const float* bias, int64_t seen, int64_t room, float* most = nullptr) {
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
    if (most) *most = highest;
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

// What a few tokens ask of a cache.
template <class T>
struct Attention {
    const T *queries, *keys, *values;
    const float* bias;
    int64_t biases, stride, columns, tokens, heads, kv_heads, width;
    float scale;

    void run(float* scratch, T* out) const {
        auto of_width = width == SPAN       ? attend_group<1, T>
                        : width == 2 * SPAN ? attend_group<2, T>
                        : width == 3 * SPAN ? attend_group<3, T>
                                            : attend_group<4, T>;
        int64_t group = heads / kv_heads, rows = group * tokens;
        for (int64_t head = 0; head < kv_heads; head++)
            of_width(queries + head * rows * width, keys + head * stride, values + head * stride, bias, biases, columns,
                     tokens, rows, scale, scratch, out + head * group * width, heads * width);
    }
};

}  // namespace
