// What a layer does with each row by itself: norms, the gate, and rotating queries and keys.
#pragma once
#include "spans.h"

namespace {

// To the root mean square of 1, scaled.
template <class T>
inline void scaled(const T* x, const T* weight, float eps, T* out, int64_t width) {
    Span squares = {};
    for (int64_t i = 0; i < width; i += SPAN) {
        Span some = get(x + i, width - i);
        squares = squares + some * some;
    }
    float r = 1.0f / std::sqrt(sum(squares) / float(width) + eps);
    for (int64_t i = 0; i < width; i += SPAN)
        put(get(x + i, width - i) * r * get(weight + i, width - i), out + i, width - i);
}

// One row, to which `added` is added in place, if there is any.
template <class T>
inline void norm(T* x, const T* added, const T* weight, float eps, T* out, int64_t width) {
    if (added)
        for (int64_t i = 0; i < width; i += SPAN)
            put(get(x + i, width - i) + get(added + i, width - i), x + i, width - i);
    scaled(x, weight, eps, out, width);
}

// Of what lies from `from` to `to` in a row of gates, and behind `width` of them in one of what they let through.
template <class T>
inline void gated(const T* gate_up, T* out, int64_t width, int64_t from, int64_t to) {
    for (int64_t i = from; i < to; i += SPAN) {
        Span gate = get(gate_up + i, to - i);
        put(Span{silu(gate.one), silu(gate.other)} * get(gate_up + width + i, to - i), out + i, to - i);
    }
}

// One head of one token: normed where there is a weight, rotated where there are angles.
template <class T>
inline void turned(const T* x, const T* weight, float eps, const T* cos, const T* sin, T* out, int64_t width) {
    T some[1024];
    if (weight) {
        scaled(x, weight, eps, some, width);
        x = some;
    }
    if (!cos) {
        std::memcpy(out, x, width * sizeof(T));
        return;
    }
    int64_t half = width / 2;
    for (int64_t i = 0; i < half; i += SPAN) {
        int64_t left = half - i;
        Span low = get(x + i, left), high = get(x + half + i, left);
        Span first = Span{} + low * get(cos + i, left), second = Span{} + high * get(cos + half + i, left);
        put(first + high * get(sin + i, left), out + i, left);
        put(second + low * get(sin + half + i, left), out + half + i, left);
    }
}

// Where the heads of a few tokens go to.
template <class T>
struct Turn {
    const T *mixed, *q_norm, *k_norm;
    float eps;
    // Of every position; null where nothing is rotated.
    const T *cos, *sin;
    // Of every token; null where they are those from the first on.
    const int64_t* positions;
    T *queries, *keys, *values;
    int64_t stride, tokens, heads, kv_heads, width;

    int64_t parts() const { return heads + 2 * kv_heads; }

    // A query, a key or a value of a token.
    void one(int64_t token, int64_t part) const {
        const T* from = mixed + (token * parts() + part) * width;
        int64_t angle = (positions ? positions[token] : token) * width;
        const T *c = cos ? cos + angle : cos, *s = cos ? sin + angle : sin;
        if (part < heads)
            return turned(from, q_norm, eps, c, s, queries + (part * tokens + token) * width, width);
        part -= heads;
        if (part < kv_heads) return turned(from, k_norm, eps, c, s, keys + part * stride + token * width, width);
        std::memcpy(values + (part - kv_heads) * stride + token * width, from, width * sizeof(T));
    }
};

}  // namespace
