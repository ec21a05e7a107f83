// The highest of many logits and its probability, each member's share of them first.
#pragma once
#include "spans.h"

namespace {

// Of some logits the highest, the first place where it is, and the sum of what all of them weigh beside it: not a number
// where one of them is none.
struct Best {
    float most, total;
    int64_t at;
};

// Of those from `from` to `to`, whole blocks of 16.
template <class T>
inline Best best_of(const T* logits, int64_t from, int64_t to) {
    floats top = floats{} - INFINITY, total = {};
    ints blocks = {};
    for (int64_t at = from; at < to; at += LANES) {
        floats some = load16(logits + at);
        ints which = some > top;
        top = chosen(which, some, top);
        blocks = chosen(which, ints{} + int32_t(at / LANES), blocks);
    }
    Best best{top[0], 0, blocks[0] * LANES};
    for (int64_t lane = 1; lane < LANES; lane++) {
        int64_t at = blocks[lane] * LANES + lane;
        if (top[lane] > best.most || (top[lane] == best.most && at < best.at)) best.most = top[lane], best.at = at;
    }
    for (int64_t at = from; at < to; at += LANES) total += exponential(load16(logits + at) - best.most);
    best.total = sum(total);
    return best;
}

// The best of several shares, in their order.
inline Best best_of(const Best* shares, int64_t count) {
    Best best = shares[0];
    for (int64_t i = 1; i < count; i++)
        if (shares[i].most > best.most) best = shares[i];
    best.total = 0;
    for (int64_t i = 0; i < count; i++) best.total += shares[i].total * std::exp(shares[i].most - best.most);
    return best;
}

}  // namespace
