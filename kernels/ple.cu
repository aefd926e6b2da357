// y = a x + c + sum over bins t of v_t V_t of each number x (Gorishniy et al. 2022, arXiv:2203.05556)
//
// v_t is the share of bin t that lies below x: 1 in the bins before that of x, 0 behind it; the first bin goes on below
// its edge, the last one above. So y = a x + c + knots_t + v_t V_t, t the bin of x and knots_t the sum of V before it.
// Shapes, of T: x (n, pitch), the first f columns of which are the numbers; edges, scales (f, bins), the lower edges
// and 1 / width, the edges of bins that a number does not have beyond all numbers; a, c, da, dc (f, size); V, dV, knots
// (f, bins, size); y, dy (n, f, size).

// The last bin that begins at or below a number; the first one for NaN.
template <class T> __device__ inline i64 bin_of(T x, const T* edges, i64 bins) {
    i64 found = 0, step = 1;
    while (2 * step < bins) step *= 2;
    for (; step > 0; step /= 2)
        if (found + step < bins && edges[found + step] <= x) found += step;
    return found;
}

#define PLE_FORWARD_INPUTS const T *x, const T *edges, const T *scales, const T *a, const T *c, const T *V

template <class T>
__global__ void ple_forward_knots(
    PLE_FORWARD_INPUTS, T*, T* knots, i64, i64 cols, i64, i64 numbers, i64 bins
) {
    ROWS(i, numbers) {
        const T* v = V + i * bins * cols;
        T* to = knots + i * bins * cols;
        LANES(j, cols) to[j] = 0;
        for (i64 t = 1; t < bins; ++t, v += cols, to += cols) LANES(j, cols) to[cols + j] = to[j] + v[j];
    }
}

// `rows` are the numbers of all rows of the batch, one after the other; a team has one.
template <class T>
__global__ void ple_forward_rows(
    PLE_FORWARD_INPUTS, T* y, T* knots, i64 rows, i64 cols, i64 pitch, i64 numbers, i64 bins
) {
    ROWS(r, rows) {
        const i64 i = r % numbers;
        const T value = x[r / numbers * pitch + i];
        const i64 t = i * bins + bin_of(value, edges + i * bins, bins);
        const T share = (value - edges[t]) * scales[t];
        const T *ai = a + i * cols, *ci = c + i * cols, *v = V + t * cols, *before = knots + t * cols;
        LANES(j, cols) y[r * cols + j] = value * ai[j] + ci[j] + (before[j] + share * v[j]);
    }
}

// A team has a number, and goes through all rows of the batch. What a row adds to its bin and those before it is left
// as two numbers, in its bin and the one before, that become the rest as sums over all bins behind.
template <class T>
__global__ void ple_backward(
    const T* x, const T* edges, const T* scales, const T* dy, T* da, T* dc, T* dV, i64 rows, i64 cols, i64 n,
    i64 pitch, i64 bins
) {
    ROWS(i, rows) {
        T *dai = da + i * cols, *dci = dc + i * cols, *dv = dV + i * bins * cols;
        LANES(j, cols) dai[j] = dci[j] = 0;
        for (i64 t = 0; t < bins; ++t) LANES(j, cols) dv[t * cols + j] = 0;
        for (i64 r = 0; r < n; ++r) {
            const T value = x[r * pitch + i], *g = dy + (r * rows + i) * cols;
            const i64 t = bin_of(value, edges + i * bins, bins);
            const T share = (value - edges[i * bins + t]) * scales[i * bins + t], rest = 1 - share;
            T* at = dv + t * cols;
            if (t > 0) LANES(j, cols) (at - cols)[j] += rest * g[j];
            LANES(j, cols) {
                at[j] += share * g[j];
                dai[j] += value * g[j];
                dci[j] += g[j];
            }
        }
        for (i64 t = bins - 2; t >= 0; --t) LANES(j, cols) dv[t * cols + j] += dv[(t + 1) * cols + j];
    }
}
