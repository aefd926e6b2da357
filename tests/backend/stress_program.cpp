// Behind kernels/host/host_program.h: callers that compete for the helpers, with lists of many short nodes of any number
// of parts. Every part counts itself in memory of its own, without atomics: a part that is run twice, left out, run too
// early or seen too late is a wrong number, and a data race to ThreadSanitizer.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

namespace {

using gpumlp::i64;
using gpumlp::u64;

constexpr int CALLERS = 3, ROUNDS = 60, NODES = 40, MOST_PARTS = 70;

struct Memory {
    i64 runs[NODES][MOST_PARTS] = {};  // how often each part was run
    i64 sums[NODES] = {};              // of the node before, as the first part of a node found it
    i64 parts[NODES];
};

// A part counts itself; the first one also sums up what all parts of the node before have left.
void part(const u64* slots, i64 index, i64 count) {
    Memory& memory = *(Memory*)slots[0];
    const i64 node = (i64)slots[1];
    if (count != memory.parts[node] || index >= count) std::abort();
    if ((index * 7 + node) % 5 == 0) sched_yield();  // let another thread overtake this one
    memory.runs[node][index] += 1;
    if (index != 0 || node == 0) return;
    i64 sum = 0;
    for (i64 k = 0; k < memory.parts[node - 1]; ++k) sum += memory.runs[node - 1][k];
    memory.sums[node] = sum;
}

int call(unsigned seed) {
    for (int round = 0; round < ROUNDS; ++round) {
        Memory memory;
        u64 slots[NODES][2];
        gpumlp::Node nodes[NODES];
        for (i64 k = 0; k < NODES; ++k) {
            seed = seed * 1664525 + 1013904223;
            memory.parts[k] = (seed >> 16) % 3 == 0 ? 1 : 1 + (seed >> 20) % MOST_PARTS;
            slots[k][0] = (u64)&memory;
            slots[k][1] = (u64)k;
            nodes[k] = {part, slots[k], memory.parts[k]};
        }
        gpumlp_run(nodes, NODES, 2 + (seed >> 8) % 4);  // another number of threads, so of owners, each time
        for (i64 k = 0; k < NODES; ++k) {
            for (i64 p = 0; p < memory.parts[k]; ++p)
                if (memory.runs[k][p] != 1) 
                    return std::printf("part %lld of node %lld ran %lld times\n", p, k, memory.runs[k][p]);
            if (k > 0 && memory.sums[k] != memory.parts[k - 1])
                return std::printf("node %lld saw %lld parts of %lld\n", k, memory.sums[k], memory.parts[k - 1]);
        }
        if (round % 20 == 19) std::this_thread::sleep_for(std::chrono::milliseconds(2));  // helpers fall asleep
    }
    return 0;
}

}  // namespace

int main() {
    int wrong[CALLERS] = {};
    std::vector<std::thread> callers;
    for (int k = 0; k < CALLERS; ++k) callers.emplace_back([&wrong, k] { wrong[k] = call(k + 1); });
    for (auto& caller : callers) caller.join();
    for (int k = 0; k < CALLERS; ++k)
        if (wrong[k]) return 1;
    std::printf("every part ran once, after the node before\n");
    std::fflush(stdout);
    std::_Exit(0);  // the helpers live as long as the process
}
