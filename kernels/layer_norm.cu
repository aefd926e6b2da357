// y = gain (x - mean) / sqrt(var + ε) + bias over each row (Ba et al. 2016, arXiv:1607.06450)
//
// Shapes: x, y, dy, dx (rows, cols); gain, bias, dgain, dbias (cols,); mean, variance (rows, 1);
// scratch (parts, 2 cols).
// Elements of T moved: forward 4, backward 2 · 2 + 1.

constexpr double layer_norm_epsilon = 1e-5;

template <class T>
__global__ void layer_norm_forward(
    const T* x, const T* gain, const T* bias, T* y, T* mean, T* variance, i64 rows, i64 cols
) {
    ROWS(r, rows) {
        const T* row = x + r * cols;
        T sum = 0, squares = 0;
        LANES_SUM(c, cols, sum) sum += row[c];
        T m = team_sum(sum) / cols;
        LANES_SUM(c, cols, squares) squares += (row[c] - m) * (row[c] - m);
        T v = team_sum(squares) / cols;
        T scale = 1 / sqrt(v + (T)layer_norm_epsilon);
        LANES(c, cols) y[r * cols + c] = (row[c] - m) * scale * gain[c] + bias[c];
        if (lane() == 0) {
            mean[r] = m;
            variance[r] = v;
        }
    }
}

#define LAYER_NORM_BACKWARD_INPUTS const T *x, const T *gain, const T *mean, const T *variance, const T *dy

// The columns come first: dx may be the very array of x or dy.
template <class T>
__global__ void layer_norm_backward_columns(
    LAYER_NORM_BACKWARD_INPUTS, T*, T*, T*, i64 rows, i64 cols, double* scratch, i64
) {
    COLUMN_TILES(c0, cols) {
        T of_gain[OWN] = {}, of_bias[OWN] = {};
        PART_ROWS(r, rows) {
            const T *row = x + r * cols, *g = dy + r * cols;
            T m = mean[r], scale = 1 / sqrt(variance[r] + (T)layer_norm_epsilon);
            OWNED(k, c, c0, cols) {
                of_gain[k] += g[c] * ((row[c] - m) * scale);
                of_bias[k] += g[c];
            }
        }
        sum_over_teams(of_gain);
        sum_over_teams(of_bias);
        leave_columns(of_gain, of_bias, c0, cols, scratch);
    }
}

template <class T>
__global__ void layer_norm_backward_rows(
    LAYER_NORM_BACKWARD_INPUTS, T* dx, T*, T*, i64 rows, i64 cols, double*, i64
) {
    ROWS(r, rows) {
        const T *row = x + r * cols, *g = dy + r * cols;
        T m = mean[r], scale = 1 / sqrt(variance[r] + (T)layer_norm_epsilon), a = 0, b = 0;
        LANES_SUM2(c, cols, a, b) {
            T dh = g[c] * gain[c];
            a += dh;
            b += dh * ((row[c] - m) * scale);
        }
        a = team_sum(a) / cols;
        b = team_sum(b) / cols;
        LANES(c, cols) dx[r * cols + c] = scale * (g[c] * gain[c] - a - (row[c] - m) * scale * b);
    }
}

template <class T>
__global__ void layer_norm_backward_finish(
    LAYER_NORM_BACKWARD_INPUTS, T*, T* dgain, T* dbias, i64, i64 cols, double* scratch, i64 parts
) {
    finish_columns(dgain, cols, scratch, parts, 2 * cols);
    finish_columns(dbias, cols, scratch + cols, parts, 2 * cols);
}
