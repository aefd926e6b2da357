// Matrix products on a CPU with tile registers (Intel's AMX), which multiply bfloat16 and sum up in float32.
//
// A float32 is the sum of three bfloat16, x = x0 + x1 + x2, each the next eight bits of it: 24 in all. Of the nine
// products of parts the six largest are summed up,
//
//     a b = a0 b0 + (a0 b1 + a1 b0) + (a1 b1 + a0 b2 + a2 b0) + at most 2^-23 |a b|, of either sign
//
// (Henry, Tang and Heinecke 2019, "Leveraging the bfloat16 Artificial Intelligence Datatype For Higher-Precision
// Computations"). Since 32 terms are summed at once the whole is nearer to the exact product than that of float32 is:
// tests/backend/test_tiles.py. Two parts and three products leave at most 2^-14. A bfloat16 is one part.
//
// Numbers below 2^-110 lose their lower parts, which would be denormal. An infinity has none: it makes NaN of its row
// or column, as does a NaN, and what does not come out finite is made again without tiles.
//
// Processors that multiply pairs of bfloat16 in vectors (AVX512_BF16) and have no tiles take the same tiles through
// these, for bfloat16 alone: six products at twice the rate of float32 would be slower than one. Where there are both,
// pairs have half the rate of float32 and are of no use.
#if defined(__AVX512BF16__) && defined(__AVX512BW__)
#include <immintrin.h>
#if !defined(__AMX_BF16__)
#define GPUMLP_PAIRS 1
#elif defined(__linux__)
#define GPUMLP_TILES 1
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

namespace gpumlp {

#if GPUMLP_TILES || GPUMLP_PAIRS

constexpr int SIDE = 16;          // rows and columns of a tile of C
constexpr int BLOCK = 2 * SIDE;   // those of the four tiles that are made at once; and what a tile of A or B is deep
constexpr int BYTES = SIDE * 64;  // of a tile
constexpr i64 STEPS = 48;         // tiles of all parts along the sum that are packed at once

#if GPUMLP_TILES
// The system gives the tiles' eight KiB of every thread to those who ask.
inline int most_parts() {
    constexpr long ARCH_REQ_XCOMP_PERM = 0x1023, TILE_DATA = 18;
    static const bool given = syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0;
    return given ? 3 : 0;
}

// What the tiles hold from here on; they are given back at the end, so that a switch of threads need not save them.
struct Tiles {
    struct alignas(64) Layout {
        unsigned char palette = 1, start = 0, reserved[14] = {};
        unsigned short bytes_of_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
        unsigned char rows[16] = {SIDE, SIDE, SIDE, SIDE, SIDE, SIDE, SIDE, SIDE};
    };
    Tiles() {
        static const Layout layout;
        _tile_loadconfig(&layout);
    }
    ~Tiles() { _tile_release(); }
};
#else
inline int most_parts() { return 1; }
struct Tiles {
    Tiles() {}
};
#endif

inline __mmask16 first(i64 n) { return n >= SIDE ? 0xffff : n <= 0 ? 0 : (__mmask16)((1 << n) - 1); }

inline __m512 load(const float* from, __mmask16 mask) { return _mm512_maskz_loadu_ps(mask, from); }
inline __m512i load(const bfloat16* from, __mmask16 mask) {
    return _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from));
}

inline __m512i upper(__m512i bits) { return _mm512_and_si512(bits, _mm512_set1_epi32(0xffff0000)); }

// Bits whose upper half is the next part of each number: rounded to nearest, or what there is.
inline __m512i part_of(__m512 x, bool nearest) {
    const __m512i bits = _mm512_castps_si512(x);
    return nearest ? _mm512_add_epi32(bits, _mm512_set1_epi32(0x8000)) : bits;
}

// The parts of 16 pairs of numbers, the largest first, each pair in a lane as an instruction wants it, `next` apart. The
// first is rounded to nearest: what remains has either sign then, and so have the products left out. It has 16 bits,
// eight for each other part, which are cut off: no NaN gets lost, as one whose bits are all ones does in rounding.
template <int PARTS> inline void split(__m512 x, __m512 y, __m512i* to, int next) {
#pragma GCC unroll 3
    for (int p = 0; p < PARTS; ++p, to += next) {
        const __m512i of_x = part_of(x, p == 0), of_y = part_of(y, p == 0);
        *to = _mm512_or_si512(_mm512_srli_epi32(of_x, 16), upper(of_y));
        x = _mm512_sub_ps(x, _mm512_castsi512_ps(upper(of_x)));
        y = _mm512_sub_ps(y, _mm512_castsi512_ps(upper(of_y)));
    }
}
template <int PARTS> inline void split(__m512i x, __m512i y, __m512i* to, int) {
    static_assert(PARTS == 1, "a bfloat16 is one part");
    *to = _mm512_or_si512(x, _mm512_slli_epi32(y, 16));
}

// Rows of 16 lanes become columns: within 2 x 2 and 4 x 4 lanes, then in whole fours of them.
inline void turn(__m512i (&row)[SIDE]) {
    __m512i other[SIDE];
#pragma GCC unroll 16
    for (int i = 0; i < SIDE; i += 2) {
        other[i] = _mm512_unpacklo_epi32(row[i], row[i + 1]);
        other[i + 1] = _mm512_unpackhi_epi32(row[i], row[i + 1]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < SIDE; i += 4)
#pragma GCC unroll 2
        for (int j = 0; j < 2; ++j) {
            row[i + 2 * j] = _mm512_unpacklo_epi64(other[i + j], other[i + j + 2]);
            row[i + 2 * j + 1] = _mm512_unpackhi_epi64(other[i + j], other[i + j + 2]);
        }
    constexpr int EVEN = 0x88, ODD = 0xdd;
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        other[i] = _mm512_shuffle_i32x4(row[i], row[4 + i], EVEN);
        other[4 + i] = _mm512_shuffle_i32x4(row[i], row[4 + i], ODD);
        other[8 + i] = _mm512_shuffle_i32x4(row[8 + i], row[12 + i], EVEN);
        other[12 + i] = _mm512_shuffle_i32x4(row[8 + i], row[12 + i], ODD);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        row[i] = _mm512_shuffle_i32x4(other[i], other[8 + i], EVEN);
        row[4 + i] = _mm512_shuffle_i32x4(other[4 + i], other[12 + i], EVEN);
        row[8 + i] = _mm512_shuffle_i32x4(other[i], other[8 + i], ODD);
        row[12 + i] = _mm512_shuffle_i32x4(other[4 + i], other[12 + i], ODD);
    }
}

// One tile of each part, from up to 16 lines (rows of A, columns of B) and 32 numbers of each, 0 beyond. A tile of A
// holds a line in each row, one of B in each column. Numbers 16 apart lie side by side: any order will do that is the
// same in both. ALONG: a line's numbers lie together, and `pitch` is from line to line; else from number to number.
template <class T, int PARTS, bool ALONG, bool TURNED>
inline void pack_tile(const T* from, i64 pitch, i64 lines, i64 depth, char* to) {
    __m512i turned[PARTS][SIDE], *const tiles = TURNED ? turned[0] : (__m512i*)to;
    constexpr int NEXT = TURNED ? SIDE : 2 * SIDE;  // from part to part
    const bool whole = lines >= SIDE && depth >= BLOCK;
    const __mmask16 all = 0xffff, lower = first(ALONG ? depth : lines), upper = first(ALONG ? depth - SIDE : lines);
#pragma GCC unroll 16
    for (int i = 0; i < SIDE; ++i) {
        const T* at = from + i * pitch;
        const bool low = i < (ALONG ? lines : depth), high = i < (ALONG ? lines : depth - SIDE);
        const auto x = load(at, whole ? all : low ? lower : 0);
        const auto y = load(at + (ALONG ? SIDE : SIDE * pitch), whole ? all : high ? upper : 0);
        split<PARTS>(x, y, tiles + i, NEXT);
    }
    if (TURNED)
#pragma GCC unroll 3
        for (int p = 0; p < PARTS; ++p) {
            turn(turned[p]);
#pragma GCC unroll 16
            for (int i = 0; i < SIDE; ++i) ((__m512i*)to)[p * 2 * SIDE + i] = turned[p][i];
        }
}

// Up to 32 lines: for each 32 numbers of the sum and each part, the tile of the first 16 lines and that of the others.
template <class T, int PARTS, bool ALONG, bool TURNED>
__attribute__((noinline)) void pack(const T* from, i64 pitch, i64 lines, i64 depth, char* to) {
    for (i64 p = 0; p < depth; p += BLOCK, from += ALONG ? BLOCK : BLOCK * pitch, to += PARTS * 2 * BYTES) {
        pack_tile<T, PARTS, ALONG, TURNED>(from, pitch, lines, depth - p, to);
        const T* others = from + (ALONG ? SIDE * pitch : SIDE);
        if (lines > SIDE) pack_tile<T, PARTS, ALONG, TURNED>(others, pitch, lines - SIDE, depth - p, to + BYTES);
    }
}

template <int PARTS, class T> inline void pack_rows(Matrix<const T> a, i64 rows, i64 depth, char* to) {
    if (a.right == 1) pack<T, PARTS, true, false>(a.data, a.down, rows, depth, to);
    else pack<T, PARTS, false, true>(a.data, a.right, rows, depth, to);
}

// All panels of 32 columns. Where rows are stored together, 32 of them are packed for all panels before the next.
template <int PARTS, class T>
inline void pack_columns(Matrix<const T> b, i64 cols, i64 depth, char* to, i64 panel) {
    const bool by_rows = b.right == 1;
    const i64 most = by_rows ? BLOCK : depth;
    for (i64 p = 0; p < depth; p += most)
        for (i64 j = 0; j < cols; j += BLOCK) {
            const Matrix<const T> from = b.from(p, j);
            char* const there = to + j / BLOCK * panel + p / BLOCK * PARTS * 2 * BYTES;
            const i64 deep = at_most(depth - p, most);
            if (by_rows) pack<T, PARTS, false, false>(from.data, b.down, cols - j, deep, there);
            else pack<T, PARTS, true, true>(from.data, b.right, cols - j, deep, there);
        }
}

#if GPUMLP_TILES
// C = A B for four tiles of C, or the upper or left two of them, or one: 0 1 above 2 3, A in 4 5, B in 6 7.
template <int PARTS, bool HIGH, bool WIDE>
__attribute__((noinline)) void multiply_tiles(const char* a, const char* b, i64 steps, float* c, i64 pitch) {
    asm volatile("" ::: "memory");  // tiles are loaded behind the compiler's back
    const i64 down = pitch * sizeof(float);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    const auto left = [&](int part) __attribute__((always_inline)) {
        _tile_loadd(4, a + 2 * part * BYTES, 64);
        if (HIGH) _tile_loadd(5, a + (2 * part + 1) * BYTES, 64);
    };
    const auto right = [&](int part) __attribute__((always_inline)) {
        _tile_loadd(6, b + 2 * part * BYTES, 64);
        if (WIDE) _tile_loadd(7, b + (2 * part + 1) * BYTES, 64);
    };
    const auto times = [&]() __attribute__((always_inline)) {
        _tile_dpbf16ps(0, 4, 6);
        if (WIDE) _tile_dpbf16ps(1, 4, 7);
        if (HIGH) _tile_dpbf16ps(2, 5, 6);
        if (HIGH && WIDE) _tile_dpbf16ps(3, 5, 7);
    };
    for (i64 s = 0; s < steps; ++s, a += PARTS * 2 * BYTES, b += PARTS * 2 * BYTES) {
        right(0);
        if (PARTS > 2) left(2), times();
        if (PARTS > 1) left(1), times();
        if (PARTS > 2) right(1), times();
        left(0), times();
        if (PARTS > 2) right(2), times(), right(0), times();
        if (PARTS == 2) right(1), times();
    }
    _tile_stored(0, c, down);
    if (WIDE) _tile_stored(1, c + SIDE, down);
    if (HIGH) _tile_stored(2, c + SIDE * pitch, down);
    if (HIGH && WIDE) _tile_stored(3, c + SIDE * pitch + SIDE, down);
    asm volatile("" ::: "memory");
}
#else
// The same by vectors: eight rows of C at a time, which stay in registers with both halves of a row.
template <int PARTS, bool HIGH, bool WIDE>
__attribute__((noinline)) void multiply_tiles(const char* a, const char* b, i64 steps, float* c, i64 pitch) {
    static_assert(PARTS == 1, "of a float32 it would not be faster than vectors of float32");
    constexpr int ROWS = 8, ACROSS_TILES = WIDE ? 2 : 1;
    for (int i0 = 0; i0 < (HIGH ? BLOCK : SIDE); i0 += ROWS) {
        __m512 sum[ROWS][ACROSS_TILES] = {};
        const char *left = a + i0 / SIDE * BYTES + i0 % SIDE * 64, *right = b;
        for (i64 s = 0; s < steps; ++s, left += 2 * BYTES, right += 2 * BYTES)
            for (int k = 0; k < SIDE; ++k) {
                __m512i row[ACROSS_TILES];
                for (int v = 0; v < ACROSS_TILES; ++v) row[v] = _mm512_load_si512(right + v * BYTES + k * 64);
#pragma GCC unroll 8
                for (int i = 0; i < ROWS; ++i) {
                    const __m512i pair = _mm512_set1_epi32(((const int*)(left + i * 64))[k]);
                    for (int v = 0; v < ACROSS_TILES; ++v)
                        sum[i][v] = _mm512_dpbf16_ps(sum[i][v], (__m512bh)pair, (__m512bh)row[v]);
                }
            }
        for (int i = 0; i < ROWS; ++i)
            for (int v = 0; v < ACROSS_TILES; ++v) _mm512_storeu_ps(c + (i0 + i) * pitch + v * SIDE, sum[i][v]);
    }
}
#endif

using Multiply = void (*)(const char*, const char*, i64, float*, i64);

template <int PARTS> inline Multiply multiply_tiles_of(bool high, bool wide) {
    return high ? wide ? multiply_tiles<PARTS, true, true> : multiply_tiles<PARTS, true, false>
           : wide ? multiply_tiles<PARTS, false, true>
                  : multiply_tiles<PARTS, false, false>;
}

// Moves numbers to their row of C, or adds them to it.
inline void put(const float* from, i64 n, float* to, bool add) {
    for (i64 j = 0; j < n; j += SIDE) {
        const __mmask16 some = first(n - j);
        const __m512 found = load(from + j, some);
        _mm512_mask_storeu_ps(to + j, some, add ? _mm512_add_ps(load(to + j, some), found) : found);
    }
}
inline void put(const float* from, i64 n, bfloat16* to, bool) {
    for (i64 j = 0; j < n; j += SIDE) {
        const __mmask16 some = first(n - j);
        _mm256_mask_storeu_epi16(to + j, some, (__m256i)_mm512_cvtneps_pbh(load(from + j, some)));
    }
}

// C = A B by tiles. The rows of C lie together: c.right is 1.
template <class T, class OUT, int PARTS>
void multiply_parts(Matrix<const T> a, Matrix<const T> b, Matrix<OUT> c, i64 rows, i64 cols, i64 inner) {
    static thread_local Room room;
    constexpr bool FLOAT = std::is_same<OUT, float>::value;
    // What is packed at once stays in the second cache, and a sum of sums is rounded less. A bfloat16 is rounded once.
    const i64 all = (inner + BLOCK - 1) / BLOCK, rounds = FLOAT ? (all * PARTS + STEPS - 1) / STEPS : 1;
    const i64 panel = (all / rounds + 1) * PARTS * 2 * BYTES, panels = (cols + BLOCK - 1) / BLOCK;
    char* left = room.of<char>((panels + 1) * panel);
    char* right = left + panel;
    alignas(64) float aside[BLOCK][BLOCK];  // what does not go to C as it is
    const Tiles tiles;
    for (i64 round = 0; round < rounds; ++round) {
        const i64 s0 = all * round / rounds, steps = all * (round + 1) / rounds - s0, p0 = s0 * BLOCK;
        const i64 depth = at_most(inner - p0, steps * BLOCK);
        pack_columns<PARTS>(b.from(p0, 0), cols, depth, right, panel);
        for (i64 i = 0; i < rows; i += BLOCK) {
            const i64 high = at_most(rows - i, BLOCK);
            pack_rows<PARTS>(a.from(i, p0), high, depth, left);
            for (i64 j = 0; j < cols; j += BLOCK) {
                const i64 wide = at_most(cols - j, BLOCK);
                const bool direct = FLOAT && round == 0 && high % SIDE == 0 && wide % SIDE == 0;
                float* const to = direct ? (float*)c.at(i, j) : aside[0];
                const i64 pitch = direct ? c.down : BLOCK;
                multiply_tiles_of<PARTS>(high > SIDE, wide > SIDE)(left, right + j / BLOCK * panel, steps, to, pitch);
                if (!direct)
                    for (i64 y = 0; y < high; ++y) put(aside[y], wide, c.at(i + y, j), round > 0);
            }
        }
    }
}

inline bool is_finite(Matrix<float> c, i64 rows, i64 cols) {
    __m512 wrong = _mm512_setzero_ps();
    for (i64 i = 0; i < rows; ++i)
        for (i64 j = 0; j < cols; j += SIDE) {
            const __m512 found = load(c.at(i, j), first(cols - j));
            wrong = _mm512_add_ps(wrong, _mm512_sub_ps(found, found));
        }
    return _mm512_cmp_ps_mask(wrong, wrong, _CMP_UNORD_Q) == 0;
}

using Product = void (*)(const u64* slots, i64 index, i64 count);

// Makes what is not finite again without tiles: each block of C by itself, so that no bit depends on how C is cut.
inline void mend(const Task<float, float>& task, Product plain) {
    for (i64 i = 0; i < task.rows; i += BLOCK)
        for (i64 j = 0; j < task.cols; j += BLOCK) {
            const i64 high = at_most(task.rows - i, BLOCK), wide = at_most(task.cols - j, BLOCK);
            const Matrix<const float> a = task.a.from(i, 0), b = task.b.from(0, j);
            const Matrix<float> c = task.c.from(i, j);
            if (is_finite(c, high, wide)) continue;
            const i64 slots[] = {
                (i64)a.data, (i64)b.data, (i64)c.data, high, wide, task.inner,
                a.down, a.right, b.down, b.right, c.down, c.right, 1, 1, 1
            };
            plain((const u64*)slots, 0, 1);
        }
}

// slots: as those of `multiply` in host_products.h, and that function for what does not come out finite.
template <class T, class OUT, int PARTS> inline void multiply_by_tiles(const u64* slots, i64 index, i64) {
    const Task<T, OUT> task(slots, index, BLOCK);
    multiply_parts<T, OUT, PARTS>(task.a, task.b, task.c, task.rows, task.cols, task.inner);
    if constexpr (PARTS > 1) mend(task, (Product)slots[15]);
}

#else

inline int most_parts() { return 0; }

#endif

}  // namespace gpumlp

// Of how many parts a number may be that is multiplied so here.
extern "C" int most_parts() { return gpumlp::most_parts(); }

#define GPUMLP_TILED(T, OUT, PARTS)                                                                 \
    extern "C" void multiply(const unsigned long long* slots, long long index, long long count) {   \
        gpumlp::multiply_by_tiles<T, OUT, PARTS>(slots, index, count);                              \
    }
