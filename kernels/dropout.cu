// y = x / (1 - rate) where the word of (key, stream, step, position in the batch) is at least rate·2³², else 0; where
// there are `factors`, rate is multiplied by that of the batch
//
// Word i is word i % 4 of Philox at the counter (i / 4, stream, step modulo 2³², step / 2³²). The mask is not stored:
// backward is the same launch on dy. The first element of x has the position `first`. Shapes: x, y (rows, cols); clock
// int64 (3,); factors double (batches,). Elements of T moved: 2.

template <class T>
__device__ void dropout(
    const T* x, const i64* clock, const double* factors, T* y, i64 rows, i64 cols, double rate, i64 batches,
    i64 stream, i64 key0, i64 key1, i64 first
) {
    i64 n = rows * cols;
    if (factors) rate *= of_batch(factors, batches, clock[1]);
    double limit = rate * 4294967296.0;
    u32 threshold = limit < 4294967295.0 ? (u32)rint(limit) : 4294967295u;
    wide<T> scale = (wide<T>)(1.0 / (1.0 - rate));
    u64 step = (u64)clock[0];
    auto kept = [=](u32 word, wide<T> value) {
        wide<T> scaled = value * scale;
        return word >= threshold ? scaled : (wide<T>)0;
    };
    constexpr int RUN = 4 * COUNTERS;
    const i64 skipped = first / RUN, early = first % RUN;  // runs before those of x, and words of its first one
    EACH_RUN(j, (early + n + RUN - 1) / RUN) {
        Words c[4] = {counting((skipped + j) * COUNTERS), alike(stream), alike(step), alike(step >> 32)};
        philox(c, (u32)key0, (u32)key1);
        u32 words[RUN];
        in_turn(c, words);
        i64 i = j * RUN;
        i -= early;
        if (i >= 0 && i + RUN <= n)
            OF_RUN(q, RUN) y[i + q] = stored<T>(kept(words[q], x[i + q]));
        else
            OF_RUN(q, RUN) if (i + q >= 0)
                if (i + q < n) y[i + q] = stored<T>(kept(words[q], x[i + q]));
    }
}

template <class T>
__global__ void dropout_forward(
    const T* x, const i64* clock, const double* factors, T* y, i64 rows, i64 cols, double rate, i64 batches,
    i64 stream, i64 key0, i64 key1, i64 first
) {
    dropout(x, clock, factors, y, rows, cols, rate, batches, stream, key0, key1, first);
}

template <class T>
__global__ void dropout_backward(
    const T* dy, const i64* clock, const double* factors, T* dx, i64 rows, i64 cols, double rate, i64 batches,
    i64 stream, i64 key0, i64 key1, i64 first
) {
    dropout(dy, clock, factors, dx, rows, cols, rate, batches, stream, key0, key1, first);
}
