// Matrices times a few rows, at the speed at which the matrix comes from memory.
#pragma once
#include "tiles.h"
#include "vectors.h"
#include "whole_numbers.h"

#ifdef HAS_PASSES

namespace {

// What products of one input multiply with, made ready for their kind.
template <class T>
struct Input {
    // One of these is.
    const uint32_t* packed = nullptr;
    char* rounded = nullptr;
    const float* states = nullptr;
    int64_t tokens;

    // Bytes of memory that `Input` needs for so many inputs, one for all members and one for each.
    static int64_t shared_bytes(int64_t ins) { return MOST * ins * int64_t(sizeof(T)); }
    static int64_t own_bytes(int64_t ins) { return MOST * ins * int64_t(sizeof(float)); }

    // All have met since x was written.
    Input(Kind kind, const T* x, int64_t ins, int64_t tokens, [[maybe_unused]] char* shared, char* own,
          [[maybe_unused]] const Team& team)
        : tokens(tokens) {
        // Where everybody makes all of it for himself, that takes less than to meet.
        if (kind != PLAIN) {
            for (int64_t token = 0; token < tokens; token++) Rounded(own, ins, token).fill(x + token * ins, ins);
            rounded = own;
        } else if (!by_tiles<T>()) {
            states = as_floats(x, ins, tokens, reinterpret_cast<float*>(own));
        } else if (tokens == 1) {
            packed = reinterpret_cast<const uint32_t*>(x);
        } else {
#ifdef HAS_TILES
            pack(reinterpret_cast<const bfloat16*>(x), ins, tokens, reinterpret_cast<uint32_t*>(shared), team);
            team.wait();
            packed = reinterpret_cast<const uint32_t*>(shared);
#endif
        }
    }

    // Outputs from block `from` of 16 to block `to`.
    void multiply(const Product& product, int64_t from, int64_t to, T* out) const {
        if (states) return multiply_vectors(product, states, tokens, from, to, out);
        if (rounded) return multiply_whole(product, rounded, tokens, from, to, out);
#ifdef HAS_TILES
        multiply_tiles(product, packed, tokens, from, to, reinterpret_cast<bfloat16*>(out));
#endif
    }

    // This member's share of the outputs.
    void multiply(const Product& product, T* out, const Team& team) const {
        int64_t blocks = product.outs / OUTS;
        multiply(product, team.first(blocks), team.last(blocks), out);
    }
};

}  // namespace

#endif
