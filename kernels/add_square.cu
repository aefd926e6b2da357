// squares ← squares + η², η of the batch that the clock has counted last
template <class T>
__global__ void add_square_forward(
    const double* squares, const T* rates, const i64* clock, double* result, i64 rows, i64 cols, i64 batches
) {
    double rate = (double)of_batch(rates, batches, clock[1] - 1);
    EACH(i, rows * cols) result[i] = squares[i] + rate * rate;
}
