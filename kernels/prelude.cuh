// The dialect that gpumlp's kernels are written in: a few loops and reductions over CUDA's threads.
//
// The same text runs in several forms. On a GPU a block has warps of 32 lanes. On a CPU (host.h) a block is one
// thread, a warp is one lane, and each of these loops is a plain loop that the compiler vectorises.
// A file never includes this one: whoever compiles puts the text in front.
//
//   EACH(i, n)                 all elements, spread over the grid
//   EACH_ROW(r, rows)          rows spread over the y of the grid, EACH_COLUMN(c, cols) columns over its x
//   WARP_ROWS(r, rows)         a row to each warp, LANES(c, cols) its columns to the lanes
//   BLOCK_ROWS(r, rows)        a row to each warp of one block: for what must be summed over all rows
//   COLUMN_TILES(c0, cols)     a tile of WARP * OWN columns to each block, OWNED(k, c, c0, cols) those of a lane
//
// Sums are taken in an order that depends on the shape alone. There are no atomics.

#ifndef GPUMLP_HOST

typedef long long i64;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned char u8;

constexpr int WARP = 32;
constexpr int OWN = 1;

__device__ inline float normal_cdf(float x) { return normcdff(x); }
__device__ inline double normal_cdf(double x) { return normcdf(x); }

__device__ inline int lane() { return threadIdx.x % WARP; }
__device__ inline int warp() { return threadIdx.x / WARP; }
__device__ inline int warps() { return blockDim.x / WARP; }

#define EACH(i, n) \
    for (i64 i = blockIdx.x * (i64)blockDim.x + threadIdx.x; i < (n); i += (i64)gridDim.x * blockDim.x)
#define EACH_ROW(r, rows) \
    for (i64 r = blockIdx.y * (i64)blockDim.y + threadIdx.y; r < (rows); r += (i64)gridDim.y * blockDim.y)
#define EACH_COLUMN(c, cols) EACH(c, cols)
#define WARP_ROWS(r, rows) \
    for (i64 r = blockIdx.x * (i64)warps() + warp(); r < (rows); r += (i64)gridDim.x * warps())
#define BLOCK_ROWS(r, rows) for (i64 r = warp(); r < (rows); r += warps())
#define LANES(c, cols) for (i64 c = lane(); c < (cols); c += WARP)
#define LANES_SUM(c, cols, s) LANES(c, cols)
#define LANES_SUM2(c, cols, s, t) LANES(c, cols)
#define LANES_MAX(c, cols, m) LANES(c, cols)
#define COLUMN_TILES(c0, cols) \
    for (i64 c0 = blockIdx.x * (i64)(WARP * OWN); c0 < (cols); c0 += (i64)gridDim.x * WARP * OWN)
#define OWNED(k, c, c0, cols) \
    for (int k = 0; k < OWN; ++k) \
        if (i64 c = (c0) + k * WARP + lane(); c < (cols))

template <class T> __device__ T warp_sum(T x) {
    for (int d = WARP / 2; d > 0; d /= 2) x += __shfl_xor_sync(0xffffffffu, x, d);
    return x;
}

template <class T> __device__ T warp_max(T x) {
    for (int d = WARP / 2; d > 0; d /= 2) {
        T y = __shfl_xor_sync(0xffffffffu, x, d);
        x = y > x ? y : x;
    }
    return x;
}

// The sum over all warps of a block of a value that is equal in the lanes of a warp; every thread gets it.
template <class T> __device__ T block_sum_of_warps(T x) {
    __shared__ T part[32];
    __syncthreads();  // the last user of `part` is done
    if (lane() == 0) part[warp()] = x;
    __syncthreads();
    T total = 0;
    for (int w = 0; w < warps(); ++w) total += part[w];
    return total;
}

// The same for what each lane owns, lane by lane.
template <class T> __device__ void block_sum_of_lanes(T (&x)[OWN]) {
    __shared__ T part[32][OWN][WARP];
    __syncthreads();
    for (int k = 0; k < OWN; ++k) part[warp()][k][lane()] = x[k];
    __syncthreads();
    for (int k = 0; k < OWN; ++k) {
        x[k] = 0;
        for (int w = 0; w < warps(); ++w) x[k] += part[w][k][lane()];
    }
}

template <class T> struct Best { T value; i64 at; };

// The place of the largest value in a row, the first of equal ones; NaN is larger than any number.
template <class T> __device__ bool beats(Best<T> a, Best<T> b) {
    if (b.at < 0 || a.at < 0) return a.at >= 0;
    bool a_nan = a.value != a.value, b_nan = b.value != b.value;
    if (a_nan != b_nan) return a_nan;
    return (!a_nan && a.value > b.value) || ((a_nan || a.value == b.value) && a.at < b.at);
}

template <class T> __device__ i64 argmax(const T* row, i64 cols) {
    Best<T> best = {0, -1};
    LANES(c, cols) {
        Best<T> here = {row[c], c};
        if (beats(here, best)) best = here;
    }
    for (int d = WARP / 2; d > 0; d /= 2) {
        Best<T> other = {__shfl_xor_sync(0xffffffffu, best.value, d), __shfl_xor_sync(0xffffffffu, best.at, d)};
        if (beats(other, best)) best = other;
    }
    return best.at;
}

#endif  // GPUMLP_HOST

// The larger of two; NaN goes through, as in NumPy and unlike fmax.
template <class T> __device__ inline T larger(T a, T b) { return (a > b || a != a) ? a : b; }
template <class T> __device__ inline T smaller(T a, T b) { return (a < b || a != a) ? a : b; }

// 1 / (1 + exp(-x)) without overflow, to full relative accuracy on both sides.
template <class T> __device__ inline T sigmoid_of(T x) {
    T e = exp(-fabs(x));
    T small = e / (1 + e);
    return x >= 0 ? 1 / (1 + e) : small;
}

// The largest number of a row of at least one. NaN is passed over: what is computed from the row turns NaN anyway.
template <class T> __device__ inline T row_max(const T* row, i64 cols) {
    T top = row[0];
    LANES_MAX(c, cols, top) top = row[c] > top ? row[c] : top;
    return warp_max(top);
}

template <class T> __device__ inline T softplus_of(T x) { return larger(x, (T)0) + log1p(exp(-fabs(x))); }

// What every loss leaves behind: the mean, 0 where nothing counts, and the sums it was made of.
template <class T>
__device__ inline void report(double loss, double mass, double hits, double count, T* value, double* sums) {
    if (warp() != 0 || lane() != 0) return;
    *value = (T)(mass == 0 ? 0.0 : loss / mass);
    sums[0] = loss;
    sums[1] = mass;
    sums[2] = hits;
    sums[3] = count;
}
