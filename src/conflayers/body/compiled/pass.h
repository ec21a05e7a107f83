// A pass of a few tokens through layers and head as one call.
#pragma once
#include "best.h"
#include "products.h"
#include "rows.h"
#include "tile_attention.h"

#include <chrono>

#ifdef HAS_PASSES

namespace {

template <class T>
struct Layer {
    const T *norm, *mlp_norm;
    // Of each head, or null.
    const T *q_norm, *k_norm;
    Product qkv, out, gate_up, down;
    int64_t rotated;
};

// What a pass's time is spent on.
enum Stage { PRODUCTS, NORMS, ROTATION, ATTENTION, GATE, WAITING, CHOICE };

// What is run of a layer.
enum Runs : uint8_t { RUNS_ATTENTION = 1, RUNS_MLP = 2 };

template <class T>
struct Pass {
    // `wanted`: of the last tokens, those whose logits are, 0 or more.
    int64_t layers, tokens, length, wanted, threads;
    int64_t hidden, inner, heads, kv_heads, width, stride;
    // Rows whose sublayers' outputs are written to `trace`, the last ones.
    int64_t traced;
    double eps;
    const Layer<T>* layer;
    // Of every layer where its cache begins.
    T *const *keys, *const *values;
    const uint8_t* runs;
    const T* norm;
    const Product* head;
    // [vocabulary][hidden]; and of every token its row there, and of `cos` and `sin`.
    const T* embedding;
    const int64_t *ids, *positions;
    const T *cos, *sin;
    // What to add to scores, [tokens][biases]; null where each token sees all before it.
    const float* bias;
    int64_t biases;
    T *trace, *logits;
    // Of every wanted token its best next one, and that one's probability; null where nobody asks.
    int64_t* best;
    float* probabilities;
    // Null, or seconds of every stage and how often it was, which are added to.
    double *seconds, *times;
    char* scratch;

    int64_t mixed() const { return (heads + 2 * kv_heads) * width; }
    int64_t widest() const {
        int64_t asked = heads * width;
        return inner > hidden ? (inner > asked ? inner : asked) : (hidden > asked ? hidden : asked);
    }
    // Of each member, a whole number of cache lines.
    int64_t own_bytes() const {
        int64_t states = Input<T>::own_bytes(widest()), scores = VectorRows<T>::bytes(width);
#ifdef HAS_TILES
        if (TileRows::bytes(width) > scores) scores = TileRows::bytes(width);
#endif
        return pieces(states > scores ? states : scores, 64) * 64;
    }
    int64_t best_bytes() const { return threads * MOST * int64_t(sizeof(Best)); }
    int64_t found_bytes() const { return Found::bytes(heads * tokens, length + tokens, width); }
    // All members share rows of numbers: states, normed, mixed, queries, attended, what is added, gates, gated, packed.
    int64_t shared_bytes() const {
        int64_t columns = 3 * hidden + mixed() + 2 * heads * width + 3 * inner;
        int64_t rows = tokens * columns * int64_t(sizeof(T));
        int64_t more = found_bytes() > best_bytes() ? found_bytes() : best_bytes();
        return pieces(rows + Input<T>::shared_bytes(widest()) + more, 64) * 64;
    }
    int64_t bytes() const { return shared_bytes() + threads * own_bytes(); }

    void run() const;
};

// One member's part of a pass.
template <class T>
class Member {
  public:
    Member(const Pass<T>& pass, const Team& team) : pass(pass), team(team) {
        auto at = reinterpret_cast<T*>(pass.scratch);
        auto take = [&](int64_t columns) { return at += pass.tokens * columns, at - pass.tokens * columns; };
        states = take(pass.hidden), normed = take(pass.hidden), added = take(pass.hidden), mixed = take(pass.mixed());
        queries = take(pass.heads * pass.width), attended = take(pass.heads * pass.width);
        gate_up = take(2 * pass.inner), gated_up = take(pass.inner);
        packed = reinterpret_cast<char*>(at);
        found = packed + Input<T>::shared_bytes(pass.widest());
        own = pass.scratch + pass.shared_bytes() + team.member * pass.own_bytes();
    }

    void run() {
        const int64_t hidden = pass.hidden;
        team.share(pass.tokens, [&](int64_t token) {
            std::memcpy(states + token * hidden, pass.embedding + pass.ids[token] * hidden, hidden * sizeof(T));
        });
        // No need to meet: whoever embeds a token norms it.
        {
            Tiles tiles(pass.tokens, by_tiles<T>());
            for (int64_t i = 0; i < pass.layers; i++) {
                if (pass.runs[i] & RUNS_ATTENTION) attention(pass.layer[i], pass.keys[i], pass.values[i]);
                if (pass.runs[i] & RUNS_MLP) mlp(pass.layer[i]);
            }
        }
        if (!pass.wanted && !pass.traced) return;
        norm(pass.norm);
        if (!pass.wanted) return;
        Tiles tiles(pass.wanted, by_tiles<T>());
        const T* last = normed + (pass.tokens - pass.wanted) * pass.hidden;
        input(*pass.head, last, pass.wanted).multiply(*pass.head, pass.logits, team);
        tick(PRODUCTS);
        if (pass.best) best();
    }

  private:
    const Pass<T>& pass;
    const Team& team;
    T *states, *normed, *added, *mixed, *queries, *attended, *gate_up, *gated_up;
    char *packed, *found, *own;
    // Sublayers that have run; the last one's output is not added yet.
    int64_t done = 0;

    std::chrono::steady_clock::time_point since = std::chrono::steady_clock::now();

    // The first member's time since the last tick was a stage's.
    void tick(Stage stage) {
        if (!pass.seconds || team.member) return;
        auto now = std::chrono::steady_clock::now();
        pass.seconds[stage] += std::chrono::duration<double>(now - since).count();
        pass.times[stage] += 1;
        since = now;
    }

    void meet(Stage after) {
        tick(after);
        team.wait();
        tick(WAITING);
    }

    Input<T> input(const Product& product, const T* x, int64_t tokens) const {
        return Input<T>(product.kind, x, product.ins, tokens, packed, own, team);
    }

    // Adds what the last sublayer put out, and norms.
    void norm(const T* weight) {
        team.share(pass.tokens, [&](int64_t token) {
            int64_t at = token * pass.hidden, kept = token - (pass.tokens - pass.traced);
            if (done && kept >= 0)
                std::memcpy(pass.trace + ((done - 1) * pass.traced + kept) * pass.hidden, added + at,
                            pass.hidden * sizeof(T));
            ::norm(states + at, done ? added + at : nullptr, weight, float(pass.eps), normed + at, pass.hidden);
        });
        meet(NORMS);
    }

    // Attention is over: its memory is free.
    void best() {
        Best* shares = reinterpret_cast<Best*>(found);
        const int64_t outs = pass.head->outs, blocks = outs / OUTS;
        for (int64_t row = 0; row < pass.wanted; row++)
            shares[row * team.members + team.member] =
                best_of(pass.logits + row * outs, team.first(blocks) * OUTS, team.last(blocks) * OUTS);
        meet(CHOICE);
        team.share(pass.wanted, [&](int64_t row) {
            Best best = best_of(shares + row * team.members, team.members);
            pass.best[row] = best.at, pass.probabilities[row] = 1 / best.total;
        });
    }

    void attention(const Layer<T>& layer, T* keys, T* values) {
        norm(layer.norm);
        input(layer.qkv, normed, pass.tokens).multiply(layer.qkv, mixed, team);
        meet(PRODUCTS);
        int64_t start = pass.length * pass.width;
        const Turn<T> turn{mixed,
                           layer.q_norm,
                           layer.k_norm,
                           float(pass.eps),
                           layer.rotated ? pass.cos : nullptr,
                           layer.rotated ? pass.sin : nullptr,
                           pass.positions,
                           queries,
                           keys + start,
                           values + start,
                           pass.stride,
                           pass.tokens,
                           pass.heads,
                           pass.kv_heads,
                           pass.width};
        team.share(pass.tokens * turn.parts(), [&](int64_t i) { turn.one(i / turn.parts(), i % turn.parts()); });
        meet(ROTATION);
        const Attention<T> asked{queries,         keys,        values,     pass.bias,     pass.biases, pass.stride,
                                 pass.length + 1, pass.tokens, pass.heads, pass.kv_heads, pass.width,
                                 1 / std::sqrt(float(pass.width))};
        attend(asked);
        meet(ATTENTION);
        input(layer.out, attended, pass.tokens).multiply(layer.out, added, team);
        meet(PRODUCTS);
        done++;
    }

    void attend(const Attention<T>& asked) {
#ifdef HAS_TILES
        if constexpr (std::is_same<T, bfloat16>::value)
            if (by_tiles<T>()) return ::attend<TileRows>(asked, team, found, own, attended);
#endif
        ::attend<VectorRows<T>>(asked, team, found, own, attended);
    }

    void mlp(const Layer<T>& layer) {
        norm(layer.mlp_norm);
        Input<T> x = input(layer.gate_up, normed, pass.tokens);
        // Gates and what they let through by the same member, which need not wait for others then.
        int64_t blocks = pass.inner / OUTS, from = team.first(blocks), to = team.last(blocks);
        x.multiply(layer.gate_up, from, to, gate_up);
        x.multiply(layer.gate_up, blocks + from, blocks + to, gate_up);
        tick(PRODUCTS);
        for (int64_t token = 0; token < pass.tokens; token++)
            gated(gate_up + 2 * token * pass.inner, gated_up + token * pass.inner, pass.inner, OUTS * from, OUTS * to);
        meet(GATE);
        input(layer.down, gated_up, pass.tokens).multiply(layer.down, added, team);
        meet(PRODUCTS);
        done++;
    }
};

template <class T>
inline void Pass<T>::run() const {
    together(threads, [this](const Team& team) { Member<T>(*this, team).run(); });
}

// Asked after every pass of a chain: one more than the token to run next, or 0 to end, as when the asked one failed.
using Following = int64_t (*)();

// A pass, and then one over each token that is named, behind all before: `most` at most. Ids and positions are those of
// the first pass, whose place the others' take. Returns how many passes were run.
template <class T>
inline int64_t run_chain(Pass<T> pass, int64_t* ids, int64_t* positions, int64_t most, Following following) {
    for (int64_t passes = 1;; passes++) {
        pass.run();
        int64_t token = following() - 1;
        if (token < 0 || passes == most) return passes;
        ids[0] = token, positions[0] = positions[pass.tokens - 1] + 1;
        pass.length += pass.tokens, pass.tokens = 1;
    }
}

// One product by itself, of any number of tokens.
template <class T>
inline void multiply_alone(const Product& product, const T* x, int64_t tokens, int64_t threads, char* scratch,
                           T* out) {
    together(threads, [&](const Team& team) {
        char* own = scratch + Input<T>::shared_bytes(product.ins) + team.member * Input<T>::own_bytes(product.ins);
        for (int64_t at = 0; at < tokens; at += MOST) {
            int64_t some = tokens - at < MOST ? tokens - at : MOST;
            Tiles tiles(some, by_tiles<T>());
            Input<T>(product.kind, x + at * product.ins, product.ins, some, scratch, own, team)
                .multiply(product, out + at * product.outs, team);
            // What is packed belongs to all.
            team.wait();
        }
    });
}

}  // namespace

#endif
