// x = the first `dense` numbers of a row as they are, then 0, but 1 in the features whose numbers stand behind these
//
// Shapes: stored (rows, pitch) of wide<T>, pitch - dense of them numbers of features, any outside of dense..cols - 1
// standing for none; x (rows, cols) of T. Moves 4 rows (pitch + cols) bytes for float.

template <class T>
__global__ void expand_forward(const wide<T>* stored_rows, T* x, i64 rows, i64 cols, i64 dense, i64 pitch) {
    ROWS(r, rows) {
        const wide<T>* from = stored_rows + r * pitch;
        T* to = x + r * cols;
        LANES(c, dense) to[c] = stored<T>(from[c]);
        T* rest = to + dense;
        LANES(c, cols - dense) rest[c] = stored<T>((wide<T>)0);
        // The lane that has just cleared a feature sets it, so that nobody waits for anybody.
        for (i64 k = dense; k < pitch; ++k) {
            const wide<T> code = from[k];
            if (!(code >= (wide<T>)dense && code < (wide<T>)cols)) continue;  // NaN, too, which has no number
            const i64 feature = (i64)code - dense;
            if (feature % lanes() == lane()) rest[feature] = stored<T>((wide<T>)1);
        }
    }
}
