// Threads that share the work of one pass. They are those that torch computes with, where its threads are GNU's.
#pragma once
#include <atomic>
#include <cstdint>
#include <thread>

extern "C" void GOMP_parallel(void (*)(void*), void*, unsigned, unsigned) __attribute__((weak));
extern "C" int omp_get_thread_num() __attribute__((weak));
extern "C" int omp_get_num_threads() __attribute__((weak));

namespace {

// After so many looks whoever waits lets others run: there may be more threads than processors.
constexpr int LOOKS = 1 << 11;

// What a thread that looks again and again does in between.
inline void rest() {
#ifdef __x86_64__
    __builtin_ia32_pause();
#endif
}

struct Meeting {
    std::atomic<int64_t> arrived{0}, held{0};
};

struct Team {
    int64_t member, members;
    Meeting* meeting;

    // Until all are here, with what they wrote.
    void wait() const {
        if (members == 1) return;
        int64_t before = meeting->held.load(std::memory_order_acquire);
        if (meeting->arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == members) {
            meeting->arrived.store(0, std::memory_order_relaxed);
            meeting->held.store(before + 1, std::memory_order_release);
            return;
        }
        for (int looks = 0; meeting->held.load(std::memory_order_acquire) == before; looks++)
            if (looks < LOOKS)
                rest();
            else
                std::this_thread::yield();
    }

    int64_t first(int64_t count) const { return count * member / members; }
    int64_t last(int64_t count) const { return count * (member + 1) / members; }

    // This member's share of so many.
    template <class Work>
    void share(int64_t count, Work work) const {
        for (int64_t i = first(count), end = last(count); i < end; i++) work(i);
    }
};

// Runs `work` in up to so many threads at once.
template <class Work>
void together(int64_t threads, Work work) {
    struct All {
        Work& work;
        Meeting meeting;
    } all{work, {}};
    if (threads < 2 || !GOMP_parallel || !omp_get_thread_num || !omp_get_num_threads) {
        work(Team{0, 1, &all.meeting});
        return;
    }
    auto entry = [](void* given) {
        All& all = *static_cast<All*>(given);
        all.work(Team{omp_get_thread_num(), omp_get_num_threads(), &all.meeting});
    };
    GOMP_parallel(entry, &all, unsigned(threads), 0);
}

}  // namespace
