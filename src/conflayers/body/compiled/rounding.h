// Matrices to whole numbers of 8 and 4 bits, as `products.h` reads them.
#pragma once
#include "whole_numbers.h"

#ifdef HAS_PASSES

namespace {

// To the nearest that bfloat16 has, and which that is.
inline float kept(float x, uint32_t& bits) {
    floats all = floats{} + x;
    bits = rounded(all)[0] >> 16;
    return same_bits<float>(bits << 16);
}

// Of one out, which is one of 16: four bytes after the other, between those of the others.
inline void put_fours(words bytes, int64_t lane, uint8_t* to) {
    uint32_t parts[4];
    stored(converted<octets>(bytes), parts);
    for (int64_t part = 0; part < 4; part++) std::memcpy(to + 64 * part + 4 * lane, parts + part, sizeof(uint32_t));
}

// 32 inputs of one out: whole numbers from the lowest, and what one more means.
template <class T>
inline void round_int4(const T* x, int64_t lane, uint8_t* to, uint8_t* scales) {
    floats one = load16(x), other = load16(x + LANES);
    float low = -highest(higher(-one, -other)), high = highest(higher(one, other));
    uint32_t scale_bits, low_bits;
    float scale = kept((high - low) / 15 > 1e-6f ? (high - low) / 15 : 1e-6f, scale_bits);
    low = kept(low, low_bits);
    auto whole = [&](floats some) {
        ints found = nearest((some - low) / scale), most = ints{} + 15;
        found = chosen(found > most, most, found);
        return same_bits<words>(chosen(found < 0, ints{}, found));
    };
    put_fours(whole(one) | whole(other) << 4, lane, to);
    uint32_t scaled = scale_bits | low_bits << 16;
    std::memcpy(scales + 4 * lane, &scaled, sizeof scaled);
}

// A row, which is one of 16.
template <class T>
inline void round_int8(const T* x, int64_t ins, int64_t lane, uint8_t* to, float* scale) {
    floats top = {};
    for (int64_t in = 0; in < ins; in += LANES) top = higher(top, sizes(load16(x + in)));
    float most = highest(top);
    *scale = most > 0 ? most / 127 : 1;
    for (int64_t in = 0; in < ins; in += LANES)
        put_fours(same_bits<words>(nearest(load16(x + in) / *scale) + 128), lane, to + 16 * in);
}

template <class T>
inline void round_matrix(Kind kind, const T* weight, int64_t outs, int64_t ins, int64_t threads, uint8_t* to,
                         void* scales) {
    together(threads, [&](const Team& team) {
        team.share(outs / OUTS, [&](int64_t block) {
            const T* rows = weight + block * OUTS * ins;
            for (int64_t lane = 0; lane < OUTS; lane++)
                if (kind == INT8)
                    round_int8(rows + lane * ins, ins, lane, to + block * OUTS * ins,
                               static_cast<float*>(scales) + block * OUTS + lane);
                else
                    for (int64_t in = 0; in < ins; in += GROUP)
                        round_int4(rows + lane * ins + in, lane, to + (block * OUTS * ins + in * OUTS) / 2,
                                   static_cast<uint8_t*>(scales) + (block * ins + in) * 2);
        });
    });
}

}  // namespace

#endif
