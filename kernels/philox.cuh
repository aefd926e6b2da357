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
