// Attention of a few tokens over a cache.
//
// A text is weighed chunk by chunk, so that threads may share it, and the chunks are the same for everybody: rows have the
// same bits in any company.
#pragma once
#include "sums.h"
#include "team.h"

namespace {

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
        some = load16(scores + at);
        top = higher(top, some);
    }
    const float highest = ::highest(top);
    for (int64_t at = 0; at < room; at += LANES) {
        some = load16(scores + at);
        some = chosen(some == -INFINITY, floats{}, exponential(some - highest));
        put16(some, scores + at);
        total += some;
    }
    if (most) *most = highest;
    return sum(total);
}

// What a few tokens ask of a cache. Token t sees of the first `columns` + t columns those that its row of the bias, if
// there is one, lets it. Rows are those of queries: of every head its tokens one after the other.
template <class T>
struct Attention {
    const T *queries, *keys, *values;
    const float* bias;
    int64_t biases, stride, columns, tokens, heads, kv_heads, width;
    float scale;

    int64_t most() const { return columns + tokens - 1; }
    // Rows that share one key-value head.
    int64_t sharing() const { return heads / kv_heads * tokens; }
    const float* bias_of(int64_t token) const { return bias ? bias + token * biases : nullptr; }
};

// Columns of a chunk, and rows that are computed at once.
constexpr int64_t CHUNK = 256, BATCH_ROWS = 16;

// What each row found in every chunk: highest score, sum of weights, and values by them, in spans.
struct Found {
    float* memory;
    int64_t chunks, width;

    static int64_t bytes(int64_t rows, int64_t columns, int64_t width) {
        return rows * pieces(columns, CHUNK) * (width + 2) * int64_t(sizeof(float));
    }
    float* at(int64_t row, int64_t chunk) const { return memory + (row * chunks + chunk) * (width + 2); }
    // How far two rows lie apart.
    int64_t apart() const { return chunks * (width + 2); }

    // A row over all chunks.
    template <class T>
    void join(int64_t row, T* out) const {
        float most = -INFINITY, total = 0;
        for (int64_t chunk = 0; chunk < chunks; chunk++) most = std::fmax(most, at(row, chunk)[0]);
        Span mixed[4] = {};
        for (int64_t chunk = 0; chunk < chunks; chunk++) {
            const float *one = at(row, chunk), share = std::exp(one[0] - most);
            total += share * one[1];
            for (int64_t s = 0; s < width / SPAN; s++) mixed[s] = mixed[s] + whole(one + 2 + s * SPAN) * share;
        }
        for (int64_t s = 0; s < width / SPAN; s++) put_whole(mixed[s] / total, out + s * SPAN);
    }
};

// Rows whose sums of so many vectors there are registers for.
template <int VECTORS>
constexpr int AT_ONCE = REGISTERS / 2 / VECTORS > 1 ? REGISTERS / 2 / VECTORS : 1;

// A row times each of 16 columns.
template <int VECTORS>
inline floats products(const float* row, const float* columns) {
    floats some[LANES / 4];
    for (int64_t four = 0; four < LANES / 4; four++, columns += 4 * VECTORS * LANES) {
        floats sums[4];
#pragma GCC unroll 4
        for (int64_t part = 0; part < PARTS; part++) {
            held found[4] = {};
            // Unrolled, for all of this to be in registers.
#pragma GCC unroll 8
            for (int v = 0; v < VECTORS; v++) {
                const int64_t at = v * LANES + part * HELD;
#pragma GCC unroll 4
                for (int c = 0; c < 4; c++)
                    found[c] += read<held>(row + at) * read<held>(columns + c * VECTORS * LANES + at);
            }
#pragma GCC unroll 4
            for (int c = 0; c < 4; c++) std::memcpy(reinterpret_cast<held*>(sums + c) + part, found + c, sizeof(held));
        }
        some[four] = folded(sums);
    }
    return joined(some);
}

// Adds 16 columns by their scores to so many rows' sums, or to as many as are left.
template <int VECTORS, int COUNT>
inline void mix(int64_t left, const float* columns, const float* scores, int64_t room, float* mixed, int64_t apart) {
    if constexpr (COUNT > 1)
        if (left < COUNT) return mix<VECTORS, COUNT - 1>(left, columns, scores, room, mixed, apart);
    held some[COUNT][VECTORS * PARTS];
    // Unrolled, for all of this to be in registers.
#pragma GCC unroll 8
    for (int row = 0; row < COUNT; row++)
#pragma GCC unroll 32
        for (int v = 0; v < VECTORS * PARTS; v++) some[row][v] = read<held>(mixed + row * apart + v * HELD);
    for (int c = 0; c < LANES; c++, columns += VECTORS * LANES, scores++)
#pragma GCC unroll 32
        for (int v = 0; v < VECTORS * PARTS; v++)
#pragma GCC unroll 8
            for (int row = 0; row < COUNT; row++) some[row][v] += read<held>(columns + v * HELD) * scores[row * room];
#pragma GCC unroll 8
    for (int row = 0; row < COUNT; row++)
#pragma GCC unroll 32
        for (int v = 0; v < VECTORS * PARTS; v++) std::memcpy(mixed + row * apart + v * HELD, &some[row][v], sizeof(held));
}

// Up to 16 rows that share a key-value head, and a chunk of its columns.
template <class T>
class VectorRows {
  public:
    static int64_t bytes(int64_t width) { return BATCH_ROWS * (width + CHUNK) * int64_t(sizeof(float)); }

    VectorRows(const Attention<T>& all, const Found& found, char* memory)
        : all(all), found(found), asked(reinterpret_cast<float*>(memory)), scores(asked + BATCH_ROWS * all.width) {}

    // Rows from `first` on of those of a key-value head.
    void run(int64_t kv_head, int64_t first, int64_t rows, int64_t chunk) {
        switch (all.width / SPAN) {
            case 1: return run<1>(kv_head, first, rows, chunk);
            case 2: return run<2>(kv_head, first, rows, chunk);
            case 3: return run<3>(kv_head, first, rows, chunk);
            default: return run<4>(kv_head, first, rows, chunk);
        }
    }

  private:
    const Attention<T>& all;
    const Found& found;
    float *asked, *scores;

    template <int SPANS>
    void run(int64_t kv_head, int64_t first, int64_t rows, int64_t chunk) {
        constexpr int64_t width = SPANS * SPAN, vectors = 2 * SPANS;
        const int64_t begin = chunk * CHUNK, left = all.most() - begin, most = left < CHUNK ? left : CHUNK;
        const int64_t room = pieces(most, LANES) * LANES, row_of_all = kv_head * all.sharing() + first;
        const T *keys = all.keys + kv_head * all.stride + begin * width,
                *values = all.values + kv_head * all.stride + begin * width;
        floats block[LANES * vectors];
        auto columns = reinterpret_cast<const float*>(block);
        for (int64_t i = 0; i < rows * SPANS; i++)
            put_whole(whole(all.queries + row_of_all * width + i * SPAN) * all.scale, asked + i * SPAN);
        for (int64_t at = 0; at < most; at += LANES) {
            ask_for(keys + (at + LANES) * width, LANES * width * int64_t(sizeof(T)));
            unpack<SPANS>(keys + at * width, most - at, block);
            for (int64_t row = 0; row < rows; row++)
                put16(products<vectors>(asked + row * width, columns), scores + row * room + at);
        }
        for (int64_t row = 0; row < rows; row++) {
            const int64_t token = (first + row) % all.tokens, seen = all.columns + token - begin;
            const float* bias = all.bias ? all.bias_of(token) + begin : nullptr;
            float* to = found.at(row_of_all + row, chunk);
            to[1] = weighed(scores + row * room, bias, seen < most ? (seen > 0 ? seen : 0) : most, room, to);
            std::memset(to + 2, 0, width * sizeof(float));
        }
        for (int64_t at = 0; at < most; at += LANES) {
            ask_for(values + (at + LANES) * width, LANES * width * int64_t(sizeof(T)));
            unpack<SPANS>(values + at * width, most - at, block);
            for (int64_t row = 0; row < rows; row += AT_ONCE<vectors>)
                mix<vectors, AT_ONCE<vectors>>(rows - row, columns, scores + row * room + at, room,
                                               found.at(row_of_all + row, chunk) + 2, found.apart());
        }
    }
};

// All rows, by all members. `found` is shared; all meet before `out`, [tokens][heads][width], is read.
template <class Rows, class T>
inline void attend(const Attention<T>& all, const Team& team, char* found_memory, char* own, T* out) {
    const int64_t rows = all.sharing(), blocks = pieces(rows, BATCH_ROWS);
    const Found found{reinterpret_cast<float*>(found_memory), pieces(all.most(), CHUNK), all.width};
    Rows some(all, found, own);
    // Chunks of the same rows one after the other.
    team.share(all.kv_heads * blocks * found.chunks, [&](int64_t i) {
        int64_t first = i / found.chunks % blocks * BATCH_ROWS, left = rows - first;
        some.run(i / found.chunks / blocks, first, left < BATCH_ROWS ? left : BATCH_ROWS, i % found.chunks);
    });
    team.wait();
    team.share(all.heads * all.tokens, [&](int64_t row) {
        found.join(row, out + (row % all.tokens * all.heads + row / all.tokens) * all.width);
    });
}

}  // namespace
