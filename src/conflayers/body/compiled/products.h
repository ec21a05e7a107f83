// Matrices times a few rows, at the speed at which the matrix comes from memory.
//
// In bfloat16 by the processor's tiles: of 16 rows of the matrix as it lies in memory, 32 columns at a time, and of as
// many columns of states as there are tokens. A token's sums do not depend on the others'. Whole numbers of 8 and 4 bits
// are multiplied with states rounded to 8 bits in groups, which is for drafts.
#pragma once
#include "spans.h"

#if defined(__linux__) && defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__AVX512VNNI__) && \
    defined(__AVX512BW__)
#define HAS_PRODUCTS 1
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "team.h"
#endif

namespace {

enum Kind : int64_t { BFLOAT16 = 0, INT8 = 1, INT4 = 2 };

// Outputs and inputs that are computed at once, and inputs that share a scale.
constexpr int64_t OUTS = 16, GROUP = 32;
// Tokens that one pass has room for, and those of one tile.
constexpr int64_t MOST = 32, TILE = 16;

struct Product {
    Kind kind;
    // BFLOAT16: [outs][ins]. Else of every 16 outs every group of inputs, 4 inputs of one out after the other in the
    // lanes of vectors; INT8: plus 128; INT4: the first half of a group in the lower bits.
    const void* weight;
    // INT8: of every out, float. INT4: of every 16 outs every group: bfloat16 scale and lowest value of each.
    const void* scales;
    const bfloat16* bias;
    int64_t outs, ins;
};

#ifdef HAS_PRODUCTS

// Compilers' own names for these leave out which memory they read.
#define LOAD_TILE(TO, FROM, APART) \
    asm volatile("tileloadd (%0,%1,1), %%tmm" #TO ::"r"(FROM), "r"(int64_t(APART)) : "memory")
#define STORE_TILE(FROM, TO, APART) \
    asm volatile("tilestored %%tmm" #FROM ", (%0,%1,1)" ::"r"(TO), "r"(int64_t(APART)) : "memory")
#define ZERO_TILE(TO) asm volatile("tilezero %%tmm" #TO ::)
// What is in LEFT times what is in RIGHT is added to what is in TO.
#define MULTIPLY_TILES(TO, LEFT, RIGHT) asm volatile("tdpbf16ps %%tmm" #RIGHT ", %%tmm" #LEFT ", %%tmm" #TO ::)

inline bool allowed() {
    // The system gives tiles to those who ask.
    static const bool yes = syscall(SYS_arch_prctl, 0x1023, 18) == 0;
    return yes;
}

inline floats load16(const float* x) {
    floats out;
    std::memcpy(&out, x, sizeof out);
    return out;
}

inline floats load16(const bfloat16* x) {
    __m512i bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)));
    return same_bits<floats>(_mm512_slli_epi32(bits, 16));
}

inline void put16(floats x, bfloat16* out) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out),
                        _mm512_cvtepi32_epi16(same_bits<__m512i>(rounded(x) >> 16)));
}

// 16 outputs of one token.
inline void finish(floats x, const Product& product, int64_t out, bfloat16* to) {
    if (product.bias) x += load16(product.bias + out);
    put16(x, to + out);
}

// Tiles for so many tokens, in this thread, as long as this lives. Others, torch among them, find theirs as they were.
class Tiles {
  public:
    explicit Tiles(int64_t tokens) {
        asm volatile("sttilecfg (%0)" ::"r"(&before) : "memory");
        Config wanted = {};
        wanted.palette = 1;
        for (int tile = 0; tile < 8; tile++) wanted.rows[tile] = 16, wanted.bytes[tile] = 64;
        int64_t first = tokens < TILE ? tokens : TILE, second = tokens - first;
        wanted.bytes[0] = wanted.bytes[1] = wanted.bytes[4] = uint16_t(4 * first);
        if (second) wanted.bytes[2] = wanted.bytes[3] = wanted.bytes[5] = uint16_t(4 * second);
        load(&wanted);
    }
    ~Tiles() {
        if (before.palette)
            load(&before);
        else
            asm volatile("tilerelease" ::);
    }
    Tiles(const Tiles&) = delete;

  private:
    struct alignas(64) Config {
        uint8_t palette, start, unused[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } before;

    static void load(const Config* config) { asm volatile("ldtilecfg (%0)" ::"r"(config) : "memory"); }
};

// States as tiles read them: pairs of inputs of all tokens of a tile side by side. One token's are so already.
inline void pack(const bfloat16* x, int64_t ins, int64_t tokens, uint32_t* to, const Team& team) {
    for (int64_t tile = 0; tile < tokens; tile += TILE) {
        int64_t some = tokens - tile < TILE ? tokens - tile : TILE;
        const bfloat16* from = x + tile * ins;
        uint32_t* at = to + tile * ins / 2;
        team.share(ins / 2, [&](int64_t pair) {
            for (int64_t token = 0; token < some; token++)
                std::memcpy(at + pair * some + token, from + token * ins + 2 * pair, sizeof(uint32_t));
        });
    }
}

// What two tiles found for `tokens` tokens, [2][16 outs][tokens].
inline void finish_tiles(const float (*found)[OUTS * TILE], const Product& product, int64_t out, int64_t outs,
                         int64_t tokens, bfloat16* to) {
    const __m512i apart = _mm512_mullo_epi32(_mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
                                             _mm512_set1_epi32(int(tokens)));
    for (int64_t half = 0; half < outs / OUTS; half++)
        for (int64_t token = 0; token < tokens; token++)
            finish(same_bits<floats>(_mm512_i32gather_ps(apart, found[half] + token, 4)), product, out + half * OUTS,
                   to + token * product.outs);
}

// Outputs from block `from` of 16 to block `to`, of packed states.
inline void multiply_tiles(const Product& product, const uint32_t* packed, int64_t tokens, int64_t from, int64_t to,
                           bfloat16* out) {
    alignas(64) float found[2][OUTS * TILE];
    const int64_t ins = product.ins, first = tokens < TILE ? tokens : TILE, second = tokens - first;
    const uint32_t* more = packed + TILE * ins / 2;
    for (int64_t block = from; block < to; block += 2) {
        // Of an odd block out the last is computed twice.
        int64_t pair = block + 1 < to ? 2 : 1;
        auto one = static_cast<const bfloat16*>(product.weight) + block * OUTS * ins;
        auto other = one + (pair - 1) * OUTS * ins;
        // The matrix is asked for in the order in which it lies in memory, before it is needed.
        auto ahead = reinterpret_cast<const char*>(one + 2 * OUTS * ins);
        ZERO_TILE(0);
        ZERO_TILE(1);
        if (second) {
            ZERO_TILE(2);
            ZERO_TILE(3);
        }
        for (int64_t in = 0; in < ins; in += GROUP) {
            for (int line = 0; line < 32; line++) _mm_prefetch(ahead + line * 64, _MM_HINT_T1);
            ahead += 32 * 64;
            LOAD_TILE(6, one + in, 2 * ins);
            LOAD_TILE(7, other + in, 2 * ins);
            LOAD_TILE(4, packed + in / 2 * first, 4 * first);
            MULTIPLY_TILES(0, 6, 4);
            MULTIPLY_TILES(1, 7, 4);
            if (second) {
                LOAD_TILE(5, more + in / 2 * second, 4 * second);
                MULTIPLY_TILES(2, 6, 5);
                MULTIPLY_TILES(3, 7, 5);
            }
        }
        STORE_TILE(0, found[0], 4 * first);
        STORE_TILE(1, found[1], 4 * first);
        finish_tiles(found, product, block * OUTS, pair * OUTS, first, out);
        if (second) {
            STORE_TILE(2, found[0], 4 * second);
            STORE_TILE(3, found[1], 4 * second);
            finish_tiles(found, product, block * OUTS, pair * OUTS, second, out + TILE * product.outs);
        }
    }
}

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

    void fill(const bfloat16* x, int64_t ins) const {
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

inline void ask_for(const uint8_t* at, int64_t bytes) {
    for (int64_t byte = 0; byte < bytes; byte += 64) _mm_prefetch(reinterpret_cast<const char*>(at + byte), _MM_HINT_T1);
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

inline void multiply_whole(const Product& product, char* rows, int64_t tokens, int64_t from, int64_t to, bfloat16* out) {
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

// What a product multiplies with, made ready for its kind by all members together.
struct Input {
    const uint32_t* packed = nullptr;
    char* rounded = nullptr;
    int64_t tokens;

    // Bytes of memory that `Input` needs for so many inputs, one for all members and one for each.
    static int64_t shared_bytes(int64_t ins) { return MOST * ins * int64_t(sizeof(bfloat16)); }
    static int64_t own_bytes(int64_t ins) { return MOST * Rounded::bytes(ins); }

    // All have met since x was written.
    Input(Kind kind, const bfloat16* x, int64_t ins, int64_t tokens, char* shared, char* own, const Team& team)
        : tokens(tokens) {
        if (kind != BFLOAT16) {
            // Everybody rounds for himself: that takes less than to meet.
            for (int64_t token = 0; token < tokens; token++) Rounded(own, ins, token).fill(x + token * ins, ins);
            rounded = own;
        } else if (tokens == 1) {
            packed = reinterpret_cast<const uint32_t*>(x);
        } else {
            pack(x, ins, tokens, reinterpret_cast<uint32_t*>(shared), team);
            team.wait();
            packed = reinterpret_cast<const uint32_t*>(shared);
        }
    }

    // Outputs from block `from` of 16 to block `to`.
    void multiply(const Product& product, int64_t from, int64_t to, bfloat16* out) const {
        if (product.kind == BFLOAT16)
            multiply_tiles(product, packed, tokens, from, to, out);
        else
            multiply_whole(product, rounded, tokens, from, to, out);
    }

    // This member's share of the outputs.
    void multiply(const Product& product, bfloat16* out, const Team& team) const {
        int64_t blocks = product.outs / OUTS;
        multiply(product, team.first(blocks), team.last(blocks), out);
    }
};

#endif

}  // namespace
