// y = gain (x - mean) / sqrt(var + ε) + bias over each column (Ioffe and Szegedy 2015, arXiv:1502.03167)
//
// Shapes: x, y, dy, dx (rows, cols); gain, bias, dgain, dbias (cols,); mean, variance (1, cols).
// Elements of T moved: forward 3 + 1, backward 2 · 2 + 1.

constexpr double batch_norm_epsilon = 1e-5;

template <class T>
__global__ void batch_norm_forward(
    const T* x, const T* gain, const T* bias, T* y, T* mean, T* variance, i64 rows, i64 cols
) {
    COLUMN_TILES(c0, cols) {
        T m[OWN] = {}, v[OWN] = {};
        for (i64 r = warp(); r < rows; r += warps()) OWNED(k, c, c0, cols) m[k] += x[r * cols + c];
        block_sum_of_lanes(m);
        for (int k = 0; k < OWN; ++k) m[k] /= rows;
        for (i64 r = warp(); r < rows; r += warps()) OWNED(k, c, c0, cols) {
            T d = x[r * cols + c] - m[k];
            v[k] += d * d;
        }
        block_sum_of_lanes(v);
        for (int k = 0; k < OWN; ++k) v[k] /= rows;
        for (i64 r = warp(); r < rows; r += warps()) OWNED(k, c, c0, cols) {
            T scale = 1 / sqrt(v[k] + (T)batch_norm_epsilon);
            y[r * cols + c] = (x[r * cols + c] - m[k]) * scale * gain[c] + bias[c];
        }
        if (warp() == 0) OWNED(k, c, c0, cols) {
            mean[c] = m[k];
            variance[c] = v[k];
        }
    }
}

template <class T>
__global__ void batch_norm_backward(
    const T* x, const T* gain, const T* mean, const T* variance, const T* dy, T* dx, T* dgain, T* dbias, i64 rows,
    i64 cols
) {
    COLUMN_TILES(c0, cols) {
        T of_gain[OWN] = {}, of_bias[OWN] = {};
        for (i64 r = warp(); r < rows; r += warps()) OWNED(k, c, c0, cols) {
            T scale = 1 / sqrt(variance[c] + (T)batch_norm_epsilon);
            of_gain[k] += dy[r * cols + c] * ((x[r * cols + c] - mean[c]) * scale);
            of_bias[k] += dy[r * cols + c];
        }
        block_sum_of_lanes(of_gain);
        block_sum_of_lanes(of_bias);
        for (i64 r = warp(); r < rows; r += warps()) OWNED(k, c, c0, cols) {
            T scale = 1 / sqrt(variance[c] + (T)batch_norm_epsilon);
            T h = (x[r * cols + c] - mean[c]) * scale;
            // The means of dh and of dh·h over the column: gain is the same in all of its rows.
            T inner = dy[r * cols + c] - of_bias[k] / rows - h * (of_gain[k] / rows);
            dx[r * cols + c] = scale * gain[c] * inner;
        }
        if (warp() == 0) OWNED(k, c, c0, cols) {
            dgain[c] = of_gain[k];
            dbias[c] = of_bias[k];
        }
    }
}
