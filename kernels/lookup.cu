// y = the row of a table that a code stands for, for each column of codes: row starts_i + code of column i
//
// Shapes: x (n, pitch) of T, whose columns `first` to first + columns - 1 hold codes; starts int64 (columns + 1,), the
// rows at which the tables of the columns begin and end; table, dtable (all rows, size) of T; y, dy (n, columns, size)
// of T. A code that is none of its column's counts as 0.

template <class T> __device__ inline i64 row_of(T code, const i64* starts) {
    return starts[0] + (code >= 0 && code < (T)(starts[1] - starts[0]) ? (i64)code : 0);
}

template <class T>
__global__ void lookup_forward(
    const T* x, const i64* starts, const T* table, T* y, i64 rows, i64 cols, i64, i64 pitch, i64 first, i64 columns
) {
    ROWS(r, rows) {
        const i64 i = r % columns;
        const T* from = table + row_of(x[r / columns * pitch + first + i], starts + i) * cols;
        LANES(j, cols) y[r * cols + j] = from[j];
    }
}

#define LOOKUP_BACKWARD const T *x, const i64 *starts, const T *dy, T *dtable, i64 rows, i64 cols, i64 n, i64 pitch

template <class T> __global__ void lookup_backward_clear(LOOKUP_BACKWARD, i64, i64) {
    ROWS(r, rows) LANES(j, cols) dtable[r * cols + j] = 0;
}

// A team has a column of codes, and goes through all rows of the batch.
template <class T> __global__ void lookup_backward_add(LOOKUP_BACKWARD, i64 first, i64 columns) {
    ROWS(i, columns) for (i64 r = 0; r < n; ++r) {
        T* to = dtable + row_of(x[r * pitch + first + i], starts + i) * cols;
        const T* g = dy + (r * columns + i) * cols;
        LANES(j, cols) to[j] += g[j];
    }
}
