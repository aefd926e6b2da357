// totals ← totals + sums
template <class T> __global__ void accumulate_forward(const T* totals, const T* sums, T* result, i64 rows, i64 cols) {
    EACH(i, rows * cols) result[i] = totals[i] + sums[i];
}
