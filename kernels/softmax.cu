// y_k = exp(x_k) / Σ_j exp(x_j) over each row; dx_k = y_k (dy_k - Σ_j dy_j y_j)
//
// Shapes: x, y, dy, dx (rows, cols). Elements read and written: forward 3 + 2, backward 3 + 1 of T.

template <class T> __global__ void softmax_forward(const T* x, T* y, i64 rows, i64 cols) {
    ROWS(r, rows) {
        const T* from = x + r * cols;
        T* to = y + r * cols;
        wide<T> top = row_max(from, cols), sum = 0;
        LANES_SUM(c, cols, sum) {
            wide<T> e = exp((wide<T>)from[c] - top);
            to[c] = stored<T>(e);
            sum += e;
        }
        wide<T> scale = 1 / team_sum(sum);
        LANES(c, cols) to[c] = stored<T>((wide<T>)to[c] * scale);
    }
}

template <class T> __global__ void softmax_backward(const T* y, const T* dy, T* dx, i64 rows, i64 cols) {
    ROWS(r, rows) {
        const T *p = y + r * cols, *g = dy + r * cols;
        wide<T> inner = 0;
        LANES_SUM(c, cols, inner) inner += (wide<T>)p[c] * (wide<T>)g[c];
        inner = team_sum(inner);
        LANES(c, cols) dx[r * cols + c] = stored<T>((wide<T>)p[c] * ((wide<T>)g[c] - inner));
    }
}
