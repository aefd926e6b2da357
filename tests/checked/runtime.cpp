// The machine under the checked form: runs the threads of a launch as fibres and sees every access to memory.
//
// Kernels are compiled with -fsanitize=thread,... and linked with this file in the place of the sanitizers' own
// libraries, so that each access, each index and each basic block calls a function of this file first. The first thing
// that is wrong ends the launch, before it is done: nothing can be damaged by it.
//
// Two accesses to a byte race if they are of two blocks, or of two threads of a block with no barrier between, and one
// of them writes. That is told from the epochs (barriers passed) of the last write and the last reads, so that any
// schedule shows it. A shuffle orders nothing in memory, as in CUDA.
//
// A report holds addresses in this library as "@hex", which machine.py replaces by lines.

#include <cxxabi.h>
#include <dlfcn.h>
#include <link.h>
#include <ucontext.h>

#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

typedef uint8_t u8;
typedef uint32_t u32;
typedef unsigned long long u64;
typedef long long i64;

struct Index {
    u32 x, y, z;
};

extern "C" {
Index threadIdx, blockIdx, blockDim, gridDim;
}

// An array that the kernels may touch. `written` has a byte for each of the array's: whether it has a value yet.
struct Region {
    const char* name;
    u64 base, size, item, writable;
    u8* written;
};

struct Launch {
    void (*entry)(const u64* slots);
    const u64* slots;
    u64 arguments;
    u32 grid[3], block[2];
    const Region* regions;
    u64 count;
    u64 order;  // 0 forward, 1 backward, beyond: the seed of a shuffle
    u64 steps;  // basic blocks after which a thread counts as endless
    char* stacks;
};

namespace {

constexpr u64 STACK = 1 << 16, WARP = 32, MOST_THREADS = 1024;
constexpr u32 NONE = 0, SEVERAL = 0xffffffff;

// ---- what is known of each byte --------------------------------------------------------------------------------

struct Access {
    u32 block = NONE, thread = NONE, epoch = 0, line = 0;  // block and thread count from 1; line is an address
};
struct Cell {
    Access write, read;
};

enum State { READY, AT_BARRIER, AT_SHUFFLE, RETURNED };

struct Fibre {
    void* top;  // its stack pointer while it does not run
    char* stack;
    Index index;
    State state;
    const char* file;  // where it waits, and with what
    int line, distance;
    u32 mask;
    u64 value, steps;
};

Launch launch;
std::vector<std::vector<Cell>> cells;  // of each region
std::vector<Cell> shared;              // of this library's variables: those of a kernel are its shared memory
std::vector<Fibre> fibres;
Fibre* now;
void* scheduler;
u32 block, epoch;
u64 threads, library, shared_from, shared_to, library_end, seed;
char report[2048];

// ---- switching -------------------------------------------------------------------------------------------------

#if defined(__x86_64__)

extern "C" void checked_switch(void** from, void* to);
asm(R"(
.text
.hidden checked_switch
.globl checked_switch
checked_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");

void* prepare(Fibre& fibre, void (*body)()) {
    void** top = (void**)(fibre.stack + STACK) - 1;  // so that the body finds its stack aligned as by a call
    *--top = (void*)body;
    return top - 6;
}

#else

std::vector<ucontext_t> contexts(MOST_THREADS + 1);

void* prepare(Fibre& fibre, void (*body)()) {
    ucontext_t& context = contexts[&fibre - &fibres[0]];
    getcontext(&context);
    context.uc_stack.ss_sp = fibre.stack;
    context.uc_stack.ss_size = STACK;
    makecontext(&context, body, 0);
    return &context;
}

void checked_switch(void** from, void* to) {
    ucontext_t& here = contexts[from == &scheduler ? MOST_THREADS : now - &fibres[0]];
    *from = &here;
    swapcontext(&here, (ucontext_t*)to);
}

#endif

void wait() { checked_switch(&now->top, scheduler); }

// ---- reports ---------------------------------------------------------------------------------------------------

void name_thread(char* text, size_t room, u32 of_block, u32 thread) {
    const Index at = fibres[thread - 1].index;
    u32 b = of_block - 1;
    snprintf(text, room, "thread (%u, %u) of block (%u, %u)", at.x, at.y, b % launch.grid[0], b / launch.grid[0]);
}

u32 thread_number() { return (u32)(now - &fibres[0]) + 1; }

// Ends the launch with a report: what is wrong, the thread that runs, what it does. The thread never runs again.
[[noreturn]] __attribute__((format(printf, 2, 3))) void found(const char* what, const char* format, ...) {
    char who[80], deed[1024];
    name_thread(who, sizeof who, block, thread_number());
    va_list list;
    va_start(list, format);
    vsnprintf(deed, sizeof deed, format, list);
    va_end(list);
    snprintf(report, sizeof report, "%s: %s %s", what, who, deed);
    wait();
    abort();
}

// Where an address is: "x[3]", or the shared array it lies in.
struct Place {
    char text[200];
};

Place place_of(const Region& region, u64 at) {
    Place place;
    u64 offset = at - region.base;
    snprintf(place.text, sizeof place.text, "%s[%llu]", region.name, offset / region.item);
    return place;
}

Place place_in_shared(u64 at) {
    Place place;
    Dl_info info;
    if (dladdr((void*)at, &info) && info.dli_sname) {
        int status;
        char* clear = abi::__cxa_demangle(info.dli_sname, nullptr, nullptr, &status);
        snprintf(
            place.text, sizeof place.text, "shared memory (%.150s + %llu bytes)", clear ? clear : info.dli_sname,
            at - (u64)info.dli_saddr
        );
        free(clear);
    } else {
        snprintf(place.text, sizeof place.text, "shared memory");
    }
    return place;
}

// ---- every access ----------------------------------------------------------------------------------------------

[[noreturn]] void found_race(const Place& place, const char* verb, const Access& other, const char* did, u32 line) {
    char whom[80] = "several threads";
    if (other.thread != SEVERAL) name_thread(whom, sizeof whom, other.block, other.thread);
    bool within = other.block == block;
    found(
        within ? "race" : "race between blocks", "%s %s at @%x, which %s %s at @%x%s", verb, place.text, line, whom, did,
        other.line, within ? ", with no barrier between" : ""
    );
}

bool ordered(const Access& before, u32 thread) {
    if (before.block == NONE) return true;
    if (before.block != block) return false;
    return before.thread == thread || before.epoch != epoch;
}

// Marks an access to one byte. False where it races with another.
bool mark(Cell& cell, bool write, u32 line, const Access*& other, const char*& did) {
    u32 thread = thread_number();
    if (!ordered(cell.write, thread)) {
        other = &cell.write;
        did = write ? "wrote too" : "wrote";
        return false;
    }
    if (write) {
        if (!ordered(cell.read, thread)) {
            other = &cell.read;
            did = "reads";
            return false;
        }
        cell.write = {block, thread, epoch, line};
        return true;
    }
    if (cell.read.block != NONE && cell.read.block != block)
        cell.read = {SEVERAL, SEVERAL, epoch, line};
    else if (cell.read.block == block && cell.read.epoch == epoch && cell.read.thread != thread)
        cell.read.thread = SEVERAL;
    else
        cell.read = {block, thread, epoch, line};
    return true;
}

void access_shared(u64 at, u64 size, bool write, u32 line) {
    for (u64 i = 0; i < size; ++i) {
        Cell& cell = shared[at + i - shared_from];
        if (cell.write.block != block) cell = Cell();  // what another block has left is gone
        if (!write && cell.write.block == NONE)
            found("uninitialised read", "reads %s at @%x before any write", place_in_shared(at + i).text, line);
        const Access* other;
        const char* did;
        if (!mark(cell, write, line, other, did))
            found_race(place_in_shared(at + i), write ? "writes" : "reads", *other, did, line);
    }
}

void access_region(u64 number, u64 at, u64 size, bool write, u32 line) {
    const Region& region = launch.regions[number];
    if (write && !region.writable)
        found("write to an input", "writes %s at @%x", place_of(region, at).text, line);
    for (u64 i = at - region.base; i < at - region.base + size; ++i) {
        if (!write && !region.written[i])
            found("uninitialised read", "reads %s at @%x before any write", place_of(region, region.base + i).text, line);
        const Access* other;
        const char* did;
        if (!mark(cells[number][i], write, line, other, did))
            found_race(place_of(region, region.base + i), write ? "writes" : "reads", *other, did, line);
        if (write) region.written[i] = 1;
    }
}

[[noreturn]] void found_outside(u64 at, u64 size, bool write, u32 line) {
    const char *verb = write ? "writes" : "reads", *side = "behind";
    const Region* nearest = nullptr;
    u64 least = ~0ull;
    for (u64 i = 0; i < launch.count; ++i) {
        const Region& region = launch.regions[i];
        bool before = at < region.base;
        u64 end = region.base + region.size, distance = before ? region.base - at : at + size - end;
        if (distance < least) {
            least = distance;
            nearest = &region;
            side = before ? "before" : "behind";
        }
    }
    if (!at || !nearest) found("out of bounds", "%s %llu bytes at null at @%x", verb, size, line);
    found(
        "out of bounds", "%s %llu bytes, reaching %llu bytes %s %s, at @%x", verb, size, least, side, nearest->name,
        line
    );
}

void access(const void* address, u64 size, bool write, const void* caller) {
    if (!now || !size) return;
    u64 at = (u64)address;
    u32 line = (u32)((u64)caller - library - 1);
    if (at - (u64)now->stack < STACK && at + size - (u64)now->stack <= STACK) return;  // its own
    if (at >= shared_from && at + size <= shared_to) return access_shared(at, size, write, line);
    for (u64 i = 0; i < launch.count; ++i) {
        const Region& region = launch.regions[i];
        if (at >= region.base && at + size <= region.base + region.size) return access_region(i, at, size, write, line);
    }
    u64 slots = (u64)launch.slots;
    if (!write && at >= slots && at + size <= slots + 8 * launch.arguments) return;
    if (!write && at >= library && at + size <= library_end) return;  // constants
    if (at >= (u64)launch.stacks && at < (u64)launch.stacks + MOST_THREADS * STACK)
        found("out of bounds", "%s local memory of another thread at @%x", write ? "writes" : "reads", line);
    found_outside(at, size, write, line);
}

// ---- running ---------------------------------------------------------------------------------------------------

u64 random_below(u64 n) {
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed % n;
}

// Makes 0..n-1 of `order`, as the launch says.
void arrange(std::vector<u32>& order, u64 n) {
    order.resize(n);
    for (u64 i = 0; i < n; ++i) order[i] = (u32)(launch.order == 1 ? n - 1 - i : i);
    if (launch.order > 1)
        for (u64 i = n; i > 1; --i) std::swap(order[i - 1], order[random_below(i)]);
}

void body() {
    launch.entry(launch.slots);
    now->state = RETURNED;
    wait();
}

// Nobody can go on: says who waits where.
void report_stall() {
    u64 returned = 0, shuffling = 0;
    for (u64 i = 0; i < threads; ++i) {
        returned += fibres[i].state == RETURNED;
        shuffling += fibres[i].state == AT_SHUFFLE;
    }
    const char* what = shuffling ? "divergent shuffle" : returned ? "return before a barrier" : "divergent barrier";
    u32 b = block - 1;
    int used = snprintf(report, sizeof report, "%s: of block (%u, %u)", what, b % launch.grid[0], b / launch.grid[0]);
    std::vector<bool> told(threads);
    for (u64 i = 0; i < threads && used < (int)sizeof report - 200; ++i) {
        const Fibre& one = fibres[i];
        if (told[i] || one.state == RETURNED) continue;
        u64 alike = 0;
        for (u64 j = i; j < threads; ++j) {
            const Fibre& other = fibres[j];
            if (other.state != one.state || other.line != one.line || strcmp(other.file, one.file)) continue;
            if (one.state == AT_SHUFFLE && other.mask != one.mask) continue;
            told[j] = true;
            ++alike;
        }
        used += snprintf(
            report + used, sizeof report - used, ", %llu threads from (%u, %u) wait %s %s:%d", alike, one.index.x,
            one.index.y, one.state == AT_SHUFFLE ? "in the shuffle at" : "at the barrier at", one.file, one.line
        );
        if (one.state == AT_SHUFFLE) used += snprintf(report + used, sizeof report - used, " for lanes %#x", one.mask);
    }
    snprintf(report + used, sizeof report - used, ", %llu have returned", returned);
}

// Lets all go on if all have come to the same barrier.
bool open_barrier() {
    for (u64 i = 0; i < threads; ++i) {
        const Fibre& one = fibres[i];
        if (one.state != AT_BARRIER || one.line != fibres[0].line || strcmp(one.file, fibres[0].file)) return false;
    }
    for (u64 i = 0; i < threads; ++i) fibres[i].state = READY;
    ++epoch;
    return true;
}

bool run_block() {
    std::vector<u32> order;
    epoch = 1;
    for (u64 i = 0; i < threads; ++i) {
        fibres[i].index = {(u32)(i % launch.block[0]), (u32)(i / launch.block[0]), 0};
        fibres[i].state = READY;
        fibres[i].steps = launch.steps;
        fibres[i].stack = launch.stacks + i * STACK;
        fibres[i].top = prepare(fibres[i], body);
    }
    for (;;) {
        bool moved = false, left = false;
        arrange(order, threads);
        for (u32 i : order) {
            if (fibres[i].state != READY) continue;
            moved = true;
            now = &fibres[i];
            threadIdx = now->index;
            checked_switch(&scheduler, now->top);
            now = nullptr;
            if (report[0]) return false;
        }
        for (u64 i = 0; i < threads; ++i) left |= fibres[i].state != RETURNED;
        if (!left) return true;
        if (!moved && !open_barrier()) {
            report_stall();
            return false;
        }
    }
}

int find_segments(dl_phdr_info* info, size_t, void*) {
    if (info->dlpi_addr != library) return 0;
    for (int i = 0; i < info->dlpi_phnum; ++i) {
        const ElfW(Phdr)& part = info->dlpi_phdr[i];
        if (part.p_type != PT_LOAD) continue;
        u64 from = library + part.p_vaddr, to = from + part.p_memsz;
        if (to > library_end) library_end = to;
        if (part.p_flags & PF_W) {
            shared_from = from;
            shared_to = to;
        }
    }
    return 1;
}

void prepare_once() {
    Dl_info info;
    dladdr((void*)&prepare_once, &info);
    library = (u64)info.dli_fbase;
    dl_iterate_phdr(find_segments, nullptr);
    fibres.resize(MOST_THREADS);
}

}  // namespace

extern "C" {

#define EXPORTED __attribute__((visibility("default")))

// Runs a launch; returns what was found, nothing if all is well.
EXPORTED const char* checked_run(const Launch* given) {
    if (!library) prepare_once();
    launch = *given;
    report[0] = 0;
    threads = (u64)launch.block[0] * launch.block[1];
    u64 blocks = (u64)launch.grid[0] * launch.grid[1] * launch.grid[2];
    if (!threads || threads > MOST_THREADS || !blocks || launch.grid[1] > 65535) {
        snprintf(
            report, sizeof report, "bad launch: grid (%u, %u), block (%u, %u)", launch.grid[0], launch.grid[1],
            launch.block[0], launch.block[1]
        );
        return report;
    }
    seed = launch.order * 0x9E3779B97F4A7C15u + 1;
    cells.clear();
    for (u64 i = 0; i < launch.count; ++i) cells.emplace_back(launch.regions[i].size);
    shared.assign(shared_to - shared_from, Cell());
    blockDim = {launch.block[0], launch.block[1], 1};
    gridDim = {launch.grid[0], launch.grid[1], launch.grid[2]};
    std::vector<u32> order;
    arrange(order, blocks);
    for (u32 i : order) {
        block = i + 1;
        blockIdx = {i % launch.grid[0], i / launch.grid[0] % launch.grid[1], i / launch.grid[0] / launch.grid[1]};
        if (!run_block()) break;
    }
    return report;
}

// ---- called by kernels -----------------------------------------------------------------------------------------

void checked_barrier(const char* file, int line) {
    now->state = AT_BARRIER;
    now->file = file;
    now->line = line;
    wait();
}

u64 checked_shuffle(u32 mask, u64 value, int distance, const char* file, int line) {
    u32 me = thread_number() - 1, lane = me % WARP, first = me - lane;
    if (!(mask >> lane & 1))
        found("wrong mask", "is not among the lanes %#x of its shuffle at %s:%d", mask, file, line);
    if (u32 from = lane ^ distance; from >= WARP || !(mask >> from & 1))
        found("wrong mask", "takes from lane %u, which is not among %#x, at %s:%d", from, mask, file, line);
    now->state = AT_SHUFFLE;
    now->file = file;
    now->line = line;
    now->distance = distance;
    now->mask = mask;
    now->value = value;
    bool all = true;
    for (u32 i = 0; i < WARP; ++i) {
        if (!(mask >> i & 1)) continue;
        const Fibre* other = first + i < threads ? &fibres[first + i] : nullptr;
        all = all && other && other->state == AT_SHUFFLE && other->mask == mask && other->line == line &&
              other->distance == distance && !strcmp(other->file, file);
    }
    if (all) {
        u64 values[WARP];
        for (u32 i = 0; i < WARP; ++i)
            if (mask >> i & 1) values[i] = fibres[first + i].value;
        for (u32 i = 0; i < WARP; ++i)
            if (mask >> i & 1) {
                fibres[first + i].value = values[i ^ distance];
                fibres[first + i].state = READY;
            }
    } else {
        wait();
    }
    return now->value;
}

// ---- called by what the compiler puts in -----------------------------------------------------------------------

#define CALLER __builtin_return_address(0)
#define CHECKED_ACCESS(size)                                                                                     \
    void __tsan_read##size(void* at) { access(at, size, false, CALLER); }                                        \
    void __tsan_write##size(void* at) { access(at, size, true, CALLER); }                                        \
    void __tsan_unaligned_read##size(void* at) { access(at, size, false, CALLER); }                              \
    void __tsan_unaligned_write##size(void* at) { access(at, size, true, CALLER); }
CHECKED_ACCESS(1)
CHECKED_ACCESS(2)
CHECKED_ACCESS(4)
CHECKED_ACCESS(8)
CHECKED_ACCESS(16)
void __tsan_read_range(void* at, u64 size) { access(at, size, false, CALLER); }
void __tsan_write_range(void* at, u64 size) { access(at, size, true, CALLER); }
void* __tsan_memcpy(void* to, const void* from, u64 size) {
    access(from, size, false, CALLER);
    access(to, size, true, CALLER);
    return memcpy(to, from, size);
}
void* __tsan_memset(void* to, int value, u64 size) {
    access(to, size, true, CALLER);
    return memset(to, value, size);
}
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}

void __sanitizer_cov_trace_pc() {
    if (!now || --now->steps) return;
    now->steps = launch.steps;
    found("no end", "is still at @%x", (u32)((u64)CALLER - library - 1));
}

struct Source {
    const char* file;
    u32 line, column;
};
struct Mismatch {
    Source source;
    void* type;
    u8 log_alignment, kind;
};

void __ubsan_handle_type_mismatch_v1(Mismatch* data, u64 at) {
    u64 alignment = 1ull << data->log_alignment;
    if (!at) found("out of bounds", "uses a null pointer at %s:%u", data->source.file, data->source.line);
    const char* name = "an address";
    Place place;
    for (u64 i = 0; i < launch.count; ++i)
        if (at - launch.regions[i].base < launch.regions[i].size) name = (place = place_of(launch.regions[i], at)).text;
    found(
        "misaligned", "uses %s as one of %llu bytes at once, %llu past such a place, at %s:%u", name, alignment,
        at % alignment, data->source.file, data->source.line
    );
}

void __ubsan_handle_out_of_bounds(Source* at, i64 index) {
    found("out of bounds", "uses index %lld of an array at %s:%u", index, at->file, at->line);
}

#define CHECKED_ARITHMETIC(name, text)                                                                            \
    void __ubsan_handle_##name(Source* at) { found("arithmetic", "has " text " at %s:%u", at->file, at->line); }
CHECKED_ARITHMETIC(shift_out_of_bounds, "a shift by more bits than there are")
CHECKED_ARITHMETIC(divrem_overflow, "a division by zero")
CHECKED_ARITHMETIC(add_overflow, "a sum beyond its type")
CHECKED_ARITHMETIC(sub_overflow, "a difference beyond its type")
CHECKED_ARITHMETIC(mul_overflow, "a product beyond its type")
CHECKED_ARITHMETIC(negate_overflow, "a negation beyond its type")
CHECKED_ARITHMETIC(float_cast_overflow, "a number beyond the whole type it is cast to")
CHECKED_ARITHMETIC(missing_return, "a function that returns nothing")

}  // extern "C"
