// y = x / (1 - rate) where the mask keeps an element, else 0 (philox.cuh)
//
// The mask is not stored: backward is the same launch on dy. The first element of x has the position `first`. Shapes:
// x, y (rows, cols); clock int64 (3,); factors double (batches,). Elements of T moved: 2.

template <class T>
__device__ void dropout(
    const T* x, const i64* clock, const double* factors, T* y, i64 rows, i64 cols, double rate, i64 batches,
    i64 stream, i64 key0, i64 key1, i64 first
) {
    const i64 n = rows * cols;
    const Mask<wide<T>> mask(clock, factors, rate, batches, stream, key0, key1);
    constexpr int RUN = mask.RUN;
    const i64 skipped = first / RUN, early = first % RUN;  // runs before those of x, and words of its first one
    EACH_RUN(j, (early + n + RUN - 1) / RUN) {
        u32 words[RUN];
        mask.words_of(skipped + j, words);
        const auto kept = [=](u32 word, wide<T> value) { return stored<T>(mask.applied(mask.keeps(word), value)); };
        i64 i = j * RUN;
        i -= early;
        if (i >= 0 && i + RUN <= n)
            OF_RUN(q, RUN) y[i + q] = kept(words[q], x[i + q]);
        else
            OF_RUN(q, RUN) if (i + q >= 0)
                if (i + q < n) y[i + q] = kept(words[q], x[i + q]);
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
