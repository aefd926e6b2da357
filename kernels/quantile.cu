// l = max(q (t - z), (q - 1) (t - z)), q the level of the column; slope 0 at 0 (Koenker and Bassett 1978)
struct Quantile {
    static constexpr bool takes_levels = true;
    template <class T> __device__ static inline ElementLoss<T> at(T z, T t, Sides<T> level, Settings) {
        T r = z - t, slope = r > 0 ? level.of_0 : -level.of_1;
        return {slope * r, r > 0 || r < 0 ? slope : r, 1, 0};  // the last r: 0, or NaN
    }
};
ELEMENTWISE_LOSS(quantile, Quantile)
