// clock ← clock + (1, 1, 0)
template <class I> __global__ void advance_forward(const I* clock, I* result, i64 rows, i64 cols) {
    EACH(i, rows * cols) result[i] = clock[i] + (i < 2);
}
