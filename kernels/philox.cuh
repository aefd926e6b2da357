// Philox4x32-10: four uniform 32-bit words from a counter of four and a key of two (Salmon et al. 2011,
// "Parallel random numbers: as easy as 1, 2, 3").
__device__ inline void philox(u32 (&c)[4], u32 k0, u32 k1) {
    for (int round = 0; round < 10; ++round) {
        u64 p0 = (u64)c[0] * 0xD2511F53u, p1 = (u64)c[2] * 0xCD9E8D57u;
        u32 a = (u32)(p1 >> 32) ^ c[1] ^ k0, b = (u32)(p0 >> 32) ^ c[3] ^ k1;
        c[1] = (u32)p1;
        c[3] = (u32)p0;
        c[0] = a;
        c[2] = b;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
}
