// average ← (1 - momentum) average + momentum scale value, shape (rows, cols) each
template <class T>
__global__ void moving_average_forward(
    const T* average, const T* value, T* result, i64 rows, i64 cols, double momentum, double scale
) {
    T keep = (T)(1.0 - momentum), take = (T)(momentum * scale);
    EACH(i, rows * cols) result[i] = keep * average[i] + take * value[i];
}
