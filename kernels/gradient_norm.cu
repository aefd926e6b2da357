// norm = √Σ g²; g (n,), norm (1,), scratch (parts,). The sum is taken in double: a square may be beyond float.

template <class T>
__global__ void gradient_norm_forward(const T* g, T*, i64 rows, i64 cols, double* scratch, i64) {
    double sum = 0;
    PART_SUM(i, rows * cols, sum) sum += (double)g[i] * (double)g[i];
    sum = block_sum(sum);
    if (thread() == 0) scratch[part()] = sum;
}

template <class T>
__global__ void gradient_norm_forward_finish(const T*, T* norm, i64, i64, double* scratch, i64 parts) {
    double total = 0;
    EACH_PART(p, parts) total += scratch[p];
    total = block_sum(total);
    if (thread() == 0) *norm = (T)sqrt(total);
}
