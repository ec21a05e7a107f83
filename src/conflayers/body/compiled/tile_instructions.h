// The processor's instructions for tiles, by the names that `tiles.h` uses. Compilers' own names for them leave out which
// memory they read.
#pragma once
#include <cstdint>
#include <sys/syscall.h>
#include <unistd.h>

#define LOAD_TILE(TO, FROM, APART) \
    asm volatile("tileloadd (%0,%1,1), %%tmm" #TO ::"r"(FROM), "r"(int64_t(APART)) : "memory")
#define STORE_TILE(FROM, TO, APART) \
    asm volatile("tilestored %%tmm" #FROM ", (%0,%1,1)" ::"r"(TO), "r"(int64_t(APART)) : "memory")
#define ZERO_TILE(TO) asm volatile("tilezero %%tmm" #TO ::)
// What is in LEFT times what is in RIGHT is added to what is in TO.
#define MULTIPLY_TILES(TO, LEFT, RIGHT) asm volatile("tdpbf16ps %%tmm" #RIGHT ", %%tmm" #LEFT ", %%tmm" #TO ::)
#define STORE_TILE_SIZES(TO) asm volatile("sttilecfg (%0)" ::"r"(TO) : "memory")
#define LOAD_TILE_SIZES(FROM) asm volatile("ldtilecfg (%0)" ::"r"(FROM) : "memory")
#define RELEASE_TILES() asm volatile("tilerelease" ::)

namespace {

// The system gives tiles to those who ask.
inline bool tiles_allowed() {
    static const bool yes = syscall(SYS_arch_prctl, 0x1023, 18) == 0;
    return yes;
}

}  // namespace
