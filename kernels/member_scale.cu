// y = gain x + bias, where x is taken for each of k members (Wen et al. 2020, arXiv:2002.06715)
//
// Shapes: x, dx (rows, width) of T; y, dy (rows, cols) of T, cols = k width; of wide<T> gain, bias (or null), dgain,
// dbias (cols,); scratch (parts, 2 cols). Where every member has values of its own, width = cols.
// Elements of T moved: forward rows (width + cols), backward 2 rows cols + 2 rows width.

template <class T>
__global__ void member_scale_forward(
    const T* x, const wide<T>* gain, const wide<T>* bias, T* y, i64 rows, i64 cols, i64 width
) {
    typedef wide<T> W;
    ROWS(r, rows) {
        const T* row = x + r * width;
        for (i64 from = 0; from < cols; from += width) {
            const W* factor = gain + from;
            T* to = y + r * cols + from;
            if (bias)
                LANES(c, width) to[c] = stored<T>((W)row[c] * factor[c] + bias[from + c]);
            else
                LANES(c, width) to[c] = stored<T>((W)row[c] * factor[c]);
        }
    }
}

#define MEMBER_SCALE_BACKWARD_INPUTS const T *x, const wide<T> *gain, const T *dy

template <class T>
__global__ void member_scale_backward_columns(
    MEMBER_SCALE_BACKWARD_INPUTS, T*, wide<T>*, wide<T>*, i64 rows, i64 cols, i64 width, double* scratch, i64
) {
    typedef wide<T> W;
    COLUMN_TILES(c0, cols) {
        W of_gain[OWN] = {}, of_bias[OWN] = {};
        int at[OWN];
        OWNED(k, c, c0, cols) at[k] = (int)(c % width);
        PART_ROWS(r, rows) {
            const T *row = x + r * width, *g = dy + r * cols;
            decide(width == cols, [&](auto own) {
                OWNED(k, c, c0, cols) {
                    of_gain[k] += (W)g[c] * (W)row[own ? c : at[k]];
                    of_bias[k] += (W)g[c];
                }
            });
        }
        sum_over_teams(of_gain);
        sum_over_teams(of_bias);
        leave_columns(of_gain, of_bias, c0, cols, scratch);
    }
}

template <class T>
__global__ void member_scale_backward_rows(
    MEMBER_SCALE_BACKWARD_INPUTS, T* dx, wide<T>*, wide<T>*, i64 rows, i64 cols, i64 width, double*, i64
) {
    typedef wide<T> W;
    ROWS(r, rows) LANES(c, width) {
        W sum = 0;
        for (i64 j = c; j < cols; j += width) sum += (W)dy[r * cols + j] * gain[j];
        dx[r * width + c] = stored<T>(sum);
    }
}

template <class T>
__global__ void member_scale_backward_finish(
    MEMBER_SCALE_BACKWARD_INPUTS, T*, wide<T>* dgain, wide<T>* dbias, i64, i64 cols, i64, double* scratch, i64 parts
) {
    finish_columns(dgain, cols, scratch, parts, 2 * cols);
    finish_columns(dbias, cols, scratch + cols, parts, 2 * cols);
}
