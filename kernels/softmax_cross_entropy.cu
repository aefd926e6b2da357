// l_i = Σ_k w_k t_ik (log Σ_j exp(z_ij) - z_ik), with its gradient in the same pass
//
//   t  one-hot from labels (Y a whole number) or soft targets (Y = T), then (1 - ε) t + ε / K; a label that no class
//      has is 0 everywhere, smoothed or not: the row counts for nothing
//   m_i = Σ_k w_k t_ik, loss = Σ s l / Σ s m, gradient_ik = s_i (m_i softmax(z_i)_k - w_k t_ik) / Σ s m
//
// Shapes: z, gradient (rows, cols); targets (rows,) or (rows, cols); s (rows,) and w (cols,), both of
// wide<T>, may be null; scratch (parts, 4). `value` is the loss, `sums` (Σ s l, Σ s m, Σ s h, Σ s) in double.
// The logits of a row are read three times, from cache after the first; the gradient is written once. (The log of the
// sum is not needed for what a class adds, so that one walk finds both.)
//
// A row of many classes is a team's. Rows of a few are a thread's each, in runs on a CPU: a vector has many of them.

template <class W, class Y> struct Target {  // soft targets
    const Y* row;
    i64 cols;
    __device__ Target(const Y* targets, i64 r, i64 cols) : row(targets + r * cols), cols(cols) {}
    __device__ W operator()(i64 c) const { return (W)row[c]; }
    __device__ i64 label() const { return row_best(row, cols).at; }
    __device__ bool counts() const { return true; }
};

template <class W> struct LabelTarget {
    i64 at, cols;
    __device__ W operator()(i64 c) const { return c == at ? (W)1 : (W)0; }
    __device__ i64 label() const { return at; }
    __device__ bool counts() const { return at >= 0 && at < cols; }
};
template <class W> struct Target<W, int> : LabelTarget<W> {
    __device__ Target(const int* targets, i64 r, i64 cols) : LabelTarget<W>{targets[r], cols} {}
};
template <class W> struct Target<W, i64> : LabelTarget<W> {
    __device__ Target(const i64* targets, i64 r, i64 cols) : LabelTarget<W>{targets[r], cols} {}
};

// What a class weighs: asked once for all rows, not at every element.
template <class W> struct Given {
    const W* w;
    __device__ W operator()(i64 c) const { return w[c]; }
};
template <class W> struct Alike {
    __device__ W operator()(i64) const { return 1; }
};

template <class T, class Y, class Weight>
__device__ void mass_of_rows(
    const Y* targets, const wide<T>* s, Weight weight_of, i64 rows, i64 cols, double label_smoothing, double* scratch
) {
    typedef wide<T> W;
    const W keep = (W)(1.0 - label_smoothing), share = (W)(label_smoothing / cols);
    double mass = 0, count = 0;
    PART_ROWS(r, rows) {
        Target<W, Y> target(targets, r, cols);
        const W spread = target.counts() ? share : (W)0;
        W m = 0, weight = s ? s[r] : (W)1;
        LANES_SUM(c, cols, m) m += (keep * target(c) + spread) * weight_of(c);
        m = team_sum(m);
        if (lane() == 0) {
            mass += (double)(weight * m);
            count += (double)weight;
        }
    }
    leave(scratch, 1, mass, 3, count);
}

template <class T, class Y, class Weight>
__device__ void loss_of_rows(
    const T* z, const Y* targets, const wide<T>* s, Weight weight_of, T* gradient, i64 rows, i64 cols,
    Settings set, double* scratch, i64 parts
) {
    typedef wide<T> W;
    const W keep = (W)(1.0 - set.first), share = (W)(set.first / cols);
    double mass = divisor_of(scratch, parts, set), loss = 0, hits = 0;
    PART_ROWS(r, rows) {
        Target<W, Y> target(targets, r, cols);
        const W spread = target.counts() ? share : (W)0;
        const T* row = z + r * cols;
        // All is taken from the row maximum: next to a huge logit log K would round away.
        Best<T> best = row_best(row, cols);
        W top = (W)best.value, sum = 0, below = 0, m = 0;
        LANES_SUM3(c, cols, sum, below, m) {
            W z_c = (W)row[c] - top, t = (keep * target(c) + spread) * weight_of(c), part = t * z_c;
            sum += exp(z_c);
            below -= t == 0 ? (W)0 : part;  // where a class has no mass its logit may be -inf
            m += t;
        }
        W lse = log(team_sum(sum));
        below = team_sum(below);
        m = team_sum(m);
        W l = m == 0 ? (W)0 : m * lse + below;  // neither term is negative: nothing cancels
        W weight = s ? s[r] : (W)1;
        bool hit = best.at == target.label();
        if (lane() == 0) {
            loss += (double)(weight * l);
            hits += hit ? (double)weight : 0.0;
        }
        if (gradient) {
            W scale = mass == 0 ? (W)0 : weight / (W)mass;
            LANES(c, cols) {
                W t = (keep * target(c) + spread) * weight_of(c);
                gradient[r * cols + c] = stored<T>(scale * (exp((W)row[c] - top - lse) * m - t));
            }
        }
    }
    leave(scratch, 0, loss, 2, hits);
}

// ---- rows of a few classes -------------------------------------------------------------------------------------

// The largest number of each row of a run, and its place, as row_best has them.
template <class T>
__device__ void best_of_run(const Run<T>& run, int count, i64 cols, wide<T> (&top)[ROW_RUN], int (&place)[ROW_RUN]) {
    OF_RUN(k, count) {
        top[k] = run.at(k, 0);
        place[k] = 0;
    }
    for (int c = 1; c < cols; ++c) OF_RUN(k, count) {
        wide<T> x = run.at(k, c);
        bool better = x > top[k] || (x != x && top[k] == top[k]);
        top[k] = better ? x : top[k];
        place[k] = better ? c : place[k];
    }
}

template <class W, class Y> struct RunTarget {  // soft targets
    const Run<Y> run;
    int label[ROW_RUN];
    __device__ RunTarget(const Y* targets, i64 r0, int count, i64 cols) : run(targets + r0 * cols, count, cols) {
        wide<Y> top[ROW_RUN];
        best_of_run(run, count, cols, top, label);
    }
    __device__ W operator()(int k, int c) const { return (W)run.at(k, c); }
    __device__ bool counts(int, i64) const { return true; }
};

template <class W, class I> struct RunLabels {
    int label[ROW_RUN];
    __device__ RunLabels(const I* targets, i64 r0, int count, i64) {
        OF_RUN(k, count) {
            int short_label = (int)targets[r0 + k];
            label[k] = short_label == targets[r0 + k] ? short_label : -1;  // no class has more than 32 bits
        }
    }
    __device__ W operator()(int k, int c) const { return c == label[k] ? (W)1 : (W)0; }
    __device__ bool counts(int k, i64 cols) const { return label[k] >= 0 && label[k] < cols; }
};
template <class W> struct RunTarget<W, int> : RunLabels<W, int> { using RunLabels<W, int>::RunLabels; };
template <class W> struct RunTarget<W, i64> : RunLabels<W, i64> { using RunLabels<W, i64>::RunLabels; };

// What smoothing adds to each class of the rows of a run.
template <class W, class Target>
__device__ void spread_of_run(const Target& target, int count, i64 cols, W share, W (&spread)[ROW_RUN]) {
    OF_RUN(k, count) spread[k] = target.counts(k, cols) ? share : (W)0;
}

// What each row of a run weighs, 1 where nothing else is given.
template <class W> __device__ void weights_of_run(const W* s, i64 r0, int count, W (&weight)[ROW_RUN]) {
    if (s) OF_RUN(k, count) weight[k] = s[r0 + k];
    else OF_RUN(k, count) weight[k] = 1;
}

template <class T, class Y>
__device__ void mass_of_short_rows(
    const Y* targets, const wide<T>* s, const wide<T>* w, i64 rows, i64 cols, double label_smoothing, double* scratch
) {
    typedef wide<T> W;
    const W keep = (W)(1.0 - label_smoothing), share = (W)(label_smoothing / cols);
    double mass = 0, total = 0;
    PART_RUNS(r0, count, rows) {
        const RunTarget<W, Y> target(targets, r0, count, cols);
        W m[ROW_RUN], weight[ROW_RUN], spread[ROW_RUN];
        spread_of_run(target, count, cols, share, spread);
        OF_RUN(k, count) m[k] = 0;
        for (int c = 0; c < cols; ++c) {
            const W of_class = w ? w[c] : (W)1;
            OF_RUN(k, count) m[k] += (keep * target(k, c) + spread[k]) * of_class;
        }
        weights_of_run(s, r0, count, weight);
        OF_RUN_SUM2(k, count, mass, total) {
            mass += (double)(weight[k] * m[k]);
            total += (double)weight[k];
        }
    }
    leave(scratch, 1, mass, 3, total);
}

template <class T, class Y>
__device__ void loss_of_short_rows(
    const T* z, const Y* targets, const wide<T>* s, const wide<T>* w, T* gradient, i64 rows, i64 cols,
    Settings set, double* scratch, i64 parts
) {
    typedef wide<T> W;
    const W keep = (W)(1.0 - set.first), share = (W)(set.first / cols);
    double mass = divisor_of(scratch, parts, set), loss = 0, hits = 0;
    PART_RUNS(r0, count, rows) {
        const RunTarget<W, Y> target(targets, r0, count, cols);
        Run<T> run(z + r0 * cols, count, cols);
        T* to = gradient + r0 * cols;
        W top[ROW_RUN], sum[ROW_RUN], below[ROW_RUN], m[ROW_RUN], weight[ROW_RUN], spread[ROW_RUN];
        int best[ROW_RUN];
        best_of_run(run, count, cols, top, best);
        spread_of_run(target, count, cols, share, spread);
        weights_of_run(s, r0, count, weight);
        OF_RUN(k, count) sum[k] = below[k] = m[k] = 0;
        for (int c = 0; c < cols; ++c) {
            const W of_class = w ? w[c] : (W)1;
            OF_RUN(k, count) {
                W z_c = run.at(k, c) - top[k], t = (keep * target(k, c) + spread[k]) * of_class, part = t * z_c;
                sum[k] += exp(z_c);
                below[k] -= t == 0 ? (W)0 : part;
                m[k] += t;
            }
        }
        OF_RUN_SUM2(k, count, loss, hits) {
            sum[k] = log(sum[k]);
            loss += (double)(weight[k] * (m[k] == 0 ? (W)0 : m[k] * sum[k] + below[k]));
            hits += best[k] == target.label[k] ? (double)weight[k] : 0.0;
            weight[k] = mass == 0 ? (W)0 : weight[k] / (W)mass;
        }
        if (!gradient) continue;
        for (int c = 0; c < cols; ++c) {
            const W of_class = w ? w[c] : (W)1;
            OF_RUN(k, count) {
                W t = (keep * target(k, c) + spread[k]) * of_class;
                run.set(to, k, c, weight[k] * (exp(run.at(k, c) - top[k] - sum[k]) * m[k] - t));
            }
        }
        run.leave(to, count, cols);
    }
    leave(scratch, 0, loss, 2, hits);
}

// ---- either ----------------------------------------------------------------------------------------------------

template <class T, class Y>
__device__ void softmax_cross_entropy_mass(
    const T*, const Y* targets, const wide<T>* s, const wide<T>* w, i64 rows, i64 cols, Settings set,
    double* scratch
) {
    if (cols <= SHORT_ROW) mass_of_short_rows<T>(targets, s, w, rows, cols, set.first, scratch);
    else if (w) mass_of_rows<T>(targets, s, Given<wide<T>>{w}, rows, cols, set.first, scratch);
    else mass_of_rows<T>(targets, s, Alike<wide<T>>(), rows, cols, set.first, scratch);
}

template <class T, class Y>
__device__ void softmax_cross_entropy_loss(
    const T* z, const Y* targets, const wide<T>* s, const wide<T>* w, T* gradient, i64 rows, i64 cols,
    Settings set, double* scratch, i64 parts
) {
    if (cols <= SHORT_ROW)
        loss_of_short_rows(z, targets, s, w, gradient, rows, cols, set, scratch, parts);
    else if (w)
        loss_of_rows(z, targets, s, Given<wide<T>>{w}, gradient, rows, cols, set, scratch, parts);
    else loss_of_rows(z, targets, s, Alike<wide<T>>(), gradient, rows, cols, set, scratch, parts);
}

LOSS_KERNELS(softmax_cross_entropy, softmax_cross_entropy_mass, softmax_cross_entropy_loss)
