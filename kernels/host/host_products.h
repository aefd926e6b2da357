// Matrix products on a CPU: C = A B, cut into tasks that any thread may take.
//
// A task makes some rows of C times a slice of its columns. It takes its slice of B, at most DEPTH rows at a time, through
// tiles of C that stay in registers, in panels of neighbouring columns that are copied together as they are first read
// (Goto and van de Geijn 2008, "Anatomy of high-performance matrix multiplication"). A is read where it lies, by rows or
// by columns: a tile wants one number of it for each of its rows.
//
// Every number of C is summed in an order that the shape alone decides, by whichever thread.
//
// Matrices of bfloat16 are widened as they are copied, both of them, and multiplied and summed up in float32.
#pragma once

#include <cstring>
#include <stdlib.h>
#include <type_traits>
#include <utility>
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace gpumlp {

typedef long long i64;
typedef unsigned long long u64;
typedef unsigned short bfloat16;  // as it lies in memory

#if defined(__AVX512F__)
constexpr int VECTOR = 64, REGISTERS = 32;
#elif defined(__AVX__)
constexpr int VECTOR = 32, REGISTERS = 16;
#elif defined(__aarch64__)
constexpr int VECTOR = 16, REGISTERS = 32;
#else
constexpr int VECTOR = 16, REGISTERS = 16;
#endif

// clang makes two of a vector of 64 bytes, unless a function says that it wants whole ones.
#if defined(__has_attribute) && defined(__AVX512F__)
#if __has_attribute(min_vector_width)
#define GPUMLP_WHOLE_VECTORS __attribute__((min_vector_width(512)))
#endif
#endif
#ifndef GPUMLP_WHOLE_VECTORS
#define GPUMLP_WHOLE_VECTORS
#endif

inline i64 at_most(i64 a, i64 b) { return a < b ? a : b; }

constexpr int ACROSS = 2;                                     // vectors across a tile
constexpr int HIGH = (REGISTERS - ACROSS - 1) / ACROSS;       // rows of a tile: 14, or 6

// Where vectors have 64 bytes the second cache has a MiB or more: all panels of a slice stay there, and the tiles of a few
// rows take one after the other. Elsewhere, down to 256 KiB, that is the place for the rows of GROUP tiles, which take a
// panel, one that stays in the first cache, before they take the next.
constexpr i64 DEPTH = VECTOR == 64 ? 512 : 384;
constexpr i64 GROUP = VECTOR == 64 ? 1 : 8;

template <class T> struct Vector { typedef T type __attribute__((vector_size(VECTOR), aligned(sizeof(T)), may_alias)); };
template <class T> constexpr int NUMBERS = VECTOR / sizeof(T);

// A matrix in memory: how far it is from one row to the next, and from one column to the next.
template <class T> struct Matrix {
    T* data;
    i64 down, right;
    T* at(i64 row, i64 col) const { return data + row * down + col * right; }
    Matrix from(i64 row, i64 col) const { return {at(row, col), down, right}; }
};

// A number as it is multiplied and summed up, and as it is stored: a bfloat16 is the upper half of a float, rounded to the
// nearest, of two equally near ones to the even.
template <class T> inline T widened(T x) { return x; }
inline float widened(bfloat16 x) {
    const unsigned bits = (unsigned)x << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}
template <class T> inline void put(T x, T* to) { *to = x; }
inline void put(float x, bfloat16* to) {
    unsigned bits;
    std::memcpy(&bits, &x, sizeof bits);
    *to = (bfloat16)(x == x ? (bits + 0x7fff + (bits >> 16 & 1)) >> 16 : 0x7fc0);
}

template <class T, class FROM> inline void copy(const FROM* from, i64 n, T* to) {
    if constexpr (std::is_same<T, FROM>::value) std::memcpy(to, from, n * sizeof(T));
    else
        for (i64 i = 0; i < n; ++i) to[i] = widened(from[i]);
}

// C = or += what a tile has found, where C has other steps or fewer columns: once for all heights of a tile.
template <class T, int PITCH, class OUT>
__attribute__((noinline)) void store(const T* found, Matrix<OUT> c, int rows, int cols, bool add) {
    if (c.right == 1 && !add) {  // whole vectors, of which what lies beyond a row is not written
        for (int i = 0; i < rows; ++i, found += PITCH, c.data += c.down)
#pragma omp simd
            for (int j = 0; j < PITCH; ++j)
                if (j < cols) put(found[j], c.data + j);
        return;
    }
    for (int j = 0; j < cols; ++j, ++found, c.data += c.right) {
        OUT* to = c.data;
        const T* from = found;
        for (int i = 0; i < rows; ++i, from += PITCH, to += c.down) put(add ? widened(*to) + *from : *from, to);
    }
}

// C = or += A times one panel of B, for the first `rows` of ROWS rows and the first `cols` columns of the panel. The
// first tile to need a panel reads it where it lies, and leaves in `copy` what the others will read, unless there is none.
template <class T, class OUT, int ROWS, int VECTORS, bool FIRST>
GPUMLP_WHOLE_VECTORS
void tile(Matrix<const T> a, Matrix<const T> b, T* copy, i64 depth, Matrix<OUT> c, int rows, int cols, bool add) {
    typedef typename Vector<T>::type V;
    constexpr int N = NUMBERS<T>;
    constexpr i64 AHEAD = 8;  // rows of B that are asked for before they are needed: each may lie in a page of its own
    V sum[ROWS][VECTORS] = {};
    if (c.right == 1)
        for (int i = 0; i < ROWS; ++i)
            for (int v = 0; v < VECTORS; ++v) __builtin_prefetch(c.at(i, v * N), 1);
    const T *column = a.data, *panel = b.data;
    for (i64 p = 0; p < depth; ++p, panel += b.down, column += a.right) {
        V row[VECTORS];
        for (int v = 0; v < VECTORS; ++v) row[v] = *(const V*)(panel + v * N);
        if (FIRST) {
            for (int v = 0; v < VECTORS; ++v) __builtin_prefetch(panel + AHEAD * b.down + v * N);
            if (copy)
                for (int v = 0; v < VECTORS; ++v) *(V*)(copy + (p * VECTORS + v) * N) = row[v];
        }
#pragma GCC unroll 16
        for (int i = 0; i < ROWS; ++i)
            for (int v = 0; v < VECTORS; ++v) sum[i][v] += column[i * a.down] * row[v];
    }
    T found[ROWS][VECTORS * N];
    const bool whole = std::is_same<T, OUT>::value && c.right == 1 && rows == ROWS && cols == VECTORS * N;
    const Matrix<T> to = whole ? Matrix<T>{(T*)c.data, c.down, 1} : Matrix<T>{found[0], VECTORS * N, 1};
    const bool more = whole && add;
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; ++i)
        for (int v = 0; v < VECTORS; ++v) {
            V& there = *(V*)to.at(i, v * N);
            there = more ? there + sum[i][v] : sum[i][v];
        }
    if (!whole) store<T, VECTORS * N>(found[0], c, rows, cols, add);
}

template <class T, class OUT>
using Tile = void (*)(Matrix<const T>, Matrix<const T>, T*, i64, Matrix<OUT>, int, int, bool);

template <class T, int VECTORS, bool FIRST, int... I>
inline Tile<T, T> tile_of(i64 rows, std::integer_sequence<int, I...>) {
    static constexpr Tile<T, T> tiles[] = {&tile<T, T, I + 1, VECTORS, FIRST>...};
    return tiles[rows - 1];
}

template <class T, bool FIRST> inline Tile<T, T> tile_of(i64 rows, i64 width) {
    const auto heights = std::make_integer_sequence<int, HIGH>();
    return width == NUMBERS<T> ? tile_of<T, 1, FIRST>(rows, heights) : tile_of<T, ACROSS, FIRST>(rows, heights);
}

#ifdef __clang__
#define GPUMLP_SHUFFLED(x, y, ...) __builtin_shufflevector(x, y, __VA_ARGS__)
#else
#define GPUMLP_SHUFFLED(x, y, ...) __builtin_shuffle(x, y, (Places){__VA_ARGS__})
#endif

// Four columns of four numbers become four rows: first two by two, then in pairs.
template <class T> inline void turn_four(const T* c0, const T* c1, const T* c2, const T* c3, T* to, i64 width) {
    typedef T Four __attribute__((vector_size(4 * sizeof(T)), aligned(sizeof(T)), may_alias));
    typedef std::conditional_t<sizeof(T) == 4, int, i64> Place;
    typedef Place Places __attribute__((vector_size(4 * sizeof(T)), unused));
    const Four x0 = *(const Four*)c0, x1 = *(const Four*)c1, x2 = *(const Four*)c2, x3 = *(const Four*)c3;
    const Four low0 = GPUMLP_SHUFFLED(x0, x1, 0, 4, 1, 5), high0 = GPUMLP_SHUFFLED(x0, x1, 2, 6, 3, 7);
    const Four low1 = GPUMLP_SHUFFLED(x2, x3, 0, 4, 1, 5), high1 = GPUMLP_SHUFFLED(x2, x3, 2, 6, 3, 7);
    *(Four*)to = GPUMLP_SHUFFLED(low0, low1, 0, 1, 4, 5);
    *(Four*)(to + width) = GPUMLP_SHUFFLED(low0, low1, 2, 3, 6, 7);
    *(Four*)(to + 2 * width) = GPUMLP_SHUFFLED(high0, high1, 0, 1, 4, 5);
    *(Four*)(to + 3 * width) = GPUMLP_SHUFFLED(high0, high1, 2, 3, 6, 7);
}

// A panel of B where it is stored by columns: four of them at a time, so that what is written lies together.
template <class T, class FROM> inline void copy_turned(Matrix<const FROM> b, i64 rows, i64 cols, i64 width, T* to) {
    i64 j = 0;
    for (; j + 4 <= cols; j += 4) {
        const FROM *c0 = b.at(0, j), *c1 = b.at(0, j + 1), *c2 = b.at(0, j + 2), *c3 = b.at(0, j + 3);
        i64 p = 0;
        if constexpr (std::is_same<T, FROM>::value)
            if (b.down == 1)
                for (; p + 4 <= rows; p += 4) turn_four(c0 + p, c1 + p, c2 + p, c3 + p, to + p * width + j, width);
        for (; p < rows; ++p) {
            const FROM four[] = {c0[p * b.down], c1[p * b.down], c2[p * b.down], c3[p * b.down]};
            copy(four, 4, to + p * width + j);
        }
    }
    for (; j < cols; ++j)
        for (i64 p = 0; p < rows; ++p) to[p * width + j] = widened(*b.at(p, j));
}

// So many numbers, no more than a panel has: a copy whose length is known in advance is no call.
template <class T, class FROM> inline void copy_few(const FROM* from, i64 count, T* to) {
    constexpr i64 N = ACROSS * NUMBERS<T>;
#pragma omp simd
    for (i64 j = 0; j < N; ++j)
        if (j < count) to[j] = widened(from[j]);
}

// Panels of `width` columns of B, with 0 beyond the last.
template <class T, class FROM> inline void copy_panels(Matrix<const FROM> b, i64 rows, i64 cols, i64 width, T* to) {
    for (i64 j0 = 0; j0 < cols; j0 += width, to += rows * width) {
        i64 wide = at_most(cols - j0, width);
        if (wide < width) std::memset(to, 0, rows * width * sizeof(T));
        if (b.right == 1)
            for (i64 p = 0; p < rows; ++p) copy_few(b.at(p, j0), wide, to + p * width);
        else
            copy_turned(b.from(0, j0), rows, wide, width, to);
    }
}

// The columns of a tile's rows of A one behind the other, where A is stored by columns: its numbers are used once for
// each panel, and a column is otherwise a cache line or two of which most is not wanted.
template <class T, int ROWS> void copy_columns(const T* from, i64 right, i64 depth, T* to) {
    for (i64 p = 0; p < depth; ++p) std::memcpy(to + p * ROWS, from + p * right, ROWS * sizeof(T));
}

template <class T> using Copy = void (*)(const T*, i64, i64, T*);

template <class T, int... I> inline Copy<T> copy_of(i64 rows, std::integer_sequence<int, I...>) {
    static constexpr Copy<T> copies[] = {&copy_columns<T, I + 1>...};
    return copies[rows - 1];
}

// The rows of a tile, widened, with 0 for those that it has and the matrix does not.
template <class T, class FROM>
inline Matrix<const T> widened_rows(Matrix<const FROM> a, i64 rows, i64 depth, T* to) {
    if (rows < HIGH) std::memset(to, 0, HIGH * depth * sizeof(T));
    if (a.right == 1) {
        for (i64 i = 0; i < rows; ++i) copy(a.at(i, 0), depth, to + i * depth);
        return {to, depth, 1};
    }
    for (i64 p = 0; p < depth; ++p)
        for (i64 i = 0; i < rows; ++i) to[p * HIGH + i] = widened(*a.at(i, p));
    return {to, 1, HIGH};
}

// A thread's memory for copies: whole large pages where the system has them, since a product walks all over it.
struct Room {
    static constexpr size_t PAGE = 2 << 20;
    void* begin = nullptr;
    size_t size = 0;
    ~Room() { free(begin); }

    template <class T> T* of(i64 numbers) {
        if (numbers * sizeof(T) > size) {
            free(begin);
            size = (numbers * sizeof(T) + PAGE - 1) / PAGE * PAGE;
            if (posix_memalign(&begin, PAGE, size)) abort();
#if defined(MADV_HUGEPAGE)
            madvise(begin, size, MADV_HUGEPAGE);
#endif
        }
        return (T*)begin;
    }
};

template <class T, class FROM, class OUT>
void multiply_block(Matrix<const FROM> a, Matrix<const FROM> b, Matrix<OUT> c, i64 rows, i64 cols, i64 inner) {
    constexpr int N = NUMBERS<T>;
    constexpr bool SAME = std::is_same<T, FROM>::value, ONCE = !std::is_same<T, OUT>::value;  // rounded once
    static thread_local Room room;
    const i64 rounds = inner > DEPTH && !ONCE ? (inner + DEPTH - 1) / DEPTH : 1, width = cols <= N ? N : ACROSS * N;
    const i64 panels = (cols + width - 1) / width, tiles = (rows + HIGH - 1) / HIGH;
    const i64 deepest = inner / rounds + 1, needed = deepest * (panels * width + GROUP * HIGH);
    const bool by_columns = a.down == 1 && a.right != 1 && panels > 1;
    T* copy = room.of<T>(needed);
    T* columns = copy + deepest * panels * width;
    // Panels that lie in B as a tile wants them are copied by the first tile; the others, beforehand.
    const i64 ready = SAME && b.right == 1 ? cols / width * width : 0;
    for (i64 round = 0; round < rounds; ++round) {
        const i64 p0 = inner * round / rounds, depth = inner * (round + 1) / rounds - p0;
        copy_panels(b.from(p0, ready), depth, cols - ready, width, copy + ready * depth);
        for (i64 t0 = 0; t0 < tiles; t0 += GROUP) {
            struct Strip { Matrix<const T> a; i64 row, high; } strips[GROUP];
            const i64 count = at_most(tiles - t0, GROUP);
            for (i64 t = 0; t < count; ++t) {
                const i64 i0 = rows * (t0 + t) / tiles, high = rows * (t0 + t + 1) / tiles - i0;
                T* const to = columns + t * HIGH * depth;
                if constexpr (SAME) {
                    strips[t] = {a.from(i0, p0), i0, high};
                    if (by_columns) {
                        copy_of<T>(high, std::make_integer_sequence<int, HIGH>())(strips[t].a.data, a.right, depth, to);
                        strips[t].a = {to, 1, high};
                    }
                } else
                    strips[t] = {widened_rows(a.from(i0, p0), high, depth, to), i0, high};
            }
            for (i64 j0 = 0; j0 < cols; j0 += width) {
                const int wide = (int)at_most(cols - j0, width);
                T* const panel = copy + j0 * depth;
                for (i64 t = 0; t < count; ++t) {
                    const int high = (int)strips[t].high;
                    const Matrix<const T> left = strips[t].a, right = {panel, width, 1};
                    const Matrix<OUT> to = c.from(strips[t].row, j0);
                    const bool add = round > 0;
                    if constexpr (!SAME)  // all of one height: each takes seconds to compile
                        (width == N ? tile<T, OUT, HIGH, 1, false> : tile<T, OUT, HIGH, ACROSS, false>)(
                            left, right, nullptr, depth, to, high, wide, add
                        );
                    else if (t0 + t == 0 && j0 < ready)
                        tile_of<T, true>(high, width)(
                            left, b.from(p0, j0), tiles > 1 ? panel : nullptr, depth, to, high, wide, add
                        );
                    else
                        tile_of<T, false>(high, width)(left, right, nullptr, depth, to, high, wide, add);
                }
            }
        }
    }
}

// slots: A, B, C, then rows, cols, inner, the steps (down, right) of A, B and C, and how C is cut: into so many runs of
// whole groups of rows (`height` of them), and so many slices of whole panels of columns. A task is one run of one
// slice. Those of a run follow each other: a thread that takes the first half of them takes the first half of the rows.
template <class T, class OUT> struct Task {
    Matrix<const T> a, b;
    Matrix<OUT> c;
    i64 rows, cols, inner;

    Task(const u64* slots, i64 index, i64 width) {
        const i64* n = (const i64*)slots + 3;
        const i64 runs = n[9], slices = n[10], height = n[11];
        const i64 i0 = part(n[0], height, index / slices, runs), j0 = part(n[1], width, index % slices, slices);
        rows = part(n[0], height, index / slices + 1, runs) - i0;
        cols = part(n[1], width, index % slices + 1, slices) - j0;
        inner = n[2];
        a = Matrix<const T>{(const T*)slots[0], n[3], n[4]}.from(i0, 0);
        b = Matrix<const T>{(const T*)slots[1], n[5], n[6]}.from(0, j0);
        c = Matrix<OUT>{(OUT*)slots[2], n[7], n[8]}.from(i0, j0);
    }

  private:
    // Where part `k` of `parts` begins, each of whole groups of `size`, but for the last group.
    static i64 part(i64 n, i64 size, i64 k, i64 parts) {
        return at_most((n + size - 1) / size * k / parts * size, n);
    }
};

template <class FROM, class OUT> inline void multiply(const u64* slots, i64 index) {
    typedef decltype(widened(FROM())) T;
    const Task<FROM, OUT> task(slots, index, ACROSS * NUMBERS<T>);
    multiply_block<T>(task.a, task.b, task.c, task.rows, task.cols, task.inner);
}

}  // namespace gpumlp

#define GPUMLP_PRODUCT(FROM, OUT)                                                               \
    extern "C" void multiply(const unsigned long long* slots, long long index, long long) {     \
        gpumlp::multiply<FROM, OUT>(slots, index);                                              \
    }
