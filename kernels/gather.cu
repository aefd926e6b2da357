// batch[i] = scale · inputs[p((batch · stride + first + i) mod n)], and the targets and row weights of the same rows
//
// p is the permutation of 0..n-1 keyed by (key, epoch): a Feistel network on the smallest power of two that holds n,
// walked until it lands inside (Black and Rogaway 2002). Shapes: clock int64 (3,); inputs (n, cols) of X, targets
// (n, width) of Y, weights (n,) of wide<T> or null; out come (rows, cols) of T, (rows, width) of Y, (rows,) of wide<T>.

__device__ inline u32 mix(u32 x) {  // the finaliser of MurmurHash3 (Appleby)
    x ^= x >> 16;
    x *= 0x85EBCA6Bu;
    x ^= x >> 13;
    x *= 0xC2B2AE35u;
    return x ^ (x >> 16);
}

struct Network {
    static constexpr int ROUNDS = 6;
    int wide;  // bits of the right half; the left one has as many or one less
    u32 left_mask, right_mask, keys[ROUNDS];
    __device__ Network(i64 n, i64 epoch, i64 key) {
        int bits = 0;
        while (((i64)1 << bits) < n) ++bits;
        wide = bits - bits / 2;
        left_mask = ((u32)1 << bits / 2) - 1;
        right_mask = ((u32)1 << wide) - 1;
        u32 seed = mix(mix((u32)epoch) + (u32)key);
        for (int r = 0; r < ROUNDS; ++r) keys[r] = mix(seed + 0x9E3779B9u * (r + 1));
    }
    __device__ u32 operator()(u32 x) const {
        u32 left = x >> wide, right = x & right_mask;
        for (int r = 0; r < ROUNDS; r += 2) {
            left ^= mix(right ^ keys[r]) & left_mask;
            right ^= mix(left ^ keys[r + 1]) & right_mask;
        }
        return left << wide | right;
    }
};

template <class T, class X, class Y>
__global__ void gather_forward(
    const i64* clock, const X* inputs, const Y* targets, const wide<T>* weights, T* batch_inputs, Y* batch_targets,
    wide<T>* batch_weights, i64 rows, i64 cols, i64 width, i64 n, i64 stride, i64 first,
    i64 key, double scale
) {
    wide<T> factor = (wide<T>)scale;
    Network send(n, clock[2], key);
    ROW_RUNS(r0, count, rows) {
        u32 place[ROW_RUN], end = (u32)n;
        OF_RUN(k, count) place[k] = send((u32)((clock[1] * stride + r0 + k + first) % n));
        for (bool outside = true; outside;) {  // all walk on together, those that are inside stay where they are
            u32 left = 0;
            OF_RUN_SUM(k, count, left) left += place[k] >= end;
            outside = left > 0;
            if (outside) OF_RUN(k, count) {
                u32 next = send(place[k]);
                place[k] = place[k] >= end ? next : place[k];
            }
        }
        for (int k = 0; k < count; ++k) {
            i64 r = r0 + k, at = place[k];
            const X* from = inputs + at * cols;
            LANES(c, cols) batch_inputs[r * cols + c] = stored<T>((wide<T>)from[c] * factor);
            LANES(c, width) batch_targets[r * width + c] = targets[at * width + c];
            if (weights && lane() == 0) batch_weights[r] = weights[at];
        }
    }
}
