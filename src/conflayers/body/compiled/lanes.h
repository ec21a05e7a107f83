// 16 numbers at once, in vectors as long as this processor's.
//
// Compilers know longer vectors too, but compute many things of them lane by lane: here those are arrays of short ones,
// with what is needed of a vector's operators. Which it is makes no difference to any number.
#pragma once
#include <cstdint>
#include <cstring>

namespace {

constexpr int64_t LANES = 16;

#if defined(__AVX512F__) && defined(__AVX512BW__)
#define LONG_REGISTERS 1
#endif

// Lanes of one register, and how many vectors of 16 the registers have room for.
#if defined(LONG_REGISTERS)
constexpr int64_t HELD = 16, REGISTERS = 32;
#elif defined(__AVX__)
constexpr int64_t HELD = 8, REGISTERS = 8;
#else
constexpr int64_t HELD = 4, REGISTERS = 4;
#endif
constexpr int64_t PARTS = LANES / HELD;

// What is not worth a call: arrays of vectors would go through memory.
#define ALWAYS inline __attribute__((always_inline))

template <class Number>
struct Vector {
    typedef Number held __attribute__((vector_size(HELD * sizeof(Number))));
};

typedef Vector<float>::held held;

template <class To>
inline To read(const void* from) {
    To to;
    std::memcpy(&to, from, sizeof to);
    return to;
}

#ifdef LONG_REGISTERS

template <class Number>
using Lanes = typename Vector<Number>::held;

template <class To, class From>
inline To converted(From x) {
    return __builtin_convertvector(x, To);
}

template <class Some>
inline Some chosen(Lanes<int32_t> which, Some a, Some b) {
    return which ? a : b;
}

template <class Some>
inline Some loaded(const void* from) {
    return read<Some>(from);
}

template <class Some>
inline void stored(Some x, void* to) {
    std::memcpy(to, &x, sizeof x);
}

#else

template <class Number>
struct Lanes {
    typedef Number number;
    typename Vector<Number>::held part[PARTS];

    Number operator[](int64_t lane) const { return part[lane / HELD][lane % HELD]; }
    template <class Other>
    Lanes& operator+=(const Other& other) {
        return *this = *this + other;
    }
};

// From part to part: whole arrays compilers copy in other pieces than those that are computed with, which the processor
// waits for.
template <class Some>
ALWAYS Some loaded(const void* from) {
    Some out;
    for (int64_t i = 0; i < PARTS; i++)
        std::memcpy(&out.part[i], static_cast<const char*>(from) + i * sizeof out.part[i], sizeof out.part[i]);
    return out;
}

template <class Some>
ALWAYS void stored(const Some& x, void* to) {
    for (int64_t i = 0; i < PARTS; i++)
        std::memcpy(static_cast<char*>(to) + i * sizeof x.part[i], &x.part[i], sizeof x.part[i]);
}

// A number is not what a vector's kind is known by.
template <class Number>
struct Given {
    typedef Number number;
};

#define OPERATOR(OP, RESULT)                                                                         \
    template <class Number>                                                                          \
    ALWAYS Lanes<RESULT> operator OP(const Lanes<Number>& a, const Lanes<Number>& b) {               \
        Lanes<RESULT> out;                                                                           \
        for (int64_t i = 0; i < PARTS; i++) out.part[i] = a.part[i] OP b.part[i];                    \
        return out;                                                                                  \
    }                                                                                                \
    template <class Number>                                                                          \
    ALWAYS Lanes<RESULT> operator OP(const Lanes<Number>& a, typename Given<Number>::number b) {     \
        Lanes<RESULT> out;                                                                           \
        for (int64_t i = 0; i < PARTS; i++) out.part[i] = a.part[i] OP b;                            \
        return out;                                                                                  \
    }                                                                                                \
    template <class Number>                                                                          \
    ALWAYS Lanes<RESULT> operator OP(typename Given<Number>::number a, const Lanes<Number>& b) {     \
        Lanes<RESULT> out;                                                                           \
        for (int64_t i = 0; i < PARTS; i++) out.part[i] = a OP b.part[i];                            \
        return out;                                                                                  \
    }

OPERATOR(+, Number)
OPERATOR(-, Number)
OPERATOR(*, Number)
OPERATOR(/, Number)
OPERATOR(&, Number)
OPERATOR(|, Number)
OPERATOR(<<, Number)
OPERATOR(>>, Number)
OPERATOR(==, int32_t)
OPERATOR(<, int32_t)
OPERATOR(>, int32_t)

template <class Number>
ALWAYS Lanes<Number> operator-(const Lanes<Number>& x) {
    Lanes<Number> out;
    for (int64_t i = 0; i < PARTS; i++) out.part[i] = -x.part[i];
    return out;
}

template <class To, class From>
ALWAYS To converted(const From& x) {
    To out;
    for (int64_t i = 0; i < PARTS; i++)
        out.part[i] = __builtin_convertvector(x.part[i], typename Vector<typename To::number>::held);
    return out;
}

template <class Some>
ALWAYS Some chosen(const Lanes<int32_t>& which, const Some& a, const Some& b) {
    Some out;
    for (int64_t i = 0; i < PARTS; i++) out.part[i] = which.part[i] ? a.part[i] : b.part[i];
    return out;
}

#endif

typedef Lanes<float> floats;
typedef Lanes<int32_t> ints;
typedef Lanes<uint32_t> words;
typedef Lanes<uint16_t> halves;
typedef Lanes<uint8_t> octets;

}  // namespace
