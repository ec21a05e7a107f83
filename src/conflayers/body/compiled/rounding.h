// Matrices to whole numbers of 8 and 4 bits, as `products.h` reads them.
#pragma once
#include "whole_numbers.h"

#ifdef HAS_WHOLE_NUMBERS

namespace {

template <class T>
inline __m512 sixteen(const T* x) { return same_bits<__m512>(load16(x)); }

// To the nearest that bfloat16 has, and which that is.
inline float kept(float x, uint32_t& bits) {
    floats all = floats{} + x;
    bits = rounded(all)[0] >> 16;
    return same_bits<float>(bits << 16);
}

// 32 inputs of one out, which is one of 16: whole numbers from the lowest, and what one more means.
template <class T>
inline void round_int4(const T* x, int64_t lane, uint8_t* to, uint8_t* scales) {
    __m512 one = sixteen(x), other = sixteen(x + LANES);
    float low = _mm512_reduce_min_ps(_mm512_min_ps(one, other)), high = _mm512_reduce_max_ps(_mm512_max_ps(one, other));
    uint32_t scale_bits, low_bits;
    float scale = kept((high - low) / 15 > 1e-6f ? (high - low) / 15 : 1e-6f, scale_bits);
    low = kept(low, low_bits);
    const __m512i most = _mm512_set1_epi32(15), none = _mm512_setzero_si512();
    auto whole = [&](__m512 some) {
        __m512i found = _mm512_cvtps_epi32(_mm512_div_ps(_mm512_sub_ps(some, _mm512_set1_ps(low)), _mm512_set1_ps(scale)));
        return _mm512_cvtepi32_epi8(_mm512_min_epi32(_mm512_max_epi32(found, none), most));
    };
    __m128i both = _mm_or_si128(whole(one), _mm_slli_epi16(whole(other), 4));
    uint32_t parts[4], scaled = scale_bits | low_bits << 16;
    std::memcpy(parts, &both, sizeof both);
    for (int64_t part = 0; part < 4; part++) std::memcpy(to + 64 * part + 4 * lane, parts + part, sizeof(uint32_t));
    std::memcpy(scales + 4 * lane, &scaled, sizeof scaled);
}

// A row, which is one of 16.
template <class T>
inline void round_int8(const T* x, int64_t ins, int64_t lane, uint8_t* to, float* scale) {
    __m512 top = _mm512_setzero_ps();
    for (int64_t in = 0; in < ins; in += LANES) top = _mm512_max_ps(top, _mm512_abs_ps(sixteen(x + in)));
    float most = _mm512_reduce_max_ps(top);
    *scale = most > 0 ? most / 127 : 1;
    for (int64_t in = 0; in < ins; in += LANES) {
        __m512i found = _mm512_cvtps_epi32(_mm512_div_ps(sixteen(x + in), _mm512_set1_ps(*scale)));
        __m128i bytes = _mm512_cvtepi32_epi8(_mm512_add_epi32(found, _mm512_set1_epi32(128)));
        uint32_t parts[4];
        std::memcpy(parts, &bytes, sizeof bytes);
        for (int64_t part = 0; part < 4; part++)
            std::memcpy(to + 16 * in + 64 * part + 4 * lane, parts + part, sizeof(uint32_t));
    }
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
