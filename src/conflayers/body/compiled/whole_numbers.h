// Matrices of whole numbers of 8 and 4 bits times a few rows, which are rounded to 8 bits in groups (AVX-512 VNNI). For
// drafts.
#pragma once
#include "product.h"

#ifdef HAS_WHOLE_NUMBERS

namespace {

// A row of states as whole numbers of 8 bits in groups, each with its scale, the sum of its whole numbers, and its own.
struct Rounded {
    int8_t* whole;
    float *scale, *sum;
    int32_t* whole_sum;

    // One of several in a piece of memory of `tokens * bytes(ins)`.
    Rounded(char* memory, int64_t ins, int64_t token) {
        memory += token * bytes(ins);
        whole = reinterpret_cast<int8_t*>(memory);
        scale = reinterpret_cast<float*>(memory + ins);
        sum = scale + ins / GROUP;
        whole_sum = reinterpret_cast<int32_t*>(sum + ins / GROUP);
    }
    static int64_t bytes(int64_t ins) { return ins + 3 * ins / GROUP * int64_t(sizeof(float)); }

    template <class T>
    void fill(const T* x, int64_t ins) const {
        for (int64_t group = 0; group < ins / GROUP; group++, x += GROUP) {
            __m512 one = same_bits<__m512>(load16(x)), other = same_bits<__m512>(load16(x + LANES));
            float top = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(one), _mm512_abs_ps(other)));
            __m512 down = _mm512_set1_ps(top > 0 ? 127 / top : 0);
            __m512i first = _mm512_cvtps_epi32(_mm512_mul_ps(one, down));
            __m512i second = _mm512_cvtps_epi32(_mm512_mul_ps(other, down));
            _mm_storeu_si128(reinterpret_cast<__m128i*>(whole + group * GROUP), _mm512_cvtsepi32_epi8(first));
            _mm_storeu_si128(reinterpret_cast<__m128i*>(whole + group * GROUP + LANES), _mm512_cvtsepi32_epi8(second));
            scale[group] = top / 127, sum[group] = _mm512_reduce_add_ps(_mm512_add_ps(one, other));
            whole_sum[group] = _mm512_reduce_add_epi32(_mm512_add_epi32(first, second));
        }
    }
};

inline __m512i four(const int8_t* whole) {
    int32_t bits;
    std::memcpy(&bits, whole, sizeof bits);
    return _mm512_set1_epi32(bits);
}

// Bytes ahead of what is read that are asked for.
constexpr int64_t AHEAD = 8192;

// 16 outputs of one token; `weight` are theirs.
inline floats multiply_int4(const uint8_t* weight, const uint8_t* scales, const Rounded& x, int64_t ins) {
    const __m512i low = _mm512_set1_epi8(15), upper = _mm512_set1_epi32(int(0xffff0000u));
    __m512 total = _mm512_setzero_ps();
    for (int64_t group = 0; group < ins / GROUP; group++, weight += 256, scales += 64) {
        ask_for(weight + AHEAD, 256), ask_for(scales + AHEAD / 4, 64);
        const int8_t* whole = x.whole + group * GROUP;
        __m512i first = _mm512_setzero_si512(), second = first;
        for (int part = 0; part < 4; part++) {
            __m512i some = _mm512_loadu_si512(weight + part * 64);
            first = _mm512_dpbusd_epi32(first, _mm512_and_si512(some, low), four(whole + 4 * part));
            some = _mm512_and_si512(_mm512_srli_epi16(some, 4), low);
            second = _mm512_dpbusd_epi32(second, some, four(whole + 16 + 4 * part));
        }
        __m512i both = _mm512_loadu_si512(scales);
        __m512 scale = _mm512_castsi512_ps(_mm512_slli_epi32(both, 16));
        __m512 lowest = _mm512_castsi512_ps(_mm512_and_si512(both, upper));
        __m512 found = _mm512_cvtepi32_ps(_mm512_add_epi32(first, second));
        total = _mm512_fmadd_ps(_mm512_mul_ps(found, _mm512_set1_ps(x.scale[group])), scale, total);
        total = _mm512_fmadd_ps(lowest, _mm512_set1_ps(x.sum[group]), total);
    }
    return same_bits<floats>(total);
}

inline floats multiply_int8(const uint8_t* weight, const float* scales, const Rounded& x, int64_t ins) {
    __m512 total = _mm512_setzero_ps();
    for (int64_t group = 0; group < ins / GROUP; group++, weight += 512) {
        ask_for(weight + AHEAD, 512);
        const int8_t* whole = x.whole + group * GROUP;
        __m512i first = _mm512_set1_epi32(-128 * x.whole_sum[group]), second = _mm512_setzero_si512();
        for (int part = 0; part < 8; part += 2) {
            first = _mm512_dpbusd_epi32(first, _mm512_loadu_si512(weight + part * 64), four(whole + 4 * part));
            second = _mm512_dpbusd_epi32(second, _mm512_loadu_si512(weight + part * 64 + 64), four(whole + 4 * part + 4));
        }
        __m512 found = _mm512_cvtepi32_ps(_mm512_add_epi32(first, second));
        total = _mm512_fmadd_ps(found, _mm512_set1_ps(x.scale[group]), total);
    }
    return same_bits<floats>(_mm512_mul_ps(total, _mm512_loadu_ps(scales)));
}

// Outputs from block `from` of 16 to block `to`, of rounded states.
template <class T>
inline void multiply_whole(const Product& product, char* rows, int64_t tokens, int64_t from, int64_t to, T* out) {
    const int64_t ins = product.ins, groups = ins / GROUP;
    auto weight = static_cast<const uint8_t*>(product.weight);
    for (int64_t block = from; block < to; block++)
        for (int64_t token = 0; token < tokens; token++) {
            Rounded x(rows, ins, token);
            floats found;
            if (product.kind == INT4)
                found = multiply_int4(weight + block * groups * 256,
                                      static_cast<const uint8_t*>(product.scales) + block * groups * 64, x, ins);
            else
                found = multiply_int8(weight + block * groups * 512,
                                      static_cast<const float*>(product.scales) + block * OUTS, x, ins);
            finish(found, product, block * OUTS, out + token * product.outs);
        }
}

}  // namespace

#endif
