// The dialect that gpumlp's kernels are written in: a few loops, loads and sums over CUDA's threads.
//
// The same text runs in several forms. On a GPU the threads of a block form teams, threadIdx.x counting within a team
// and threadIdx.y the teams: a few lanes where rows are short, a warp, or the whole block where they are long
// (gpumlp/backend/geometry.py decides). On a CPU (host/host.h) a block is one thread, a team is one lane, and each of
// these loops is a plain loop that the compiler vectorises. A file never includes this one: whoever compiles puts the
// text in front.
//
//   EACH(i, n)                  all elements, spread over the grid; packs<T>(over_grid(), ...) the same by 16 bytes
//   EACH_RUN(j, n)              the same for runs of elements, OF_RUN(q, count) those of one
//   ROWS(r, rows)               a row to each team, LANES(c, cols) its columns to the lanes
//   ROW_RUNS(r, count, rows)    `count` rows from r to each team: ROW_RUN at the most, here one
//   PART_ROWS(r, rows)          the rows of one part, for what is summed over rows; PART_SUM(i, n, s) its elements
//   PART_RUNS(r, count, rows)   the same rows, of SHORT_ROW columns at most, a row to each thread: a Run from r
//   COLUMN_TILES(c0, cols)      a tile of columns to each block, OWNED(k, c, c0, cols) those of a lane
//   EACH_PART(p, parts)         what the parts have left in scratch memory
//
// A sum over rows takes several launches: each part of the rows leaves its sums in `scratch`, and a launch whose name
// ends in _finish adds them up. The order of every sum depends on the shape alone. There are no atomics.

#ifndef GPUMLP_HOST

typedef long long i64;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned char u8;

__device__ inline u32 bits_of(float x) { return __float_as_uint(x); }
__device__ inline float from_bits(u32 x) { return __uint_as_float(x); }

#endif  // GPUMLP_HOST

// Sixteen bits of storage, the upper half of a float (bfloat16). Whatever is stored so is computed in float.
struct bf16 {
    unsigned short bits;
    __device__ inline operator float() const { return from_bits((u32)bits << 16); }
};

// What numbers stored as T are computed in, and back: to the nearest, of two equally near ones to the even.
template <class T> struct Wide { typedef T type; };
template <> struct Wide<bf16> { typedef float type; };
template <class T> using wide = typename Wide<T>::type;

template <class T> __device__ inline T stored(wide<T> x) { return x; }
template <> __device__ inline bf16 stored<bf16>(float x) {
    u32 all = bits_of(x);
    u32 rounded = (all + 0x7FFFu + (all >> 16 & 1u)) >> 16;
    return {(unsigned short)(x != x ? 0x7FC0u : rounded)};
}

#ifndef GPUMLP_HOST

constexpr int WARP = 32;
constexpr int OWN = 1;
enum { ROW_RUN = 1, SHORT_ROW = 16, FEATURE_GROUPS = 128 };  // not all texts use it, and NVRTC warns of constants that are not used

__device__ inline float normal_cdf(float x) { return normcdff(x); }
__device__ inline double normal_cdf(double x) { return normcdf(x); }
template <class T> __device__ inline T normal_pdf(T x) { return (T)0.3989422804014327 * exp((T)-0.5 * x * x); }
template <class T> __device__ inline T log1p_unit(T x) { return log1p(x); }  // for 0 <= x <= 1

__device__ inline int lane() { return threadIdx.x; }
__device__ inline int lanes() { return blockDim.x; }
__device__ inline int team() { return threadIdx.y; }
__device__ inline int teams() { return blockDim.y; }
__device__ inline int thread() { return threadIdx.y * blockDim.x + threadIdx.x; }
__device__ inline int threads() { return blockDim.x * blockDim.y; }
__device__ inline i64 part() { return blockIdx.y; }
__device__ inline i64 first_of(i64 n) { return n * blockIdx.y / gridDim.y; }
__device__ inline i64 last_of(i64 n) { return n * (blockIdx.y + (i64)1) / gridDim.y; }
__device__ inline i64 size_of_part(i64 n, i64 p, i64 parts) { return n * (p + 1) / parts - n * p / parts; }

#define EACH(i, n) for (i64 i = blockIdx.x * (i64)threads() + thread(); i < (n); i += gridDim.x * (i64)threads())
#define EACH_RUN(j, n) EACH(j, n)
#define OF_RUN(q, count) for (int q = 0; q < (count); ++q)
#define OF_RUN_SUM(q, count, s) OF_RUN(q, count)
#define OF_RUN_SUM2(q, count, s, t) OF_RUN(q, count)
#define ROWS(r, rows) for (i64 r = blockIdx.x * (i64)teams() + team(); r < (rows); r += gridDim.x * (i64)teams())
#define ROW_RUNS(r, count, rows) ROWS(r, rows) if (constexpr int count = 1; true)
#define PART_ROWS(r, rows) for (i64 r = first_of(rows) + team(), r##_end = last_of(rows); r < r##_end; r += teams())
#define PART_SUM(i, n, s) for (i64 i = first_of(n) + thread(), i##_end = last_of(n); i < i##_end; i += threads())
#define PART_SUM2(i, n, s, t) PART_SUM(i, n, s)
#define PART_RUNS(r, count, rows) PART_SUM(r, rows, s) if (constexpr int count = 1; true)
#define LANES(c, cols) for (i64 c = lane(); c < (cols); c += lanes())
#define LANES_SUM(c, cols, s) LANES(c, cols)
#define LANES_SUM2(c, cols, s, t) LANES(c, cols)
#define LANES_SUM3(c, cols, s, t, u) LANES(c, cols)
#define COLUMN_TILES(c0, cols) \
    for (i64 c0 = blockIdx.x * (i64)(WARP * OWN); c0 < (cols); c0 += gridDim.x * (i64)(WARP * OWN))
#define OWNED(k, c, c0, cols) \
    for (int k = 0; k < OWN; ++k) \
        if (i64 c = (c0) + k * WARP + lane(); c < (cols))
#define EACH_PART(p, parts) for (i64 p = thread(); p < (parts); p += threads())
#define TEAM_PARTS(p, parts) for (i64 p = team(); p < (parts); p += teams())

struct Sum { template <class T> __device__ T operator()(T a, T b) const { return a + b; } };
struct Max { template <class T> __device__ T operator()(T a, T b) const { return b > a ? b : a; } };

// The value of all threads that this one shares `width` neighbours with, folded; each of them gets it.
template <class T, class Fold> __device__ T fold_neighbours(T x, int width, Fold fold) {
    u32 mask = width == WARP ? 0xffffffffu : ((1u << width) - 1) << (thread() % WARP / width * width);
    for (int d = width / 2; d > 0; d /= 2) x = fold(x, __shfl_xor_sync(mask, x, d));
    return x;
}

// The same over all warps of a block, which all call it together.
template <class T, class Fold> __device__ T fold_block(T x, Fold fold) {
    __shared__ T of_warp[32];
    x = fold_neighbours(x, WARP, fold);
    __syncthreads();  // the last user of `of_warp` is done
    if (thread() % WARP == 0) of_warp[thread() / WARP] = x;
    __syncthreads();
    x = of_warp[0];
    for (int w = 1; w < threads() / WARP; ++w) x = fold(x, of_warp[w]);
    return x;
}

// A team is a part of one warp, or the whole block.
template <class T> __device__ T team_sum(T x) {
    return lanes() > WARP ? fold_block(x, Sum()) : fold_neighbours(x, lanes(), Sum());
}
template <class T> __device__ T team_max(T x) {
    return lanes() > WARP ? fold_block(x, Max()) : fold_neighbours(x, lanes(), Max());
}

// The sum of what every thread of the block holds; every thread gets it.
template <class T> __device__ T block_sum(T x) { return fold_block(x, Sum()); }

// The sum over the teams of a block of what each lane owns, lane by lane. Teams have 32 lanes.
template <class T> __device__ void sum_over_teams(T (&x)[OWN]) {
    __shared__ T of_team[32][OWN][WARP];
    __syncthreads();
    for (int k = 0; k < OWN; ++k) of_team[team()][k][lane()] = x[k];
    __syncthreads();
    for (int k = 0; k < OWN; ++k) {
        x[k] = 0;
        for (int t = 0; t < teams(); ++t) x[k] += of_team[t][k][lane()];
    }
}

template <class T> struct Best { T value; i64 at; };

// The larger of two; of equal ones the first; NaN is larger than any number. A place of -1 is none.
struct Better {
    template <class T> __device__ Best<T> operator()(Best<T> a, Best<T> b) const {
        if (a.at < 0 || b.at < 0) return a.at < 0 ? b : a;
        bool a_nan = a.value != a.value, b_nan = b.value != b.value;
        if (a_nan != b_nan) return a_nan ? a : b;
        if (a_nan || a.value == b.value) return a.at < b.at ? a : b;
        return a.value > b.value ? a : b;
    }
};

__device__ inline bf16 __shfl_xor_sync(u32 mask, bf16 x, int d) {
    return {(unsigned short)__shfl_xor_sync(mask, (u32)x.bits, d)};
}
template <class T> __device__ Best<T> __shfl_xor_sync(u32 mask, Best<T> x, int d) {
    return {__shfl_xor_sync(mask, x.value, d), __shfl_xor_sync(mask, x.at, d)};
}

// The largest number of a row of at least one, and its place.
template <class T> __device__ Best<T> row_best(const T* row, i64 cols) {
    Best<T> best = {0, -1};
    LANES(c, cols) best = Better()(best, Best<T>{row[c], c});
    return lanes() > WARP ? fold_block(best, Better()) : fold_neighbours(best, lanes(), Better());
}

// A run of short rows in memory: `at` reads a column of one, `set` writes it, where `leave` says that it belongs.
template <class T> struct Run {
    const T* row;
    __device__ inline Run(const T* rows, int, i64) : row(rows) {}
    __device__ inline wide<T> at(int, int c) const { return (wide<T>)row[c]; }
    __device__ inline void set(T* rows, int, int c, wide<T> value) const { rows[c] = stored<T>(value); }
    __device__ inline void leave(T*, int, i64) const {}
};

// Numbers of 64 bits side by side: COUNTERS of them, here one.
typedef u64 Words;
enum { COUNTERS = 1, MASK_RUNS = 1 };
__device__ inline Words counting(u64 first) { return first; }
__device__ inline Words alike(u64 x) { return x; }
__device__ inline void in_turn(const Words (&c)[4], u32* words) {
    for (int k = 0; k < 4; ++k) words[k] = (u32)c[k];
}
__device__ inline Words product(Words x, u32 m) { return (u64)(u32)x * m; }

// ---- Sixteen bytes at a time -----------------------------------------------------------------------------------

template <class T> constexpr int PACK = 16 / sizeof(T);

template <int N> struct Width { static constexpr int count = N; };
struct Walk { i64 first, step; };
__device__ inline Walk over_grid() { return {blockIdx.x * (i64)threads() + thread(), gridDim.x * (i64)threads()}; }
__device__ inline Walk over_team() { return {lane(), lanes()}; }

// How many elements go alone before all these addresses are multiples of 16: all n where that never happens.
template <class T, class... More> __device__ i64 alone(i64 n, const T* p, const More*... more) {
    int at = (int)((u64)p / sizeof(T) % PACK<T>);
    bool together = true;
    ((together = together && (!more || (int)((u64)more / sizeof(More) % PACK<T>) == at)), ...);
    i64 head = (PACK<T> - at) % PACK<T>;
    return together && head < n ? head : n;
}

// Calls body(Width<N>(), i) for runs of N elements from i that together are 0..n-1: N = 1 before `head` and at the
// end, 16 bytes' worth between.
template <class T, class Body> __device__ void packs(Walk walk, i64 n, i64 head, Body body) {
    i64 whole = (n - head) / PACK<T>, tail = head + whole * PACK<T>;
    for (i64 j = walk.first; j < whole; j += walk.step) body(Width<PACK<T>>(), head + j * PACK<T>);
    for (i64 j = walk.first; j < head + n - tail; j += walk.step) body(Width<1>(), j < head ? j : tail + j - head);
}

// A question that has one answer for a whole loop.
template <class Body> __device__ inline void decide(bool answer, Body body) { body(answer); }

// The largest number that a lane finds in its columns of a row. NaN is passed over.
template <class W, class T> __device__ inline W largest(const T* row, i64 cols) {
    W top = (W)from_bits(0xFF800000u);
    LANES(c, cols) {
        W x = (W)row[c];
        top = x > top ? x : top;
    }
    return top;
}

#endif  // GPUMLP_HOST

// N neighbours in registers, read and written at once: the address is a multiple of their size.
template <class T, int N> struct alignas(sizeof(T) * N) Values {
    T at[N];
    __device__ inline T& operator[](int k) { return at[k]; }
};
template <class W, class T> __device__ inline Values<wide<T>, W::count> load(W, const T* p) {
    Values<T, W::count> narrow = *(const Values<T, W::count>*)p;
    Values<wide<T>, W::count> v;
    for (int k = 0; k < W::count; ++k) v[k] = (wide<T>)narrow[k];
    return v;
}
template <class T, class W, int N> __device__ inline void store(T* p, Values<W, N> v) {
    Values<T, N> narrow;
    for (int k = 0; k < N; ++k) narrow[k] = stored<T>((wide<T>)v[k]);
    *(Values<T, N>*)p = narrow;
}
#ifdef __CUDACC__  // NVIDIA's compilers take some stores of a struct apart, but never this one
__device__ inline void store(float* p, Values<float, 4> v) {
    __stwb((float4*)p, make_float4(v.at[0], v.at[1], v.at[2], v.at[3]));
}
__device__ inline void store(double* p, Values<double, 2> v) {
    __stwb((double2*)p, make_double2(v.at[0], v.at[1]));
}
__device__ inline void store(bf16* p, Values<float, 8> v) {
    u32 pairs[4];
    for (int k = 0; k < 4; ++k) pairs[k] = stored<bf16>(v[2 * k]).bits | (u32)stored<bf16>(v[2 * k + 1]).bits << 16;
    __stwb((uint4*)p, make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]));
}
#endif

// The element of a table for a batch, counted from 0; its last one for later batches.
template <class T> __device__ inline T of_batch(const T* table, i64 length, i64 batch) {
    return table[batch < length - 1 ? batch : length - 1];
}

// The larger and the smaller of x and a bound that is a number; where x is NaN it goes through, unlike in fmax. Of two
// zeros `smaller` takes x, with its sign.
template <class T> __device__ inline T larger(T x, T bound) { return x <= bound ? bound : x; }
template <class T> __device__ inline T smaller(T x, T bound) { return x > bound ? bound : x; }

// To full relative accuracy on both sides: exp(-x) is infinite where the quotient is below all normal numbers.
template <class T> __device__ inline T sigmoid_of(T x) { return 1 / (1 + exp(-x)); }

template <class T> __device__ inline T softplus_of(T x) { return larger(x, (T)0) + log1p_unit(exp(-fabs(x))); }

// The largest number of a row of at least one. NaN is passed over: what is computed from the row turns NaN anyway.
// A lane reads no column but its own: once a lane has all of the row's sums, it may write in the row's place.
template <class T> __device__ inline wide<T> row_max(const T* row, i64 cols) {
    return team_max(largest<wide<T>>(row, cols));
}
