// Matrices times a few rows in vectors of floats, on any processor: a matrix as it lies in memory, 4 of its rows at a time
// with all that fits into registers. A token's sums do not depend on the others'.
#pragma once
#include "attention.h"
#include "product.h"

#ifdef HAS_PASSES

namespace {

// Rows of a matrix and tokens whose sums are in registers at once.
#ifdef __AVX512F__
constexpr int64_t ROWS = 4, TOKENS = 4;
#else
constexpr int64_t ROWS = 4, TOKENS = 1;
#endif
// Bytes ahead of what is read that are asked for.
constexpr int64_t DISTANCE = 16384;

// Sums of some rows of a matrix times the states of some tokens, [tokens][ins], not yet over the lanes: [tokens][OUTS].
// Those who are the FIRST to read the rows ask for the next ones.
template <int COUNT, bool FIRST, class T>
inline void multiply_rows(const T* weight, const float* states, int64_t ins, floats* sums) {
    floats found[COUNT][ROWS] = {};
    auto ahead = reinterpret_cast<const char*>(weight) + DISTANCE;
    for (int64_t in = 0; in < ins; in += SPAN) {
        if (FIRST) ask_for(ahead, ROWS * SPAN * int64_t(sizeof(T)));
        ahead += ROWS * SPAN * sizeof(T);
        floats one[COUNT], other[COUNT];
        // Unrolled, for all of this to be in registers.
#pragma GCC unroll 8
        for (int token = 0; token < COUNT; token++) {
            one[token] = load16(states + token * ins + in);
            other[token] = load16(states + token * ins + in + LANES);
        }
#pragma GCC unroll 8
        for (int row = 0; row < ROWS; row++) {
            Span w = whole(weight + row * ins + in);
#pragma GCC unroll 8
            for (int token = 0; token < COUNT; token++) found[token][row] += w.one * one[token];
#pragma GCC unroll 8
            for (int token = 0; token < COUNT; token++) found[token][row] += w.other * other[token];
        }
    }
    for (int token = 0; token < COUNT; token++)
        for (int row = 0; row < ROWS; row++) sums[token * OUTS + row] = found[token][row];
}

// 16 outputs of some tokens.
template <int COUNT, bool FIRST, class T>
inline void multiply_block(const Product& product, const float* states, int64_t block, T* out) {
    floats found[COUNT][OUTS];
    auto weight = static_cast<const T*>(product.weight) + block * OUTS * product.ins;
    for (int64_t row = 0; row < OUTS; row += ROWS)
        multiply_rows<COUNT, FIRST>(weight + row * product.ins, states, product.ins, found[0] + row);
    for (int token = 0; token < COUNT; token++)
        finish(sums(found[token]), product, block * OUTS, out + token * product.outs);
}

// 16 outputs of the next of so many tokens; returns how many these were.
template <bool FIRST, class T>
inline int64_t next(const Product& product, const float* states, int64_t tokens, int64_t block, T* out) {
    if (tokens >= TOKENS) return multiply_block<TOKENS, FIRST>(product, states, block, out), TOKENS;
    if (tokens >= 2 && TOKENS > 2) return multiply_block<2, FIRST>(product, states, block, out), 2;
    return multiply_block<1, FIRST>(product, states, block, out), 1;
}

// Outputs from block `from` of 16 to block `to`, of states as floats.
template <class T>
inline void multiply_vectors(const Product& product, const float* states, int64_t tokens, int64_t from, int64_t to,
                             T* out) {
    for (int64_t block = from; block < to; block++) {
        int64_t token = next<true>(product, states, tokens, block, out);
        while (token < tokens)
            token += next<false>(product, states + token * product.ins, tokens - token, block, out + token * product.outs);
    }
}

// States as floats, in the order in which spans have them.
inline const float* as_floats(const float* x, int64_t, float*) { return x; }

inline const float* as_floats(const bfloat16* x, int64_t count, float* to) {
    for (int64_t i = 0; i < count; i += SPAN) put_whole(whole(x + i), to + i);
    return to;
}

}  // namespace

#endif
