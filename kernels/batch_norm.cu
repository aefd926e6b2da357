// y = gain (x - mean) / sqrt(var + ε) + bias over each column (Ioffe and Szegedy 2015, arXiv:1502.03167)
//
// Each part of the rows finds its own mean and its squares around that; they are put together without the difference
// of two large sums (Chan, Golub and LeVeque 1979).
//
// Shapes: x, y, dy, dx (rows, cols) of T; of wide<T> gain, bias, dgain, dbias (cols,) and mean, variance (1, cols);
// scratch (parts, 2 cols). Elements of T moved: forward 2 + 2, backward 2 + 3.

constexpr double batch_norm_epsilon = 1e-5;

#define BATCH_NORM_INPUTS const T *x, const wide<T> *gain, const wide<T> *bias
#define BATCH_NORM_OUTPUTS T *y, wide<T> *mean, wide<T> *variance

template <class T>
__global__ void batch_norm_forward(BATCH_NORM_INPUTS, BATCH_NORM_OUTPUTS, i64 rows, i64 cols, double* scratch, i64) {
    typedef wide<T> W;
    W count = (W)(last_of(rows) - first_of(rows));
    COLUMN_TILES(c0, cols) {
        W m[OWN] = {}, squares[OWN] = {};
        PART_ROWS(r, rows) OWNED(k, c, c0, cols) m[k] += (W)x[r * cols + c];
        sum_over_teams(m);
        for (int k = 0; k < OWN; ++k) m[k] /= count;
        PART_ROWS(r, rows) OWNED(k, c, c0, cols) {
            W d = (W)x[r * cols + c] - m[k];
            squares[k] += d * d;
        }
        sum_over_teams(squares);
        leave_columns(m, squares, c0, cols, scratch);
    }
}

template <class T>
__global__ void batch_norm_forward_finish(
    BATCH_NORM_INPUTS, BATCH_NORM_OUTPUTS, i64 rows, i64 cols, double* scratch, i64 parts
) {
    COLUMN_TILES(c0, cols) {
        double m[OWN] = {}, squares[OWN] = {};
        TEAM_PARTS(p, parts) OWNED(k, c, c0, cols) {
            m[k] += scratch[p * 2 * cols + c] * (double)size_of_part(rows, p, parts);
        }
        sum_over_teams(m);
        for (int k = 0; k < OWN; ++k) m[k] /= (double)rows;
        TEAM_PARTS(p, parts) OWNED(k, c, c0, cols) {
            double d = scratch[p * 2 * cols + c] - m[k];
            squares[k] += scratch[p * 2 * cols + cols + c] + d * d * (double)size_of_part(rows, p, parts);
        }
        sum_over_teams(squares);
        if (team() == 0) OWNED(k, c, c0, cols) {
            mean[c] = (wide<T>)m[k];
            variance[c] = (wide<T>)(squares[k] / (double)rows);
        }
    }
}

template <class T>
__global__ void batch_norm_forward_rows(BATCH_NORM_INPUTS, BATCH_NORM_OUTPUTS, i64 rows, i64 cols, double*, i64) {
    typedef wide<T> W;
    ROWS(r, rows) LANES(c, cols) {
        W scale = 1 / sqrt(variance[c] + (W)batch_norm_epsilon);
        y[r * cols + c] = stored<T>(((W)x[r * cols + c] - mean[c]) * scale * gain[c] + bias[c]);
    }
}

#define BATCH_NORM_BACKWARD_INPUTS \
    const T *x, const wide<T> *gain, const wide<T> *mean, const wide<T> *variance, const T *dy
#define BATCH_NORM_BACKWARD_OUTPUTS T *dx, wide<T> *dgain, wide<T> *dbias

template <class T>
__global__ void batch_norm_backward(
    BATCH_NORM_BACKWARD_INPUTS, BATCH_NORM_BACKWARD_OUTPUTS, i64 rows, i64 cols, double* scratch, i64
) {
    typedef wide<T> W;
    COLUMN_TILES(c0, cols) {
        W of_gain[OWN] = {}, of_bias[OWN] = {};
        PART_ROWS(r, rows) OWNED(k, c, c0, cols) {
            W scale = 1 / sqrt(variance[c] + (W)batch_norm_epsilon);
            of_gain[k] += (W)dy[r * cols + c] * (((W)x[r * cols + c] - mean[c]) * scale);
            of_bias[k] += (W)dy[r * cols + c];
        }
        sum_over_teams(of_gain);
        sum_over_teams(of_bias);
        leave_columns(of_gain, of_bias, c0, cols, scratch);
    }
}

template <class T>
__global__ void batch_norm_backward_finish(
    BATCH_NORM_BACKWARD_INPUTS, BATCH_NORM_BACKWARD_OUTPUTS, i64 rows, i64 cols, double* scratch, i64 parts
) {
    finish_columns(dgain, cols, scratch, parts, 2 * cols);
    finish_columns(dbias, cols, scratch + cols, parts, 2 * cols);
}

template <class T>
__global__ void batch_norm_backward_rows(
    BATCH_NORM_BACKWARD_INPUTS, BATCH_NORM_BACKWARD_OUTPUTS, i64 rows, i64 cols, double*, i64
) {
    typedef wide<T> W;
    ROWS(r, rows) LANES(c, cols) {
        W scale = 1 / sqrt(variance[c] + (W)batch_norm_epsilon);
        W h = ((W)x[r * cols + c] - mean[c]) * scale;
        // The means of dh and of dh·h over the column: gain is the same in all of its rows.
        W inner = (W)dy[r * cols + c] - dbias[c] / rows - h * (dgain[c] / rows);
        dx[r * cols + c] = stored<T>(scale * gain[c] * inner);
    }
}
