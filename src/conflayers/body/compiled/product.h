// A matrix that states are multiplied with, and what this processor has for it.
#pragma once
#include "spans.h"
#include "team.h"

// Whole passes are for processors that multiply and add vectors of floats in one instruction.
#if defined(__linux__) && defined(__AVX2__) && defined(__FMA__)
#define HAS_PASSES 1
#endif
#if defined(HAS_PASSES) && defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__AVX512BW__)
#define HAS_TILES 1
#endif
#ifdef HAS_PASSES
#include <immintrin.h>
#endif

namespace {

// What a matrix is made of: numbers such as states are, or whole ones.
enum Kind : int64_t { PLAIN = 0, INT8 = 1, INT4 = 2 };

// Outputs and inputs that are computed at once, and inputs that share a scale.
constexpr int64_t OUTS = 16, GROUP = 32;
// Tokens that one pass has room for.
constexpr int64_t MOST = 32;

struct Product {
    Kind kind;
    // PLAIN: [outs][ins]. Else of every 16 outs every group of inputs, 4 inputs of one out after the other in the lanes
    // of vectors; INT8: plus 128; INT4: the first half of a group in the lower bits.
    const void* weight;
    // INT8: of every out, float. INT4: of every 16 outs every group: bfloat16 scale and lowest value of each.
    const void* scales;
    // Such numbers as states are, or null.
    const void* bias;
    int64_t outs, ins;
};

// 16 outputs of one token.
template <class T>
inline void finish(floats x, const Product& product, int64_t out, T* to) {
    if (product.bias) x += load16(static_cast<const T*>(product.bias) + out);
    put16(x, to + out);
}

}  // namespace
