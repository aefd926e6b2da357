// y = x / (1 - rate) where the word of (key, stream, step, position) is at least rate·2³², else 0
//
// Word i is word i % 4 of Philox at the counter (i / 4, stream, step modulo 2³², step / 2³²). The mask is not stored:
// backward is the same launch on dy. Shapes: x, y (rows, cols); clock int64 (3,). Elements of T moved: 2.

template <class T>
__device__ void dropout(
    const T* x, const i64* clock, T* y, i64 rows, i64 cols, double rate, i64 stream, i64 key0, i64 key1
) {
    i64 n = rows * cols;
    double limit = rate * 4294967296.0;
    u32 threshold = limit < 4294967295.0 ? (u32)rint(limit) : 4294967295u;
    wide<T> scale = (wide<T>)(1.0 / (1.0 - rate));
    u64 step = (u64)clock[0];
    EACH(j, (n + 3) / 4) {
        u32 words[4] = {(u32)j, (u32)stream, (u32)step, (u32)(step >> 32)};
        philox(words, (u32)key0, (u32)key1);
        for (int q = 0; q < 4; ++q) {
            i64 i = 4 * j + q;
            if (i < n) y[i] = stored<T>(words[q] >= threshold ? (wide<T>)x[i] * scale : (wide<T>)0);
        }
    }
}

template <class T>
__global__ void dropout_forward(
    const T* x, const i64* clock, T* y, i64 rows, i64 cols, double rate, i64 stream, i64 key0, i64 key1
) {
    dropout(x, clock, y, rows, cols, rate, stream, key0, key1);
}

template <class T>
__global__ void dropout_backward(
    const T* dy, const i64* clock, T* dx, i64 rows, i64 cols, double rate, i64 stream, i64 key0, i64 key1
) {
    dropout(dy, clock, dx, rows, cols, rate, stream, key0, key1);
}
