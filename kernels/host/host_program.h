// Runs a list of kernels and products one after the other, each of them cut into parts that all threads share.
//
// The threads are the process's own few, and sleep when nothing has come for a while. Parts are taken one by one by
// whoever is free: a thread that the system has put aside keeps one part waiting, not its share of everything. The
// thread that calls takes parts like the others, so where a list has no parts worth sharing it runs alone.
#pragma once

#include <atomic>
#include <pthread.h>
#include <sched.h>

namespace gpumlp {

typedef long long i64;
typedef unsigned long long u64;

struct Node {
    void (*run)(const u64* slots, i64 index, i64 count);
    const u64* slots;
    i64 parts;
};

inline void breathe() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Numbers too small for a full mantissa count as 0, as they do on a GPU. Momentum of a unit that has died decays into
// them, and a processor takes a hundred times as long for each.
struct FlushDenormals {
#if defined(__SSE2__)
    unsigned before = __builtin_ia32_stmxcsr();
    FlushDenormals() { __builtin_ia32_ldmxcsr(before | 0x8040u); }  // FTZ and DAZ
    ~FlushDenormals() { __builtin_ia32_ldmxcsr(before); }
#elif defined(__aarch64__)
    u64 before;
    FlushDenormals() {
        asm volatile("mrs %0, fpcr" : "=r"(before));
        asm volatile("msr fpcr, %0" : : "r"(before | (1ull << 24)));  // FZ
    }
    ~FlushDenormals() { asm volatile("msr fpcr, %0" : : "r"(before)); }
#endif
};

// Threads that take the parts of one node after the other, without locks. Unless something else is written beside it,
// every access is sequentially consistent; what holds, and why:
//
// 1. One caller at a time shares its nodes: it holds `taken_` from its first node to its last. `helpers_` and `full_` are
//    its own. Other callers go alone.
// 2. A node is published in the order node_, done_, owners_, tickets_, calls_. A thread takes a part by `fetch_add` on
//    a ticket: it has read what was written before that ticket was opened, so `node_` is the node that the part is of.
// 3. A part is run by one thread: `fetch_add` gives each number once, and a number beyond the end of a ticket is dropped.
//    A thread still in `work` for an earlier node may find tickets of the next one open, and rightly takes from them.
//    With `owners_` of that earlier node it may pass over some: the caller looks at them all.
// 4. `done_` loses no count. The caller goes on when it equals the number of parts, after which no thread has a part of
//    this node to count any more; it is set to 0 before the first ticket of the next node opens.
// 5. What a part has written is read by the next node: `fetch_add` on `done_` comes after the part, the caller reads
//    `done_` before it opens the next tickets, and these are read before the next part runs. The caller returns, and its
//    nodes may be gone, only then; a helper reads nothing of a node once it has counted.
// 6. Looks at a ticket before a part is taken, and at `calls_` before a thread sleeps, may be relaxed: one that is too old
//    costs a `fetch_add` on a closed ticket, or another look. A ticket is closed by its end, not by what was taken beyond
//    it, which is at most one number a thread for each time that it was open.
// 7. Nobody sleeps through a node. A helper counts itself in `asleep_`, then reads `calls_`; a caller counts in `calls_`,
//    then reads `asleep_`. One of the two sees the other, and the lock orders the bell after the wait.
//
// `tests/backend/test_threads.py` runs this under ThreadSanitizer, and forms of it in which one of these does not hold.
class Crew {
    static constexpr int PATIENCE = 1000;  // looks before a thread lets others go first: some 50 microseconds
    static constexpr int YIELDS = 500;     // times it does so before it sleeps: some 200 more; to wake it takes 30
    static constexpr int MOST = 64;        // threads that have parts of their own; more only help

    // What one thread is to take: in 32 bits the end of its parts, in 32 the next of them. A thread takes its own parts
    // first, the same ones of every node of that many: what it wrote lies in its cache. Then it takes others'.
    struct alignas(64) Ticket { std::atomic<u64> next{0}; };

    Ticket tickets_[MOST];
    std::atomic<const Node*> node_{nullptr};
    std::atomic<int> owners_{1};
    std::atomic<u64> calls_{0};
    std::atomic<i64> done_{0};
    std::atomic<int> asleep_{0};
    std::atomic_flag taken_ = ATOMIC_FLAG_INIT;
    pthread_mutex_t door_ = PTHREAD_MUTEX_INITIALIZER;
    pthread_cond_t bell_ = PTHREAD_COND_INITIALIZER;
    int helpers_ = 0;
    std::atomic<int> numbers_{0};
    bool full_ = false;  // the system gives no more threads: those there are will do, or the one that calls

    // A step has stretches for one thread alone. A helper that slept through them would come late to what follows; one
    // that only looked would hold a core that another process could use.
    static void wait(int look) {
        if (look < PATIENCE) breathe();
        else sched_yield();
    }

    static bool open(u64 ticket) { return (ticket & 0xFFFFFFFF) < ticket >> 32; }

    void work(int number) {
        const int owners = owners_.load();
        for (int k = 0; k < owners; ++k) {
            std::atomic<u64>& next = tickets_[(number + k) % owners].next;
            while (open(next.load(std::memory_order_relaxed))) {
                const u64 mine = next.fetch_add(1);
                if (!open(mine)) break;
                const Node* node = node_.load();
                node->run(node->slots, (i64)(mine & 0xFFFFFFFF), node->parts);
                done_.fetch_add(1);
            }
        }
    }

    void help() {
        FlushDenormals always;
        const int number = numbers_.fetch_add(1) + 1;
        for (u64 heard = 0;; heard = calls_.load(), work(number)) {
            for (int look = 0; look < PATIENCE + YIELDS && calls_.load(std::memory_order_relaxed) == heard; ++look)
                wait(look);
            if (calls_.load() != heard) continue;
            pthread_mutex_lock(&door_);
            asleep_.fetch_add(1);
            while (calls_.load() == heard) pthread_cond_wait(&bell_, &door_);
            asleep_.fetch_sub(1);
            pthread_mutex_unlock(&door_);
        }
    }

    static void* start(void* crew) {
        ((Crew*)crew)->help();
        return nullptr;
    }

    void hire(int wanted) {
        pthread_t helper;
        while (helpers_ < wanted && !full_) {
            full_ = pthread_create(&helper, nullptr, start, this) != 0;
            if (full_) return;
            pthread_detach(helper);
            ++helpers_;
        }
    }

    void share(const Node& node, int owners) {
        node_.store(&node);
        done_.store(0);
        owners_.store(owners);
        for (int k = 0; k < owners; ++k)
            tickets_[k].next.store((u64)(node.parts * (k + 1) / owners) << 32 | (u64)(node.parts * k / owners));
        calls_.fetch_add(1);
        if (asleep_.load() > 0) {
            pthread_mutex_lock(&door_);
            pthread_cond_broadcast(&bell_);
            pthread_mutex_unlock(&door_);
        }
        work(0);
        for (int look = 0; done_.load() < node.parts; ++look) wait(look);
    }

  public:
    // `threads` counts the one that calls. Helpers stay, and help with whatever list comes next.
    void run(const Node* nodes, i64 count, int threads) {
        FlushDenormals while_it_runs;
        const bool shared = !taken_.test_and_set();  // another thread's list has the helpers: this one goes alone
        for (const Node* node = nodes; node < nodes + count; ++node) {
            if (shared && threads > 1 && node->parts > 1) {
                hire(threads - 1);
                share(*node, threads < MOST ? threads : MOST);
            } else {
                for (i64 part = 0; part < node->parts; ++part) node->run(node->slots, part, node->parts);
            }
        }
        if (shared) taken_.clear();
    }
};

inline Crew*& crew() {  // never deleted: its threads live as long as the process
    static Crew* only = nullptr;
    return only;
}

inline void renew() { crew() = new Crew; }  // in a process made by fork, too: threads do not come along

}  // namespace gpumlp

extern "C" void gpumlp_run(const gpumlp::Node* nodes, long long count, long long threads) {
    static const bool ready = [] {
        gpumlp::renew();
#if defined(__unix__) || defined(__APPLE__)
        pthread_atfork(nullptr, nullptr, gpumlp::renew);
#endif
        return true;
    }();
    (void)ready;
    gpumlp::crew()->run(nodes, count, (int)threads);
}
