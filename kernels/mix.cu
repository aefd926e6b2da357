// y = x + a (h - x), h = f(x): an activation mixed with the identity (Holzmüller et al. 2024, arXiv:2407.04491)
//
// `slope` is f'(x) dy, which the backward of f makes. Shapes: x, h, y, dy, slope, dx (rows, cols) of T; a, da (cols,)
// of wide<T>; scratch (parts, cols). Elements of T moved: forward 3, backward 5.

template <class T>
__global__ void mix_forward(const T* x, const T* h, const wide<T>* a, T* y, i64 rows, i64 cols) {
    ROWS(r, rows) LANES(c, cols) {
        wide<T> v = x[r * cols + c];
        y[r * cols + c] = stored<T>(v + a[c] * ((wide<T>)h[r * cols + c] - v));
    }
}

#define MIX_BACKWARD_INPUTS const T *x, const T *h, const wide<T> *a, const T *dy, const T *slope

template <class T>
__global__ void mix_backward(
    MIX_BACKWARD_INPUTS, T* dx, wide<T>*, i64 rows, i64 cols, double* scratch, i64
) {
    COLUMN_TILES(c0, cols) {
        wide<T> sum[OWN] = {};
        PART_ROWS(r, rows) OWNED(k, c, c0, cols) {
            wide<T> g = dy[r * cols + c];
            sum[k] += g * ((wide<T>)h[r * cols + c] - (wide<T>)x[r * cols + c]);
            dx[r * cols + c] = stored<T>(g + a[c] * ((wide<T>)slope[r * cols + c] - g));
        }
        sum_over_teams(sum);
        if (team() == 0) OWNED(k, c, c0, cols) scratch[part() * cols + c] = (double)sum[k];
    }
}

template <class T>
__global__ void mix_backward_finish(
    MIX_BACKWARD_INPUTS, T*, wide<T>* da, i64, i64 cols, double* scratch, i64 parts
) {
    finish_columns(da, cols, scratch, parts, cols);
}
