// l_i = Σ_k w_k t_ik (log Σ_j exp(z_ij) - z_ik), with its gradient in the same pass
//
//   t  one-hot from labels (Y a whole number) or soft targets (Y = T), then (1 - ε) t + ε / K
//   m_i = Σ_k w_k t_ik, loss = Σ s l / Σ s m, gradient_ik = s_i (m_i softmax(z_i)_k - w_k t_ik) / Σ s m
//
// Shapes: z, gradient (rows, cols); targets (rows,) or (rows, cols); s (rows,) and w (cols,) may be null;
// scratch (parts, 4). `value` is the loss, `sums` (Σ s l, Σ s m, Σ s h, Σ s) in double.
// The logits of a row are read three times, from cache after the first; the gradient is written once.

template <class T, class Y> struct Target {  // soft targets
    const Y* row;
    i64 cols;
    __device__ Target(const Y* targets, i64 r, i64 cols) : row(targets + r * cols), cols(cols) {}
    __device__ T operator()(i64 c) const { return (T)row[c]; }
    __device__ i64 label() const { return row_best(row, cols).at; }
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
__device__ void softmax_cross_entropy_mass(
    const T*, const Y* targets, const T* s, const T* w, i64 rows, i64 cols, double label_smoothing, double* scratch
) {
    T keep = (T)(1.0 - label_smoothing), spread = (T)(label_smoothing / cols);
    double mass = 0, count = 0;
    PART_ROWS(r, rows) {
        Target<T, Y> target(targets, r, cols);
        T m = 0, weight = s ? s[r] : (T)1;
        LANES_SUM(c, cols, m) m += (keep * target(c) + spread) * (w ? w[c] : (T)1);
        m = team_sum(m);
        if (lane() == 0) {
            mass += (double)(weight * m);
            count += (double)weight;
        }
    }
    leave(scratch, 1, mass, 3, count);
}

template <class T, class Y>
__device__ void softmax_cross_entropy_loss(
    const T* z, const Y* targets, const T* s, const T* w, T* gradient, i64 rows, i64 cols, double label_smoothing,
    double* scratch, i64 parts
) {
    T keep = (T)(1.0 - label_smoothing), spread = (T)(label_smoothing / cols);
    double mass = total_of(scratch, parts, 1), loss = 0, hits = 0;
    PART_ROWS(r, rows) {
        Target<T, Y> target(targets, r, cols);
        const T* row = z + r * cols;
        // All is taken from the row maximum: next to a huge logit log K would round away.
        Best<T> best = row_best(row, cols);
        T top = best.value, sum = 0;
        LANES_SUM(c, cols, sum) sum += exp(row[c] - top);
        T lse = log(team_sum(sum)), l = 0, m = 0;
        LANES_SUM2(c, cols, l, m) {
            T t = (keep * target(c) + spread) * (w ? w[c] : (T)1);
            T part = t * (lse - (row[c] - top));
            l += t == 0 ? (T)0 : part;  // where a class has no mass its logit may be -inf
            m += t;
        }
        l = team_sum(l);
        m = team_sum(m);
        T weight = s ? s[r] : (T)1;
        bool hit = best.at == target.label();
        if (lane() == 0) {
            loss += (double)(weight * l);
            hits += hit ? (double)weight : 0.0;
        }
        if (gradient) {
            T scale = mass == 0 ? (T)0 : weight / (T)mass;
            LANES(c, cols) {
                T t = (keep * target(c) + spread) * (w ? w[c] : (T)1);
                gradient[r * cols + c] = scale * (exp(row[c] - top - lse) * m - t);
            }
        }
    }
    leave(scratch, 0, loss, 2, hits);
}

LOSS_KERNELS(softmax_cross_entropy, softmax_cross_entropy_mass, softmax_cross_entropy_loss)
