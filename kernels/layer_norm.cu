// y = gain (x - mean) / sqrt(var + ε) + bias over each row (Ba et al. 2016, arXiv:1607.06450)
//
// Shapes: x, y, dy, dx (rows, cols) of T; of wide<T> gain, bias, dgain, dbias (cols,) and mean, variance (rows, 1);
// scratch (parts, 2 cols).
// Elements of T moved: forward 4, backward 2 · 2 + 1.

constexpr double layer_norm_epsilon = 1e-5;

template <class T>
__global__ void layer_norm_forward(
    const T* x, const wide<T>* gain, const wide<T>* bias, T* y, wide<T>* mean, wide<T>* variance, i64 rows, i64 cols
) {
    typedef wide<T> W;
    ROWS(r, rows) {
        const T* row = x + r * cols;
        W sum = 0, squares = 0;
        LANES_SUM(c, cols, sum) sum += (W)row[c];
        W m = team_sum(sum) / cols;
        LANES_SUM(c, cols, squares) squares += ((W)row[c] - m) * ((W)row[c] - m);
        W v = team_sum(squares) / cols;
        W scale = 1 / sqrt(v + (W)layer_norm_epsilon);
        LANES(c, cols) y[r * cols + c] = stored<T>(((W)row[c] - m) * scale * gain[c] + bias[c]);
        if (lane() == 0) {
            mean[r] = m;
            variance[r] = v;
        }
    }
}

#define LAYER_NORM_BACKWARD_INPUTS \
    const T *x, const wide<T> *gain, const wide<T> *mean, const wide<T> *variance, const T *dy

// The columns come first: dx may be the very array of x or dy.
template <class T>
__global__ void layer_norm_backward_columns(
    LAYER_NORM_BACKWARD_INPUTS, T*, wide<T>*, wide<T>*, i64 rows, i64 cols, double* scratch, i64
) {
    typedef wide<T> W;
    COLUMN_TILES(c0, cols) {
        W of_gain[OWN] = {}, of_bias[OWN] = {};
        PART_ROWS(r, rows) {
            const T *row = x + r * cols, *g = dy + r * cols;
            W m = mean[r], scale = 1 / sqrt(variance[r] + (W)layer_norm_epsilon);
            OWNED(k, c, c0, cols) {
                of_gain[k] += (W)g[c] * (((W)row[c] - m) * scale);
                of_bias[k] += (W)g[c];
            }
        }
        sum_over_teams(of_gain);
        sum_over_teams(of_bias);
        leave_columns(of_gain, of_bias, c0, cols, scratch);
    }
}

template <class T>
__global__ void layer_norm_backward_rows(
    LAYER_NORM_BACKWARD_INPUTS, T* dx, wide<T>*, wide<T>*, i64 rows, i64 cols, double*, i64
) {
    typedef wide<T> W;
    ROWS(r, rows) {
        const T *row = x + r * cols, *g = dy + r * cols;
        W m = mean[r], scale = 1 / sqrt(variance[r] + (W)layer_norm_epsilon), a = 0, b = 0;
        LANES_SUM2(c, cols, a, b) {
            W dh = (W)g[c] * gain[c];
            a += dh;
            b += dh * (((W)row[c] - m) * scale);
        }
        a = team_sum(a) / cols;
        b = team_sum(b) / cols;
        LANES(c, cols) {
            dx[r * cols + c] = stored<T>(scale * ((W)g[c] * gain[c] - a - ((W)row[c] - m) * scale * b));
        }
    }
}

template <class T>
__global__ void layer_norm_backward_finish(
    LAYER_NORM_BACKWARD_INPUTS, T*, wide<T>* dgain, wide<T>* dbias, i64, i64 cols, double* scratch, i64 parts
) {
    finish_columns(dgain, cols, scratch, parts, 2 * cols);
    finish_columns(dbias, cols, scratch + cols, parts, 2 * cols);
}
