// y = z + the rows of W that the codes of a row stand for, in the order of the codes: what a product adds for features
// that are 0, but for one in each column of categories, which is 1
//
// Shapes: stored (rows, pitch), pitch - dense of them numbers of features, any outside of dense..features - 1 standing
// for none; W (features, cols); z, y (rows, cols), z null for zeros; dz (n, cols), dW (features - dense, cols). Moves
// 4 rows (pitch + cols (pitch - dense + 3)) bytes for float, and backward 4 (n (pitch + cols (pitch - dense)) + 2 cols
// (features - dense)) at the most.

template <class T> __device__ inline bool is_feature(T code, i64 dense, i64 features) {
    return code >= (T)dense && code < (T)features;  // false for NaN
}

template <class T>
__global__ void code_sum_forward(
    const T* z, const T* stored_rows, const T* W, T* y, i64 rows, i64 cols, i64 pitch, i64 dense, i64 features
) {
    ROWS(r, rows) {
        T* to = y + r * cols;
        if (!z) LANES(j, cols) to[j] = 0;
        else if (z != y) LANES(j, cols) to[j] = z[r * cols + j];
        for (i64 k = dense; k < pitch; ++k) {
            const T code = stored_rows[r * pitch + k];
            if (!is_feature(code, dense, features)) continue;
            const T* from = W + (i64)code * cols;
            LANES(j, cols) to[j] += from[j];
        }
    }
}

#define CODE_SUM_BACKWARD const T *stored_rows, const T *dz, T *dW, i64 rows, i64 cols, i64 n, i64 pitch, i64 dense

template <class T> __global__ void code_sum_backward_clear(CODE_SUM_BACKWARD) {
    ROWS(f, rows) LANES(j, cols) dW[f * cols + j] = 0;
}

// A team has every FEATURE_GROUPS-th feature, and goes through all rows of the batch: whoever adds, their order is kept.
template <class T> __global__ void code_sum_backward_add(CODE_SUM_BACKWARD) {
    ROWS(i, FEATURE_GROUPS) for (i64 r = 0; r < n; ++r) {
        const T* g = dz + r * cols;
        for (i64 k = dense; k < pitch; ++k) {
            const T code = stored_rows[r * pitch + k];
            if (!is_feature(code, dense, dense + rows)) continue;
            const i64 feature = (i64)code - dense;
            if (feature % FEATURE_GROUPS != i) continue;
            T* to = dW + feature * cols;
            LANES(j, cols) to[j] += g[j];
        }
    }
}
