// The fast form of the kernels on a CPU: a block is one thread, a team is one lane.
//
// Everything of prelude.cuh in which that shows is defined here, so that a kernel's loops become plain ones, marked
// for the vectoriser, and its reductions over lanes and teams vanish. What a launch spreads over a grid is spread
// over parts: each works on a run of neighbouring elements or rows, wherever it is run.

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#define GPUMLP_HOST
#define __global__
#define __device__ __attribute__((always_inline))  // as in host_math.h: clang leaves calls where g++ does not
#define GPUMLP_PRAGMA(text) _Pragma(#text)

namespace gpumlp {

typedef long long i64;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned char u8;

inline u32 bits_of(float x) {
    u32 bits;
    std::memcpy(&bits, &x, 4);
    return bits;
}
inline float from_bits(u32 bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}

constexpr int OWN = 1024;  // sums of a tile of columns: within the first cache, long enough for vectors
constexpr int ROW_RUN = 64;
constexpr int SHORT_ROW = 64;
constexpr int FEATURE_GROUPS = 2;  // a part goes through all codes for each of its groups

struct Part { i64 index, count; };
inline thread_local Part this_part = {0, 1};

inline i64 part() { return this_part.index; }
inline i64 first_of(i64 n) { return n * this_part.index / this_part.count; }
inline i64 last_of(i64 n) { return n * (this_part.index + 1) / this_part.count; }
inline i64 size_of_part(i64 n, i64 p, i64 parts) { return n * (p + 1) / parts - n * p / parts; }
inline i64 at_most(i64 a, i64 b) { return a < b ? a : b; }

inline int lane() { return 0; }
inline int lanes() { return 1; }
inline int team() { return 0; }
inline int thread() { return 0; }

#define EACH(i, n) GPUMLP_PRAGMA(omp simd) for (i64 i = first_of(n); i < last_of(n); ++i)
#define EACH_RUN(j, n) for (i64 j = first_of(n), j##_end = last_of(n); j < j##_end; ++j)
#define OF_RUN(q, count) GPUMLP_PRAGMA(omp simd) for (int q = 0; q < (count); ++q)
#define OF_RUN_SUM2(q, count, s, t) GPUMLP_PRAGMA(omp simd reduction(+ : s, t)) for (int q = 0; q < (count); ++q)
#define OF_RUN_SUM(q, count, s) GPUMLP_PRAGMA(omp simd reduction(+ : s)) for (int q = 0; q < (count); ++q)
#define ROWS(r, rows) for (i64 r = first_of(rows), r##_end = last_of(rows); r < r##_end; ++r)
#define ROW_RUNS(r, count, rows)                                                                 \
    for (i64 r = first_of(rows), r##_end = last_of(rows); r < r##_end; r += ROW_RUN)             \
        if (const int count = (int)at_most(ROW_RUN, r##_end - r); true)
#define PART_ROWS(r, rows) ROWS(r, rows)
#define PART_SUM(i, n, s) GPUMLP_PRAGMA(omp simd reduction(+ : s)) for (i64 i = first_of(n); i < last_of(n); ++i)
#define PART_SUM2(i, n, s, t) GPUMLP_PRAGMA(omp simd reduction(+ : s, t)) for (i64 i = first_of(n); i < last_of(n); ++i)
#define PART_RUNS(r, count, rows) ROW_RUNS(r, count, rows)
#define LANES(c, cols) GPUMLP_PRAGMA(omp simd) for (i64 c = 0; c < (cols); ++c)
#define LANES_SUM(c, cols, s) GPUMLP_PRAGMA(omp simd reduction(+ : s)) for (i64 c = 0; c < (cols); ++c)
#define LANES_SUM2(c, cols, s, t) GPUMLP_PRAGMA(omp simd reduction(+ : s, t)) for (i64 c = 0; c < (cols); ++c)
#define LANES_SUM3(c, cols, s, t, u) GPUMLP_PRAGMA(omp simd reduction(+ : s, t, u)) for (i64 c = 0; c < (cols); ++c)
#define COLUMN_TILES(c0, cols) for (i64 c0 = 0; c0 < (cols); c0 += OWN)
#define OWNED(k, c, c0, cols)                                                                    \
    GPUMLP_PRAGMA(omp simd)                                                                      \
    for (int k = 0; k < (int)at_most(OWN, (cols) - (c0)); ++k)                                   \
        if (i64 c = c0 + k; true)
#define EACH_PART(p, parts) for (i64 p = 0; p < (parts); ++p)
#define TEAM_PARTS(p, parts) EACH_PART(p, parts)

template <class T> inline T team_sum(T x) { return x; }
template <class T> inline T team_max(T x) { return x; }
template <class T> inline T block_sum(T x) { return x; }
template <class T> inline void sum_over_teams(T (&)[OWN]) {}

// The largest number of a row, by lanes of our own: clang finds none for a maximum that passes over NaN.
template <class W, class T> inline W largest(const T* row, i64 cols) {
    constexpr int COUNT = 64 / sizeof(W);
    W top[COUNT];
    for (int k = 0; k < COUNT; ++k) top[k] = (W)from_bits(0xFF800000u);
    i64 c = 0;
    for (; c + COUNT <= cols; c += COUNT)
        GPUMLP_PRAGMA(omp simd) for (int k = 0; k < COUNT; ++k) {
            const W x = (W)row[c + k];
            top[k] = x > top[k] ? x : top[k];
        }
    for (int k = 0; c < cols; ++c, ++k) top[k] = (W)row[c] > top[k] ? (W)row[c] : top[k];
    for (int k = 1; k < COUNT; ++k) top[0] = top[k] > top[0] ? top[k] : top[0];
    return top[0];
}

template <class T> struct Best { T value; i64 at; };

// The largest number of a row of at least one, and its place: of equal ones the first; NaN is larger than any number.
template <class T> inline Best<T> row_best(const T* row, i64 cols) {
    i64 best = 0;
    for (i64 from = 0; from < cols; from += ROW_RUN) {  // behind the first few runs, most have nothing better
        const i64 to = at_most(from + ROW_RUN, cols);
        const T top = row[best];
        int better = from == 0;
        GPUMLP_PRAGMA(omp simd reduction(| : better)) for (i64 c = from; c < to; ++c) better |= !(row[c] <= top);
        for (i64 c = from; better && c < to; ++c)
            if (row[c] > row[best] || (row[c] != row[c] && row[best] == row[best])) best = c;
    }
    return {row[best], best};
}

// Numbers of 64 bits side by side, as many as fit a vector of this processor: what compilers find no vectors for.
#if defined(__AVX512F__)
constexpr int COUNTERS = 8;
#elif defined(__AVX2__)
constexpr int COUNTERS = 4;
#else
constexpr int COUNTERS = 2;
#endif
constexpr int MASK_RUNS = 8;  // runs of a mask that are made before they are used: each of the two is a loop of its own
typedef u64 Words __attribute__((vector_size(8 * COUNTERS)));

inline Words alike(u64 x) { return Words{} + x; }
inline Words counting(u64 first) {
    Words x{};
    for (int k = 0; k < COUNTERS; ++k) x[k] = first + k;
    return x;
}

// The lower halves: those of the first number of each of the four, then those of the second. Two of them go together as
// one of 64 bits, the first below, where it also lies first in memory.
inline void in_turn(const Words (&c)[4], u32* words) {
    const Words low = alike(0xFFFFFFFFu), pairs[2] = {(c[0] & low) | c[1] << 32, (c[2] & low) | c[3] << 32};
    u64 all[2 * COUNTERS];
    for (int k = 0; k < COUNTERS; ++k) {
        all[2 * k] = pairs[0][k];
        all[2 * k + 1] = pairs[1][k];
    }
    std::memcpy(words, all, sizeof all);
}

// The lower half of each times m. The instruction that does so is one that g++ does not think of.
inline Words product(Words x, u32 m) {
#if defined(__AVX2__)
    Words result, by = alike(m);
    asm("vpmuludq %2, %1, %0" : "=v"(result) : "v"(x), "v"(by));
    return result;
#else
    return (x & alike(0xFFFFFFFFu)) * alike(m);
#endif
}

template <class T> struct Wide;  // of prelude.cuh
template <class T> inline T stored(typename Wide<T>::type x);

// A run of short rows, kept by columns, so that a vector finds its rows side by side.
template <class T> struct Run {
    typedef typename Wide<T>::type W;
    W kept[SHORT_ROW][ROW_RUN];
    __device__ inline Run(const T* rows, int count, i64 cols) {
        for (int c = 0; c < cols; ++c) OF_RUN(k, count) kept[c][k] = (W)rows[k * cols + c];
    }
    __device__ inline W at(int k, int c) const { return kept[c][k]; }
    __device__ inline void set(T*, int k, int c, W value) { kept[c][k] = value; }
    __device__ inline void leave(T* rows, int count, i64 cols) const {
        for (int k = 0; k < count; ++k)
            for (int c = 0; c < cols; ++c) rows[k * cols + c] = stored<T>(kept[c][k]);
    }
};

// A vector is the compiler's business here: elements go one by one, in a loop that it may take in any order.
template <int N> struct Width { static constexpr int count = N; };
struct Walk { bool of_part; };
inline Walk over_grid() { return {true}; }
inline Walk over_team() { return {false}; }
template <class T, class... More> inline i64 alone(i64 n, const T*, const More*...) { return n; }
template <class T, class Body> inline void packs(Walk walk, i64 n, i64, Body body) {
    i64 first = walk.of_part ? first_of(n) : 0, last = walk.of_part ? last_of(n) : n;
    GPUMLP_PRAGMA(omp simd) for (i64 i = first; i < last; ++i) body(Width<1>(), i);
}

// A question that has one answer for a whole loop: two loops, so that no compiler asks it at every element. A body that
// stays a call (clang's choice where it is long) reads through a pointer what its loop depends on, and has no vectors.
template <class Body> __device__ __attribute__((flatten)) inline void decide(bool answer, Body body) {
    if (answer) body(std::true_type());
    else body(std::false_type());
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

template <class... A> inline void launch(void (*kernel)(A...), const u64* slots, i64 index, i64 count) {
    this_part = {index, count};
    call(kernel, slots, std::index_sequence_for<A...>{});
}

}  // namespace gpumlp

#define GPUMLP_ENTRY(symbol, ...)                                                                  \
    extern "C" void symbol(const unsigned long long* slots, long long index, long long count) {    \
        gpumlp::launch(&gpumlp::__VA_ARGS__, slots, index, count);                                 \
    }
