// norm = √Σ g², by one block; g (n,), norm (1,). The sum is taken in double.
template <class T> __global__ void gradient_norm_forward(const T* g, T* norm, i64 rows, i64 cols) {
    double total = 0;
    i64 n = rows * cols, chunk = 1024;
    BLOCK_ROWS(part, (n + chunk - 1) / chunk) {
        i64 start = part * chunk, length = n - start < chunk ? n - start : chunk;
        double sum = 0;
        LANES_SUM(c, length, sum) sum += (double)g[start + c] * (double)g[start + c];
        total += warp_sum(sum);
    }
    total = block_sum_of_warps(total);
    if (warp() == 0 && lane() == 0) *norm = (T)sqrt(total);
}
