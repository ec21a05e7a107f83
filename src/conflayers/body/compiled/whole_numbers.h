// Matrices of whole numbers of 8 and 4 bits times a few rows, which are rounded to 8 bits in groups. For drafts.
#pragma once
#include "product.h"

#ifdef HAS_PASSES

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
            floats one = load16(x), other = load16(x + LANES);
            float top = highest(higher(sizes(one), sizes(other))), down = top > 0 ? 127 / top : 0;
            ints first = nearest(one * down), second = nearest(other * down);
            stored(converted<octets>(first), whole + group * GROUP);
            stored(converted<octets>(second), whole + group * GROUP + LANES);
            scale[group] = top / 127, sum[group] = ::sum(one + other);
            whole_sum[group] = int32_t(::sum(converted<floats>(first + second)));
        }
    }
};

inline uint32_t four(const int8_t* whole) { return read<uint32_t>(whole); }

// What there is of one register's length, which processors have under names of their own.
#ifdef LONG_REGISTERS
typedef __m512i Register;
#define OF_REGISTER(NAME) _mm512_##NAME
#ifdef __AVX512VNNI__
#define DOT _mm512_dpbusd_epi32
#endif
#else
typedef __m256i Register;
#define OF_REGISTER(NAME) _mm256_##NAME
#ifdef __AVXVNNI__
#define DOT _mm256_dpbusd_avx_epi32
#endif
#endif

// Adds the products of four bytes without sign and four with one, in every lane. `SMALL`: those without are below 128.
template <bool SMALL>
inline Register dot(Register to, Register weight, Register x) {
#ifdef DOT
    return DOT(to, weight, x);
#else
    if (SMALL) {
        Register pairs = OF_REGISTER(maddubs_epi16)(weight, x);
        return OF_REGISTER(add_epi32)(to, OF_REGISTER(madd_epi16)(pairs, OF_REGISTER(set1_epi16)(1)));
    }
    // Of every two bytes the one and the other, as numbers of 16 bits.
    Register even = OF_REGISTER(srli_epi16)(OF_REGISTER(slli_epi16)(weight, 8), 8);
    Register odd = OF_REGISTER(srli_epi16)(weight, 8);
    Register by_even = OF_REGISTER(srai_epi16)(OF_REGISTER(slli_epi16)(x, 8), 8);
    Register by_odd = OF_REGISTER(srai_epi16)(x, 8);
    to = OF_REGISTER(add_epi32)(to, OF_REGISTER(madd_epi16)(even, by_even));
    return OF_REGISTER(add_epi32)(to, OF_REGISTER(madd_epi16)(odd, by_odd));
#endif
}

// The same for all parts.
template <bool SMALL>
inline ints dot(const ints& to, const words& weight, uint32_t x) {
    Register some[PARTS], with[PARTS];
    std::memcpy(some, &to, sizeof to), std::memcpy(with, &weight, sizeof weight);
    for (int64_t i = 0; i < PARTS; i++) some[i] = dot<SMALL>(some[i], with[i], OF_REGISTER(set1_epi32)(int32_t(x)));
    return loaded<ints>(some);
}

// Bytes ahead of what is read that are asked for.
constexpr int64_t AHEAD = 8192;

// 16 outputs of one token; `weight` are theirs.
inline floats multiply_int4(const uint8_t* weight, const uint8_t* scales, const Rounded& x, int64_t ins) {
    const uint32_t low = 0x0f0f0f0fu;
    floats total = {};
    for (int64_t group = 0; group < ins / GROUP; group++, weight += 256, scales += 64) {
        ask_for(weight + AHEAD, 256), ask_for(scales + AHEAD / 4, 64);
        const int8_t* whole = x.whole + group * GROUP;
        ints first = {}, second = {};
#pragma GCC unroll 4
        for (int part = 0; part < 4; part++) {
            words some = loaded<words>(weight + part * 64);
            first = dot<true>(first, some & low, four(whole + 4 * part));
            second = dot<true>(second, (some >> 4) & low, four(whole + 16 + 4 * part));
        }
        words both = loaded<words>(scales);
        floats found = converted<floats>(first + second) * x.scale[group];
        total = total + found * same_bits<floats>(both << 16);
        total = total + same_bits<floats>(both & 0xffff0000u) * x.sum[group];
    }
    return total;
}

inline floats multiply_int8(const uint8_t* weight, const float* scales, const Rounded& x, int64_t ins) {
    floats total = {};
    for (int64_t group = 0; group < ins / GROUP; group++, weight += 512) {
        ask_for(weight + AHEAD, 512);
        const int8_t* whole = x.whole + group * GROUP;
        ints first = ints{} - 128 * x.whole_sum[group], second = {};
#pragma GCC unroll 4
        for (int part = 0; part < 8; part += 2) {
            first = dot<false>(first, loaded<words>(weight + part * 64), four(whole + 4 * part));
            second = dot<false>(second, loaded<words>(weight + part * 64 + 64), four(whole + 4 * part + 4));
        }
        total = total + converted<floats>(first + second) * x.scale[group];
    }
    return total * load16(scales);
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
