// Attention of a few tokens over a cache in bfloat16, by the processor's tiles: keys as they lie in memory times up to 16
// query rows, and what these weigh times values.
#pragma once
#include "attention.h"
#include "tiles.h"

#ifdef HAS_TILES

namespace {

// Columns that are computed at once. Caches have whole numbers of them.
constexpr int64_t COLUMNS = 32;

// What one unit of the processor writes another reads late: so much is written before any of it is read.
constexpr int64_t BATCH = 4;
// Columns ahead of what is read that are asked for.
constexpr int64_t FAR = 512;

static_assert(TILE == BATCH_ROWS, "rows that are computed at once are those of a tile");

// Up to 16 query rows of one key-value head, and a chunk of its columns.
class TileRows {
  public:
    static int64_t bytes(int64_t width) {
        return TILE * (width / 2 * 4 + CHUNK * int64_t(sizeof(float) + sizeof(bfloat16)));
    }

    TileRows(const Attention<bfloat16>& all, const Found& found, char* memory)
        : all(all), found(found), full(TILE, true) {
        asked = reinterpret_cast<uint32_t*>(memory);
        scores = reinterpret_cast<float*>(asked + TILE * all.width / 2);
        weights = reinterpret_cast<bfloat16*>(scores + TILE * CHUNK);
    }

    // Rows from `first` on of those of a key-value head, one query head's tokens after the other.
    void run(int64_t kv_head, int64_t first, int64_t rows, int64_t chunk) {
        const int64_t begin = chunk * CHUNK, left = all.most() - begin;
        const int64_t row_of_all = kv_head * all.sharing() + first;
        const bfloat16* queries = all.queries + row_of_all * all.width;
        const bfloat16 *keys = all.keys + kv_head * all.stride + begin * all.width,
                       *values = all.values + kv_head * all.stride + begin * all.width;
        most = left < CHUNK ? left : CHUNK, room = pieces(most, COLUMNS) * COLUMNS;
        for (int64_t pair = 0; pair < all.width / 2; pair++)
            for (int64_t row = 0; row < rows; row++)
                std::memcpy(asked + pair * TILE + row, queries + row * all.width + 2 * pair, sizeof(uint32_t));
        for (int64_t at = 0; at < room; at += BATCH * COLUMNS) score(keys, at, rows);
        for (int64_t row = 0; row < rows; row++) {
            int64_t token = (first + row) % all.tokens, seen = all.columns + token - begin;
            const float* bias = all.bias ? all.bias_of(token) + begin : nullptr;
            float *mine = scores + row * room, *to = found.at(row_of_all + row, chunk);
            to[1] = weighed(mine, bias, seen < most ? (seen > 0 ? seen : 0) : most, room, to);
            // As tiles read them: all rows' columns of a tile, then the next.
            for (int64_t at = 0; at < room; at += LANES)
                put16(load16(mine + at), weights + at / COLUMNS * COLUMNS * TILE + row * COLUMNS + at % COLUMNS);
        }
        for (int64_t from = 0; from < all.width; from += 4 * TILE) mix(values, row_of_all, rows, chunk, from);
    }

  private:
    const Attention<bfloat16>& all;
    const Found& found;
    // In each thread tiles have their full size.
    Tiles full;
    int64_t most, room;
    uint32_t* asked;
    float* scores;
    bfloat16* weights;

    void score(const bfloat16* keys, int64_t from, int64_t rows) {
        alignas(64) float columns[2 * BATCH][TILE * TILE];
        const int64_t apart = 2 * all.width, end = from + BATCH * COLUMNS < room ? from + BATCH * COLUMNS : room;
        for (int64_t at = from; at < end; at += 2 * COLUMNS) {
            const bfloat16* one = keys + at * all.width;
            // Of an odd block the last is computed twice.
            const int64_t more = at + COLUMNS < end ? COLUMNS * all.width : 0;
            ask_for(reinterpret_cast<const uint8_t*>(one + FAR * all.width), 2 * COLUMNS * apart);
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
            auto to = columns[(at - from) / TILE];
            STORE_TILE(0, to, 64);
            STORE_TILE(1, to + TILE * TILE, 64);
            STORE_TILE(2, to + 2 * TILE * TILE, 64);
            STORE_TILE(3, to + 3 * TILE * TILE, 64);
        }
        for (int64_t at = from; at < end; at += TILE)
            for (int64_t row = 0; row < rows; row += 4)
                turn_over(columns[(at - from) / TILE] + row, rows - row, scores + row * room + at);
    }

    // Of 16 columns the scores of up to four rows, which lie side by side, to rows.
    void turn_over(const float* from, int64_t rows, float* to) const {
        __m512 columns[4];
        for (int64_t i = 0; i < 4; i++) {
            columns[i] = _mm512_castps128_ps512(_mm_load_ps(from + i * TILE));
            columns[i] = _mm512_insertf32x4(columns[i], _mm_load_ps(from + (i + 4) * TILE), 1);
            columns[i] = _mm512_insertf32x4(columns[i], _mm_load_ps(from + (i + 8) * TILE), 2);
            columns[i] = _mm512_insertf32x4(columns[i], _mm_load_ps(from + (i + 12) * TILE), 3);
        }
        const __m512 scale = _mm512_set1_ps(all.scale);
        __m512 low = _mm512_unpacklo_ps(columns[0], columns[1]), high = _mm512_unpacklo_ps(columns[2], columns[3]);
        _mm512_storeu_ps(to, _mm512_mul_ps(_mm512_shuffle_ps(low, high, 0x44), scale));
        if (rows > 1) _mm512_storeu_ps(to + room, _mm512_mul_ps(_mm512_shuffle_ps(low, high, 0xee), scale));
        if (rows < 3) return;
        low = _mm512_unpackhi_ps(columns[0], columns[1]), high = _mm512_unpackhi_ps(columns[2], columns[3]);
        _mm512_storeu_ps(to + 2 * room, _mm512_mul_ps(_mm512_shuffle_ps(low, high, 0x44), scale));
        if (rows > 3) _mm512_storeu_ps(to + 3 * room, _mm512_mul_ps(_mm512_shuffle_ps(low, high, 0xee), scale));
    }

    // Of two tiles' width of values pairs of columns side by side, as tiles read them; zeros behind the last.
    void pair_up(const bfloat16* values, int64_t at, uint32_t (*to)[COLUMNS / 2 * TILE]) const {
        const __m512i first = _mm512_loadu_si512(PAIRED[0]), second = _mm512_loadu_si512(PAIRED[1]);
        for (int64_t pair = 0; pair < COLUMNS / 2; pair++, values += 2 * all.width) {
            __m512i one = _mm512_setzero_si512(), other = one;
            if (at + 2 * pair < most) one = _mm512_loadu_si512(values);
            if (at + 2 * pair + 1 < most) other = _mm512_loadu_si512(values + all.width);
            _mm512_store_si512(to[0] + pair * TILE, _mm512_permutex2var_epi16(one, first, other));
            _mm512_store_si512(to[1] + pair * TILE, _mm512_permutex2var_epi16(one, second, other));
        }
    }

    // Which numbers of two rows come after each other: 0, 32, 1, 33 and so on.
    static constexpr uint16_t PAIRED[2][COLUMNS] = {
        {0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
         8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47},
        {16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21, 53, 22, 54, 23, 55,
         24, 56, 25, 57, 26, 58, 27, 59, 28, 60, 29, 61, 30, 62, 31, 63},
    };

    // Up to four tiles' width of values, from `from` on.
    void mix(const bfloat16* values, int64_t row_of_all, int64_t rows, int64_t chunk, int64_t from) {
        alignas(64) uint32_t paired[BATCH * 4][COLUMNS / 2 * TILE];
        alignas(64) float mixed[TILE * 4 * TILE];
        // As spans have them.
        const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
        const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
        const int64_t tiles = (all.width - from) / TILE < 4 ? (all.width - from) / TILE : 4;
        ZERO_TILE(0);
        ZERO_TILE(1);
        ZERO_TILE(2);
        ZERO_TILE(3);
        for (int64_t start = 0; start < room; start += BATCH * COLUMNS) {
            const int64_t end = start + BATCH * COLUMNS < room ? start + BATCH * COLUMNS : room;
            auto block = paired;
            for (int64_t at = start; at < end; at += COLUMNS, block += 4) {
                auto ahead = reinterpret_cast<const uint8_t*>(values + (at + FAR) * all.width);
                ask_for(ahead, COLUMNS * all.width * 2);
                for (int64_t tile = 0; tile < tiles; tile += 2)
                    pair_up(values + at * all.width + from + tile * TILE, at, block + tile);
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
        STORE_TILE(0, mixed, 256);
        STORE_TILE(1, mixed + TILE, 256);
        STORE_TILE(2, mixed + 2 * TILE, 256);
        STORE_TILE(3, mixed + 3 * TILE, 256);
        for (int64_t row = 0; row < rows; row++)
            for (int64_t at = 0; at < tiles * TILE; at += SPAN) {
                const __m512 low = _mm512_load_ps(mixed + row * 4 * TILE + at),
                             high = _mm512_load_ps(mixed + row * 4 * TILE + at + LANES);
                float* to = found.at(row_of_all + row, chunk) + 2 + from + at;
                _mm512_storeu_ps(to, _mm512_permutex2var_ps(low, even, high));
                _mm512_storeu_ps(to + LANES, _mm512_permutex2var_ps(low, odd, high));
            }
    }
};

}  // namespace

#endif
