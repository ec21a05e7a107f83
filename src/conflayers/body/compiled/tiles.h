// Matrices in bfloat16 times a few rows by the processor's tiles (AMX): 16 rows of the matrix as it lies in memory, 32
// columns at a time, times as many columns of states as there are tokens. A token's sums do not depend on the others'.
#pragma once
#include "product.h"

#include <type_traits>

// Tests have them computed, where the processor has none.
#ifdef HAS_TILES
#ifndef TILE_INSTRUCTIONS
#define TILE_INSTRUCTIONS "tile_instructions.h"
#endif
#include TILE_INSTRUCTIONS
#endif

namespace {

// Tokens of one tile.
constexpr int64_t TILE = 16;

#ifdef HAS_TILES

// Whether states of this type are multiplied by tiles here.
template <class T>
bool by_tiles() {
    return std::is_same<T, bfloat16>::value && tiles_allowed();
}

// Tiles for so many tokens, in this thread, as long as this lives. Others, torch among them, find theirs as they were.
class Tiles {
  public:
    Tiles(int64_t tokens, bool used) : used(used) {
        if (!used) return;
        STORE_TILE_SIZES(&before);
        Config wanted = {};
        wanted.palette = 1;
        for (int tile = 0; tile < 8; tile++) wanted.rows[tile] = 16, wanted.bytes[tile] = 64;
        int64_t first = tokens < TILE ? tokens : TILE, second = tokens - first;
        wanted.bytes[0] = wanted.bytes[1] = wanted.bytes[4] = uint16_t(4 * first);
        if (second) wanted.bytes[2] = wanted.bytes[3] = wanted.bytes[5] = uint16_t(4 * second);
        load(&wanted);
    }
    ~Tiles() {
        if (!used) return;
        if (before.palette)
            load(&before);
        else
            RELEASE_TILES();
    }
    Tiles(const Tiles&) = delete;

  private:
    const bool used;
    struct alignas(64) Config {
        uint8_t palette, start, unused[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } before;

    static void load(const Config* config) { LOAD_TILE_SIZES(config); }
};

// States as tiles read them: pairs of inputs of all tokens of a tile side by side. One token's are so already.
inline void pack(const bfloat16* x, int64_t ins, int64_t tokens, uint32_t* to, const Team& team) {
    for (int64_t tile = 0; tile < tokens; tile += TILE) {
        int64_t some = tokens - tile < TILE ? tokens - tile : TILE;
        const bfloat16* from = x + tile * ins;
        uint32_t* at = to + tile * ins / 2;
        team.share(ins / 2, [&](int64_t pair) {
            for (int64_t token = 0; token < some; token++)
                std::memcpy(at + pair * some + token, from + token * ins + 2 * pair, sizeof(uint32_t));
        });
    }
}

// What two tiles found for `tokens` tokens, [2][16 outs][tokens].
inline void finish_tiles(const float (*found)[OUTS * TILE], const Product& product, int64_t out, int64_t outs,
                         int64_t tokens, bfloat16* to) {
    const __m512i apart = _mm512_mullo_epi32(_mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
                                             _mm512_set1_epi32(int(tokens)));
    for (int64_t half = 0; half < outs / OUTS; half++)
        for (int64_t token = 0; token < tokens; token++)
            finish(same_bits<floats>(_mm512_i32gather_ps(apart, found[half] + token, 4)), product, out + half * OUTS,
                   to + token * product.outs);
}

// Outputs from block `from` of 16 to block `to`, of packed states.
inline void multiply_tiles(const Product& product, const uint32_t* packed, int64_t tokens, int64_t from, int64_t to,
                           bfloat16* out) {
    alignas(64) float found[2][OUTS * TILE];
    const int64_t ins = product.ins, first = tokens < TILE ? tokens : TILE, second = tokens - first;
    const uint32_t* more = packed + TILE * ins / 2;
    for (int64_t block = from; block < to; block += 2) {
        // Of an odd block out the last is computed twice.
        int64_t pair = block + 1 < to ? 2 : 1;
        auto one = static_cast<const bfloat16*>(product.weight) + block * OUTS * ins;
        auto other = one + (pair - 1) * OUTS * ins;
        // The matrix is asked for in the order in which it lies in memory, before it is needed.
        auto ahead = reinterpret_cast<const char*>(one + 2 * OUTS * ins);
        ZERO_TILE(0);
        ZERO_TILE(1);
        if (second) {
            ZERO_TILE(2);
            ZERO_TILE(3);
        }
        for (int64_t in = 0; in < ins; in += GROUP) {
            for (int line = 0; line < 32; line++) _mm_prefetch(ahead + line * 64, _MM_HINT_T1);
            ahead += 32 * 64;
            LOAD_TILE(6, one + in, 2 * ins);
            LOAD_TILE(7, other + in, 2 * ins);
            LOAD_TILE(4, packed + in / 2 * first, 4 * first);
            MULTIPLY_TILES(0, 6, 4);
            MULTIPLY_TILES(1, 7, 4);
            if (second) {
                LOAD_TILE(5, more + in / 2 * second, 4 * second);
                MULTIPLY_TILES(2, 6, 5);
                MULTIPLY_TILES(3, 7, 5);
            }
        }
        STORE_TILE(0, found[0], 4 * first);
        STORE_TILE(1, found[1], 4 * first);
        finish_tiles(found, product, block * OUTS, pair * OUTS, first, out);
        if (second) {
            STORE_TILE(2, found[0], 4 * second);
            STORE_TILE(3, found[1], 4 * second);
            finish_tiles(found, product, block * OUTS, pair * OUTS, second, out + TILE * product.outs);
        }
    }
}

#else

template <class T>
bool by_tiles() {
    return false;
}

struct Tiles {
    Tiles(int64_t, bool) {}
};

#endif

}  // namespace
