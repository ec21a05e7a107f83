// Tiles of a processor that has none, as the manual has them: in place of compiled/tile_instructions.h.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#define LOAD_TILE(TO, FROM, APART) emulated.load(TO, FROM, APART)
#define STORE_TILE(FROM, TO, APART) emulated.store(FROM, TO, APART)
#define ZERO_TILE(TO) emulated.zero(TO)
#define MULTIPLY_TILES(TO, LEFT, RIGHT) emulated.multiply(TO, LEFT, RIGHT)
#define STORE_TILE_SIZES(TO) emulated.store_sizes(TO)
#define LOAD_TILE_SIZES(FROM) emulated.load_sizes(FROM)
#define RELEASE_TILES() emulated.release()

namespace {

inline bool tiles_allowed() { return true; }

struct Sizes {
    uint8_t palette, start, unused[14];
    uint16_t bytes[16];
    uint8_t rows[16];
};

struct Emulated {
    alignas(64) uint8_t tile[8][16][64];
    Sizes sizes = {};

    // What the processor would stop at.
    void need(bool fine, const char* what) const {
        if (fine) return;
        std::fprintf(stderr, "emulated tiles: %s\n", what);
        std::abort();
    }
    void load_sizes(const void* from) {
        std::memcpy(&sizes, from, sizeof sizes);
        need(sizes.palette == 1, "palette");
        for (int i = 0; i < 8; i++) {
            need(sizes.rows[i] <= 16 && sizes.bytes[i] <= 64, "a tile is too large");
            need((sizes.rows[i] == 0) == (sizes.bytes[i] == 0), "a tile of rows or columns alone");
        }
        std::memset(tile, 0, sizeof tile);
    }
    void store_sizes(void* to) const { std::memcpy(to, &sizes, sizeof sizes); }
    void release() { sizes = {}, std::memset(tile, 0, sizeof tile); }

    void load(int to, const void* from, int64_t apart) {
        need(sizes.palette && sizes.rows[to], "a tile that was not asked for");
        std::memset(tile[to], 0, sizeof tile[to]);
        for (int row = 0; row < sizes.rows[to]; row++)
            std::memcpy(tile[to][row], static_cast<const char*>(from) + row * apart, sizes.bytes[to]);
    }
    void store(int from, void* to, int64_t apart) const {
        need(sizes.palette && sizes.rows[from], "a tile that was not asked for");
        for (int row = 0; row < sizes.rows[from]; row++)
            std::memcpy(static_cast<char*>(to) + row * apart, tile[from][row], sizes.bytes[from]);
    }
    void zero(int to) {
        need(sizes.palette && sizes.rows[to], "a tile that was not asked for");
        std::memset(tile[to], 0, sizeof tile[to]);
    }
    static float upper(const uint8_t* at) {
        uint16_t bits;
        std::memcpy(&bits, at, sizeof bits);
        uint32_t whole = uint32_t(bits) << 16;
        float out;
        std::memcpy(&out, &whole, sizeof out);
        return out;
    }
    void multiply(int to, int left, int right) {
        need(sizes.rows[to] == sizes.rows[left], "rows that differ");
        need(sizes.bytes[to] == sizes.bytes[right], "columns that differ");
        need(sizes.bytes[left] == 4 * sizes.rows[right], "inner sizes that differ");
        for (int row = 0; row < sizes.rows[to]; row++)
            for (int pair = 0; pair < sizes.rows[right]; pair++)
                for (int column = 0; column < sizes.bytes[to] / 4; column++) {
                    float sum;
                    std::memcpy(&sum, tile[to][row] + 4 * column, sizeof sum);
                    const uint8_t *one = tile[left][row] + 4 * pair, *other = tile[right][pair] + 4 * column;
                    sum = std::fma(upper(one), upper(other), sum);
                    sum = std::fma(upper(one + 2), upper(other + 2), sum);
                    std::memcpy(tile[to][row] + 4 * column, &sum, sizeof sum);
                }
    }
};

thread_local Emulated emulated;

}  // namespace
