// Attention of a few tokens over a cache in bfloat16, by the processor's tiles: keys as they lie in memory times up to 16
// query rows, and what these weigh times values.
#pragma once
#include "attention.h"
#include "products.h"

#ifdef HAS_PRODUCTS

namespace {

// Columns that are computed at once. Caches have whole numbers of them.
constexpr int64_t COLUMNS = 32;

// What one unit of the processor writes another reads late: so much is written before any of it is read.
constexpr int64_t BATCH = 4;

inline int64_t whole_columns(int64_t columns) { return (columns + COLUMNS - 1) / COLUMNS * COLUMNS; }

// Up to 16 query rows that share keys and values; more are computed 16 by 16.
class TileRows {
  public:
    static int64_t bytes(int64_t width, int64_t columns) {
        int64_t words = TILE * width / 2 + TILE, room = whole_columns(columns);
        return words * 4 + TILE * room * int64_t(sizeof(float) + sizeof(bfloat16));
    }

    TileRows(const Attention<bfloat16>& all, char* memory) : all(all), most(all.columns + all.tokens - 1) {
        room = whole_columns(most);
        asked = reinterpret_cast<uint32_t*>(memory);
        totals = reinterpret_cast<float*>(asked + TILE * all.width / 2);
        scores = totals + TILE;
        weights = reinterpret_cast<bfloat16*>(scores + TILE * room);
    }

    // Rows from `first` on of those of query heads that follow `head`, one head's tokens after the other.
    void run(int64_t head, int64_t first, int64_t rows, const bfloat16* keys, const bfloat16* values, bfloat16* out) {
        const bfloat16* queries = all.queries + (head * all.tokens + first) * all.width;
        for (int64_t pair = 0; pair < all.width / 2; pair++)
            for (int64_t row = 0; row < rows; row++)
                std::memcpy(asked + pair * TILE + row, queries + row * all.width + 2 * pair, sizeof(uint32_t));
        for (int64_t at = 0; at < room; at += BATCH * COLUMNS) score(keys, at, rows);
        for (int64_t row = 0; row < rows; row++) {
            int64_t token = (first + row) % all.tokens;
            float* mine = scores + row * room;
            totals[row] = weighed(mine, all.bias ? all.bias + token * all.biases : nullptr, all.columns + token, room);
            // As tiles read them: all rows' columns of a tile, then the next.
            for (int64_t at = 0; at < room; at += LANES)
                put16(float_from(mine + at), weights + at / COLUMNS * COLUMNS * TILE + row * COLUMNS + at % COLUMNS);
        }
        for (int64_t from = 0; from < all.width; from += 4 * TILE) mix(values, head, first, rows, from, out);
    }

  private:
    const Attention<bfloat16>& all;
    int64_t most, room;
    uint32_t* asked;
    float *totals, *scores;
    bfloat16* weights;

    static floats float_from(const float* x) {
        floats out;
        std::memcpy(&out, x, sizeof out);
        return out;
    }

    void score(const bfloat16* keys, int64_t from, int64_t rows) {
        alignas(64) float found[2 * BATCH][TILE * TILE];
        const int64_t apart = 2 * all.width, end = from + BATCH * COLUMNS < room ? from + BATCH * COLUMNS : room;
        for (int64_t at = from; at < end; at += 2 * COLUMNS) {
            const bfloat16* one = keys + at * all.width;
            // Of an odd block the last is computed twice.
            const int64_t more = at + COLUMNS < end ? COLUMNS * all.width : 0;
            ask_for(reinterpret_cast<const uint8_t*>(one + BATCH * COLUMNS * all.width), 2 * COLUMNS * apart);
            ZERO_TILE(0);
            ZERO_TILE(1);
            ZERO_TILE(2);
            ZERO_TILE(3);
            for (int64_t in = 0; in < all.width; in += GROUP) {
                LOAD_TILE(7, asked + in / 2 * TILE, 64);
                LOAD_TILE(4, one + in, apart);
                LOAD_TILE(5, one + TILE * all.width + in, apart);
                LOAD_TILE(6, one + more + in, apart);
                MULTIPLY_TILES(0, 4, 7);
                LOAD_TILE(4, one + more + TILE * all.width + in, apart);
                MULTIPLY_TILES(1, 5, 7);
                MULTIPLY_TILES(2, 6, 7);
                MULTIPLY_TILES(3, 4, 7);
            }
            auto to = found[(at - from) / TILE];
            STORE_TILE(0, to, 64);
            STORE_TILE(1, to + TILE * TILE, 64);
            STORE_TILE(2, to + 2 * TILE * TILE, 64);
            STORE_TILE(3, to + 3 * TILE * TILE, 64);
        }
        const __m512i column = _mm512_set_epi32(240, 224, 208, 192, 176, 160, 144, 128, 112, 96, 80, 64, 48, 32, 16, 0);
        for (int64_t at = from; at < end; at += TILE)
            for (int64_t row = 0; row < rows; row++)
                _mm512_storeu_ps(scores + row * room + at,
                                 _mm512_mul_ps(_mm512_i32gather_ps(column, found[(at - from) / TILE] + row, 4),
                                               _mm512_set1_ps(all.scale)));
    }

    // Pairs of columns side by side, as tiles read them; zeros behind the last.
    void pair_up(const bfloat16* values, int64_t at, uint32_t* to) const {
        for (int64_t column = at; column < at + COLUMNS; column += 2, to += TILE, values += 2 * all.width) {
            __m512i one = _mm512_setzero_si512(), other = one;
            if (column < most)
                one = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(values)));
            if (column + 1 < most)
                other = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(values + all.width)));
            _mm512_store_si512(to, _mm512_or_si512(one, _mm512_slli_epi32(other, 16)));
        }
    }

    // Up to four tiles' width of values, from `from` on.
    void mix(const bfloat16* values, int64_t head, int64_t first, int64_t rows, int64_t from, bfloat16* out) {
        alignas(64) uint32_t paired[BATCH * 4][COLUMNS / 2 * TILE];
        alignas(64) float found[TILE * 4 * TILE];
        const int64_t tiles = (all.width - from) / TILE < 4 ? (all.width - from) / TILE : 4;
        ZERO_TILE(0);
        ZERO_TILE(1);
        ZERO_TILE(2);
        ZERO_TILE(3);
        for (int64_t start = 0; start < room; start += BATCH * COLUMNS) {
            const int64_t end = start + BATCH * COLUMNS < room ? start + BATCH * COLUMNS : room;
            auto block = paired;
            for (int64_t at = start; at < end; at += COLUMNS, block += 4) {
                auto ahead = reinterpret_cast<const uint8_t*>(values + (at + BATCH * COLUMNS) * all.width);
                ask_for(ahead, COLUMNS * all.width * 2);
                for (int64_t tile = 0; tile < tiles; tile++)
                    pair_up(values + at * all.width + from + tile * TILE, at, block[tile]);
            }
            block = paired;
            for (int64_t at = start; at < end; at += COLUMNS, block += 4) {
                LOAD_TILE(6, weights + at * TILE, 64);
                LOAD_TILE(4, block[0], 64);
                LOAD_TILE(5, block[1], 64);
                MULTIPLY_TILES(0, 6, 4);
                MULTIPLY_TILES(1, 6, 5);
                if (tiles > 2) {
                    LOAD_TILE(4, block[2], 64);
                    LOAD_TILE(5, block[3], 64);
                    MULTIPLY_TILES(2, 6, 4);
                    MULTIPLY_TILES(3, 6, 5);
                }
            }
        }
        STORE_TILE(0, found, 256);
        STORE_TILE(1, found + TILE, 256);
        STORE_TILE(2, found + 2 * TILE, 256);
        STORE_TILE(3, found + 3 * TILE, 256);
        for (int64_t row = 0; row < rows; row++) {
            int64_t token = (first + row) % all.tokens, mine = head + (first + row) / all.tokens;
            bfloat16* to = out + (token * all.heads + mine) * all.width + from;
            for (int64_t tile = 0; tile < tiles; tile++)
                put16(float_from(found + (row * 4 + tile) * TILE) / totals[row], to + tile * TILE);
        }
    }
};

// Query heads from `from` to `to`. In this thread tiles have their full size.
inline void attend_tiles(const Attention<bfloat16>& all, int64_t from, int64_t to, char* memory, bfloat16* out) {
    TileRows rows(all, memory);
    int64_t group = all.heads / all.kv_heads;
    while (from < to) {
        int64_t kv_head = from / group, end = (kv_head + 1) * group < to ? (kv_head + 1) * group : to;
        int64_t count = (end - from) * all.tokens;
        for (int64_t first = 0; first < count; first += TILE)
            rows.run(from, first, count - first < TILE ? count - first : TILE, all.keys + kv_head * all.stride,
                     all.values + kv_head * all.stride, out);
        from = end;
    }
}

}  // namespace

#endif
