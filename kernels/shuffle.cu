// order[i] = the place that i is sent to by a permutation of 0..n-1 keyed by (key, epoch)
//
// A Feistel network on the smallest power of two that holds n, walked until it lands inside (Black and Rogaway 2002).
// Shapes: clock int64 (3,), order int64 (n,).

__device__ inline u32 mix(u32 x) {  // the finaliser of MurmurHash3 (Appleby)
    x ^= x >> 16;
    x *= 0x85EBCA6Bu;
    x ^= x >> 13;
    x *= 0xC2B2AE35u;
    return x ^ (x >> 16);
}

template <class I> __global__ void shuffle_forward(const i64* clock, I* order, i64 rows, i64 n, i64 key) {
    int bits = 0;
    while (bits < 63 && ((i64)1 << bits) < n) ++bits;
    int narrow = bits / 2, wide = bits - narrow;
    u32 seed = mix(mix((u32)clock[2]) + (u32)key);
    EACH(i, n) {
        u32 x = (u32)i;
        do {
            u32 left = x >> wide, right = x & (((u32)1 << wide) - 1);
            int left_bits = narrow, right_bits = wide;
            for (u32 round = 1; round <= 6; ++round) {
                u32 k = mix(seed + 0x9E3779B9u * round);
                u32 mixed = left ^ (mix(right ^ k) & (((u32)1 << left_bits) - 1));
                left = right;
                right = mixed;
                int swap = left_bits;
                left_bits = right_bits;
                right_bits = swap;
            }
            x = (left << wide) | right;
        } while (x >= (u64)n);
        order[i] = x;
    }
}
