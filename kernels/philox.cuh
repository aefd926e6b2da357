// Philox4x32-10: four uniform 32-bit words from a counter of four and a key of two (Salmon et al. 2011,
// "Parallel random numbers: as easy as 1, 2, 3"). The words are the lower halves of 64-bit numbers; on a CPU, Words are
// those of several counters side by side.
__device__ inline void philox(Words (&c)[4], u32 k0, u32 k1) {
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        Words p0 = product(c[0], 0xD2511F53u), p1 = product(c[2], 0xCD9E8D57u);
        c[0] = (p1 >> 32) ^ c[1] ^ (u64)k0;
        c[2] = (p0 >> 32) ^ c[3] ^ (u64)k1;
        c[1] = p1;
        c[3] = p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
}

// The mask of dropout: an element stays where its word of (key, stream, step, position in the batch) is at least
// rate·2³², and is scaled by 1 / (1 - rate). Where there are `factors`, rate is multiplied by that of the batch.
// Word i is word i % 4 of Philox at the counter (i / 4, stream, step modulo 2³², step / 2³²). A null clock is for where
// nothing is dropped.
template <class W> struct Mask {
    static constexpr int RUN = 4 * COUNTERS;  // elements whose words are made together
    u64 step;
    i64 stream, key0, key1;
    u32 threshold;
    W scale;
    __device__ Mask(
        const i64* clock, const double* factors, double rate, i64 batches, i64 stream, i64 key0, i64 key1
    ) : step(clock ? clock[0] : 0), stream(stream), key0(key0), key1(key1) {
        if (factors) rate *= of_batch(factors, batches, clock[1]);
        double limit = rate * 4294967296.0;
        threshold = limit < 4294967295.0 ? (u32)rint(limit) : 4294967295u;
        scale = (W)(1.0 / (1.0 - rate));
    }
    __device__ inline void words_of(i64 run, u32* words) const {
        Words c[4] = {counting(run * COUNTERS), alike(stream), alike(step), alike(step >> 32)};
        philox(c, (u32)key0, (u32)key1);
        in_turn(c, words);
    }
    __device__ inline bool keeps(u32 word) const { return word >= threshold; }
    __device__ inline W applied(bool kept, W value) const {
        W scaled = value * scale;
        return kept ? scaled : (W)0;
    }
};
