// l_i = Σ_k w_k t_ik (log Σ_j exp(z_ij) - z_ik), with its gradient, in one launch of one block
//
//   t  one-hot from labels (Y a whole number) or soft targets (Y = T), then (1 - ε) t + ε / K
//   m_i = Σ_k w_k t_ik, loss = Σ s l / Σ s m, gradient_ik = s_i (m_i softmax(z_i)_k - w_k t_ik) / Σ s m
//
// Shapes: z, gradient (rows, cols); targets (rows,) or (rows, cols); s (rows,) and w (cols,) may be null.
// `value` is the loss, `sums` (Σ s l, Σ s m, Σ s h, Σ s) in double. Without a gradient: the same, gradient null.
// The logits of a row are read three times, from cache after the first; the gradient is written once.

template <class T, class Y> struct Target {  // soft targets
    const Y* row;
    i64 cols;
    __device__ Target(const Y* targets, i64 r, i64 cols) : row(targets + r * cols), cols(cols) {}
    __device__ T operator()(i64 c) const { return (T)row[c]; }
    __device__ i64 label() const { return argmax(row, cols); }
};

template <class T> struct LabelTarget {
    i64 at;
    __device__ T operator()(i64 c) const { return c == at ? (T)1 : (T)0; }
    __device__ i64 label() const { return at; }
};
template <class T> struct Target<T, int> : LabelTarget<T> {
    __device__ Target(const int* targets, i64 r, i64) : LabelTarget<T>{targets[r]} {}
};
template <class T> struct Target<T, i64> : LabelTarget<T> {
    __device__ Target(const i64* targets, i64 r, i64) : LabelTarget<T>{targets[r]} {}
};

template <class T, class Y>
__device__ void softmax_cross_entropy(
    const T* z, const Y* targets, const T* s, const T* w, T* value, double* sums, T* gradient, i64 rows, i64 cols,
    double label_smoothing
) {
    T keep = (T)(1.0 - label_smoothing), spread = (T)(label_smoothing / cols);
    double mass = 0, loss = 0, hits = 0, count = 0;
    BLOCK_ROWS(r, rows) {
        Target<T, Y> target(targets, r, cols);
        T m = 0, weight = s ? s[r] : (T)1;
        LANES_SUM(c, cols, m) m += (keep * target(c) + spread) * (w ? w[c] : (T)1);
        mass += (double)(weight * warp_sum(m));
        count += (double)weight;
    }
    mass = block_sum_of_warps(mass);
    count = block_sum_of_warps(count);
    BLOCK_ROWS(r, rows) {
        Target<T, Y> target(targets, r, cols);
        const T* row = z + r * cols;
        // All is taken from the row maximum: next to a huge logit log K would round away.
        T top = row_max(row, cols), sum = 0;
        LANES_SUM(c, cols, sum) sum += exp(row[c] - top);
        T lse = log(warp_sum(sum)), l = 0, m = 0;
        LANES_SUM2(c, cols, l, m) {
            T t = (keep * target(c) + spread) * (w ? w[c] : (T)1);
            T part = t * (lse - (row[c] - top));
            l += t == 0 ? (T)0 : part;  // where a class has no mass its logit may be -inf
            m += t;
        }
        l = warp_sum(l);
        m = warp_sum(m);
        T weight = s ? s[r] : (T)1;
        loss += (double)(weight * l);
        hits += argmax(row, cols) == target.label() ? (double)weight : 0.0;
        if (gradient) {
            T scale = mass == 0 ? (T)0 : weight / (T)mass;
            LANES(c, cols) {
                T t = (keep * target(c) + spread) * (w ? w[c] : (T)1);
                gradient[r * cols + c] = scale * (exp(row[c] - top - lse) * m - t);
            }
        }
    }
    report(block_sum_of_warps(loss), mass, block_sum_of_warps(hits), count, value, sums);
}

template <class T, class Y>
__global__ void softmax_cross_entropy_forward(
    const T* z, const Y* targets, const T* s, const T* w, T* value, double* sums, T* gradient, i64 rows, i64 cols,
    double label_smoothing
) {
    softmax_cross_entropy(z, targets, s, w, value, sums, gradient, rows, cols, label_smoothing);
}

template <class T, class Y>
__global__ void softmax_cross_entropy_evaluate(
    const T* z, const Y* targets, const T* s, const T* w, T* value, double* sums, i64 rows, i64 cols,
    double label_smoothing
) {
    softmax_cross_entropy(z, targets, s, w, value, sums, (T*)0, rows, cols, label_smoothing);
}
