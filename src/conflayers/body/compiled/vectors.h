// Matrices times a few rows in vectors of floats, on any processor: a matrix as it lies in memory, some of its rows at a
// time, with as many tokens as there are registers for. A token's sums do not depend on the others'.
#pragma once
#include "attention.h"
#include "product.h"

#ifdef HAS_PASSES

namespace {

// What a register holds of a vector of floats; and of how many rows of a matrix and tokens there is room for sums.
#ifdef __AVX512F__
constexpr int64_t HELD = LANES, TOKENS = 4;
#else
constexpr int64_t HELD = LANES / 2, TOKENS = 3;
#endif
constexpr int64_t ROWS = 4, PARTS = LANES / HELD;
// Bytes ahead of what is read that are asked for.
constexpr int64_t DISTANCE = 16384;

typedef float held __attribute__((vector_size(4 * HELD)));
typedef uint32_t held_bits __attribute__((vector_size(4 * HELD)));

template <class To>
inline To read(const void* from) {
    To to;
    std::memcpy(&to, from, sizeof to);
    return to;
}

// A part of a span's two vectors.
inline void read_part(const float* span, int64_t part, held& one, held& other) {
    one = read<held>(span + part * HELD), other = read<held>(span + LANES + part * HELD);
}

inline void read_part(const bfloat16* span, int64_t part, held& one, held& other) {
    held_bits both = read<held_bits>(span + 2 * part * HELD);
    one = same_bits<held>(both << 16), other = same_bits<held>(both & 0xffff0000u);
}

// A part of the sums of some rows of a matrix times the states of some tokens, [tokens][ins], not yet over the lanes:
// [tokens][OUTS]. Those who are the FIRST to read the rows ask for the next ones.
template <int COUNT, bool FIRST, class T>
inline void multiply_rows(const T* weight, const float* states, int64_t ins, int64_t part, floats* sums) {
    held found[COUNT][ROWS] = {};
    auto ahead = reinterpret_cast<const char*>(weight) + DISTANCE;
    for (int64_t in = 0; in < ins; in += SPAN) {
        if (FIRST) ask_for(ahead, ROWS * SPAN * int64_t(sizeof(T)));
        ahead += ROWS * SPAN * sizeof(T);
        held one[COUNT], other[COUNT], left, right;
        // Unrolled, for all of this to be in registers.
#pragma GCC unroll 8
        for (int token = 0; token < COUNT; token++) read_part(states + token * ins + in, part, one[token], other[token]);
#pragma GCC unroll 8
        for (int row = 0; row < ROWS; row++) {
            read_part(weight + row * ins + in, part, left, right);
#pragma GCC unroll 8
            for (int token = 0; token < COUNT; token++) found[token][row] += left * one[token];
#pragma GCC unroll 8
            for (int token = 0; token < COUNT; token++) found[token][row] += right * other[token];
        }
    }
    for (int token = 0; token < COUNT; token++)
        for (int row = 0; row < ROWS; row++)
            std::memcpy(reinterpret_cast<held*>(sums + token * OUTS + row) + part, &found[token][row], sizeof(held));
}

// 16 outputs of some tokens.
template <int COUNT, bool FIRST, class T>
inline void multiply_block(const Product& product, const float* states, int64_t block, T* out) {
    floats found[COUNT][OUTS];
    auto weight = static_cast<const T*>(product.weight) + block * OUTS * product.ins;
    for (int64_t row = 0; row < OUTS; row += ROWS) {
        const T* rows = weight + row * product.ins;
        multiply_rows<COUNT, FIRST>(rows, states, product.ins, 0, found[0] + row);
        if (PARTS > 1) multiply_rows<COUNT, false>(rows, states, product.ins, 1, found[0] + row);
    }
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
