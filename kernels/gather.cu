// batch[i] = scale · inputs[order[batch · stride + i]], and the targets and row weights of the same rows
//
// Shapes: clock int64 (3,), order int64 (n,); inputs (n, cols) of X, targets (n, width) of Y, weights (n,) of wide<T>
// or null; out come (rows, cols) of T, (rows, width) of Y, (rows,) of wide<T>.

template <class T, class X, class Y>
__global__ void gather_forward(
    const i64* clock, const i64* order, const X* inputs, const Y* targets, const wide<T>* weights,
    T* batch_inputs, Y* batch_targets, wide<T>* batch_weights, i64 rows, i64 cols, i64 width, i64 stride, double scale
) {
    wide<T> factor = (wide<T>)scale;
    ROWS(r, rows) {
        i64 at = order[clock[1] * stride + r];
        const X* from = inputs + at * cols;
        LANES(c, cols) batch_inputs[r * cols + c] = stored<T>((wide<T>)from[c] * factor);
        LANES(c, width) batch_targets[r * width + c] = targets[at * width + c];
        if (weights && lane() == 0) batch_weights[r] = weights[at];
    }
}
