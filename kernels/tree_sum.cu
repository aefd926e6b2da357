// total = factor · the sum of the rows of x over a fixed binary tree: neighbours, then neighbouring pairs, and so on
//
// factor = of / sums[1], what the batch was divided by over what it counts for, and 0 where that is 0; 1 where sums is
// null. The rows are a power of two, at most 8: more would take more than 128 registers. An element of x is read before
// the element of the total at its place is written: the total may be a row of x.
//
// Shapes: x (terms, cols); sums (4,) of double or null; total (cols,). Elements of T moved: terms + 1.

template <int TERMS> struct Tree {
    template <class T> __device__ static inline T at(const T* x, i64 pitch) {
        return Tree<TERMS / 2>::at(x, pitch) + Tree<TERMS / 2>::at(x + TERMS / 2 * pitch, pitch);
    }
};
template <> struct Tree<1> {
    template <class T> __device__ static inline T at(const T* x, i64) { return *x; }
};

template <int TERMS, class T> __device__ inline void tree_sum(const T* x, T* total, i64 cols, T factor, bool scaled) {
    decide(scaled, [=](auto times) {
        EACH(i, cols) {
            T sum = Tree<TERMS>::at(x + i, cols);
            total[i] = times ? sum * factor : sum;
        }
    });
}

template <class T>
__global__ void tree_sum_forward(
    const T* x, const double* sums, T* total, i64 rows, i64 cols, i64 terms, double of
) {
    T factor = !sums ? (T)1 : sums[1] == 0 ? (T)0 : (T)(of / sums[1]);
    i64 n = rows * cols;
    switch (terms) {
        case 1: return tree_sum<1>(x, total, n, factor, sums != 0);
        case 2: return tree_sum<2>(x, total, n, factor, sums != 0);
        case 4: return tree_sum<4>(x, total, n, factor, sums != 0);
        default: return tree_sum<8>(x, total, n, factor, sums != 0);
    }
}
