// The fast form of the kernels on a CPU: a block is one thread, a warp is one lane.
//
// Everything of prelude.cuh in which that shows is defined here, so that a kernel's loops become plain ones, marked
// for the vectoriser, and its reductions over lanes and warps vanish. What a launch spreads over a grid is spread
// over `parts`: each works on a run of neighbouring elements, rows or columns, wherever it is run.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

#define GPUMLP_HOST
#define __global__
#define __device__
#define GPUMLP_PRAGMA(text) _Pragma(#text)

namespace gpumlp {

typedef long long i64;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned char u8;

constexpr int WARP = 1;
constexpr int OWN = 1024;  // sums of a tile of columns: within the first cache, long enough for vectors

struct Part { i64 index, count; };
inline thread_local Part part = {0, 1};

inline i64 first_of(i64 n) { return n * part.index / part.count; }
inline i64 last_of(i64 n) { return n * (part.index + 1) / part.count; }
inline i64 at_most(i64 a, i64 b) { return a < b ? a : b; }

inline int lane() { return 0; }
inline int warp() { return 0; }
inline int warps() { return 1; }

#define EACH(i, n) GPUMLP_PRAGMA(omp simd) for (i64 i = first_of(n); i < last_of(n); ++i)
#define EACH_ROW(r, rows) for (i64 r = first_of(rows), r##_end = last_of(rows); r < r##_end; ++r)
#define EACH_COLUMN(c, cols) GPUMLP_PRAGMA(omp simd) for (i64 c = 0; c < (cols); ++c)
#define WARP_ROWS(r, rows) EACH_ROW(r, rows)
#define BLOCK_ROWS(r, rows) for (i64 r = 0; r < (rows); ++r)
#define LANES(c, cols) GPUMLP_PRAGMA(omp simd) for (i64 c = 0; c < (cols); ++c)
#define LANES_SUM(c, cols, s) GPUMLP_PRAGMA(omp simd reduction(+ : s)) for (i64 c = 0; c < (cols); ++c)
#define LANES_SUM2(c, cols, s, t) GPUMLP_PRAGMA(omp simd reduction(+ : s, t)) for (i64 c = 0; c < (cols); ++c)
#define LANES_MAX(c, cols, m) GPUMLP_PRAGMA(omp simd reduction(max : m)) for (i64 c = 0; c < (cols); ++c)
#define COLUMN_TILES(c0, cols) for (i64 c0 = first_of(cols), c0##_end = last_of(cols); c0 < c0##_end; c0 += OWN)
#define OWNED(k, c, c0, cols)                                                                    \
    GPUMLP_PRAGMA(omp simd)                                                                      \
    for (int k = 0; k < (int)at_most(OWN, c0##_end - c0); ++k)                                   \
        if (i64 c = c0 + k; true)

template <class T> inline T warp_sum(T x) { return x; }
template <class T> inline T warp_max(T x) { return x; }
template <class T> inline T block_sum_of_warps(T x) { return x; }
template <class T> inline void block_sum_of_lanes(T (&)[OWN]) {}

// The place of the largest value in a row, the first of equal ones; NaN is larger than any number.
template <class T> inline i64 argmax(const T* row, i64 cols) {
    i64 best = 0;
    for (i64 c = 1; c < cols; ++c)
        if (row[c] > row[best] || (row[c] != row[c] && row[best] == row[best])) best = c;
    return best;
}

// ---- launching -------------------------------------------------------------------------------------------------

// An argument in eight bytes: a pointer, a whole number or a double, as the kernel's signature says.
template <class A> inline A from_slot(const u64& slot) {
    static_assert(sizeof(A) == 8, "kernels take pointers, i64 and double");
    A value;
    std::memcpy(&value, &slot, 8);
    return value;
}

template <class... A, std::size_t... I>
inline void call(void (*kernel)(A...), const u64* slots, std::index_sequence<I...>) {
    kernel(from_slot<A>(slots[I])...);
}

// Numbers too small for a full mantissa count as 0 while a kernel runs, as they do on a GPU. Momentum of a unit that
// has died decays into them, and a processor takes a hundred times as long for each.
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

template <class... A> inline void launch(void (*kernel)(A...), const u64* slots, i64 index, i64 count) {
    FlushDenormals while_it_runs;
    part = {index, count};
    call(kernel, slots, std::index_sequence_for<A...>{});
}

}  // namespace gpumlp

#define GPUMLP_ENTRY(symbol, ...)                                                                  \
    extern "C" void symbol(const unsigned long long* slots, long long index, long long count) {    \
        gpumlp::launch(&gpumlp::__VA_ARGS__, slots, index, count);                                 \
    }
