// Matrices times a few rows in vectors of floats, on any processor: a matrix as it lies in memory, some of its rows at a
// time, with as many tokens as there are registers for. A token's sums do not depend on the others'.
#pragma once
#include "attention.h"
#include "product.h"

#ifdef HAS_PASSES

namespace {

// Of how many rows of a matrix and tokens there are registers for sums.
constexpr int64_t ROWS = 4, TOKENS = REGISTERS > 8 ? 6 : 3;
// Bytes ahead of what is read that are asked for.
constexpr int64_t DISTANCE = 16384;

// A part of a span's two vectors.
inline void read_part(const float* span, int64_t part, held& one, held& other) {
    one = read<held>(span + part * HELD), other = read<held>(span + LANES + part * HELD);
}

inline void read_part(const bfloat16* span, int64_t part, held& one, held& other) {
    typedef Vector<uint32_t>::held bits;
    bits both = read<bits>(span + 2 * part * HELD);
    one = same_bits<held>(both << 16), other = same_bits<held>(both & 0xffff0000u);
}

// What is asked for while four rows of a matrix are multiplied: what lies so many bytes behind rows `from` to `to`.
struct Ahead {
    int64_t bytes, from, to;
};

// Adds what a part of the spans' vectors gives of four rows of a matrix and the states of some tokens,
// [spans][tokens][SPAN]: of each token four vectors of which that part is written.
template <int COUNT, class T>
inline void multiply_part(const T* weight, const float* states, int64_t ins, int64_t part, Ahead ahead, floats* out) {
    held found[COUNT][ROWS] = {}, some[ROWS], other, state;
    states += part * HELD;
    for (int64_t in = 0; in < ins; in += SPAN, states += COUNT * SPAN) {
        // Unrolled, for all of this to be in registers.
#pragma GCC unroll 4
        for (int row = 0; row < ROWS; row++) {
            const T* at = weight + row * ins + in;
            if (row >= ahead.from && row < ahead.to)
                ask_for(reinterpret_cast<const char*>(at) + ahead.bytes, SPAN * int64_t(sizeof(T)));
            read_part(at, part, some[row], other);
        }
#pragma GCC unroll 6
        for (int token = 0; token < COUNT; token++) {
            state = read<held>(states + token * SPAN);
#pragma GCC unroll 4
            for (int row = 0; row < ROWS; row++) found[token][row] += some[row] * state;
        }
        // The other vector's share is read again: there are no registers for it until now.
        asm volatile("" ::: "memory");
#pragma GCC unroll 4
        for (int row = 0; row < ROWS; row++) read_part(weight + row * ins + in, part, other, some[row]);
#pragma GCC unroll 6
        for (int token = 0; token < COUNT; token++) {
            state = read<held>(states + token * SPAN + LANES);
#pragma GCC unroll 4
            for (int row = 0; row < ROWS; row++) found[token][row] += some[row] * state;
        }
    }
#pragma GCC unroll 6
    for (int token = 0; token < COUNT; token++)
#pragma GCC unroll 4
        for (int row = 0; row < ROWS; row++)
            std::memcpy(reinterpret_cast<held*>(out + token * ROWS + row) + part, &found[token][row], sizeof(held));
}

// 16 outputs of some tokens.
template <int COUNT, class T>
inline void multiply_block(const Product& product, const float* states, int64_t block, Ahead ahead, T* out) {
    constexpr int64_t FOURS = OUTS / ROWS;
    const int64_t ins = product.ins;
    auto weight = static_cast<const T*>(product.weight) + block * OUTS * ins;
    floats found[COUNT][ROWS], some[COUNT][FOURS];
    for (int64_t four = 0; four < FOURS; four++) {
        const T* rows = weight + four * ROWS * ins;
        multiply_part<COUNT>(rows, states, ins, 0, ahead, found[0]);
        if (PARTS > 1) multiply_part<COUNT>(rows, states, ins, 1, Ahead{0, 0, 0}, found[0]);
#pragma GCC unroll 6
        for (int token = 0; token < COUNT; token++) some[token][four] = folded(found[token]);
    }
    for (int token = 0; token < COUNT; token++)
        finish(joined(some[token]), product, block * OUTS, out + token * product.outs);
}

// The same of as many tokens as are there.
template <int COUNT, class T>
inline void multiply_group(int64_t tokens, const Product& product, const float* states, int64_t block, Ahead ahead,
                           T* out) {
    if constexpr (COUNT > 1)
        if (tokens < COUNT) return multiply_group<COUNT - 1>(tokens, product, states, block, ahead, out);
    multiply_block<COUNT>(product, states, block, ahead, out);
}

// Tokens in groups that are computed at once, of much the same size.
struct Groups {
    int64_t tokens, count = pieces(tokens, TOKENS);

    int64_t first(int64_t group) const { return tokens * group / count; }
    int64_t size(int64_t group) const { return first(group + 1) - first(group); }
};

// Outputs from block `from` of 16 to block `to`, of states as floats.
template <class T>
inline void multiply_vectors(const Product& product, const float* states, int64_t tokens, int64_t from, int64_t to,
                             T* out) {
    const Groups groups{tokens};
    // Each group asks for its share of the next block, so that memory is never waited for nor idle.
    const int64_t bytes = groups.count > 1 ? OUTS * product.ins * int64_t(sizeof(T)) : DISTANCE;
    for (int64_t block = from; block < to; block++)
        for (int64_t group = 0; group < groups.count; group++) {
            const int64_t token = groups.first(group);
            const Ahead ahead{bytes, ROWS * group / groups.count, ROWS * (group + 1) / groups.count};
            multiply_group<TOKENS>(groups.size(group), product, states + token * product.ins, block, ahead,
                                   out + token * product.outs);
        }
}

// States as floats, of every group [spans][tokens][SPAN], in the order in which spans have them.
template <class T>
inline const float* as_floats(const T* x, int64_t ins, int64_t tokens, float* to) {
    const Groups groups{tokens};
    for (int64_t group = 0; group < groups.count; group++) {
        const int64_t first = groups.first(group), size = groups.size(group);
        for (int64_t token = 0; token < size; token++)
            for (int64_t in = 0; in < ins; in += SPAN)
                put_whole(whole(x + (first + token) * ins + in), to + first * ins + in * size + token * SPAN);
    }
    return to;
}

}  // namespace

#endif
