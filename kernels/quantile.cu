// l = max(q (t - z), (q - 1) (t - z)), q the level of the column; slope 0 at 0 (Koenker and Bassett 1978)
struct Quantile {
    static constexpr bool takes_levels = true;
    template <class T> __device__ static inline ElementLoss<T> at(T z, T t, Sides<T> level, Settings) {
        T r = z - t, side = r > 0 ? level.of_0 : level.of_1;
        T sign = r > 0 ? (T)1 : r < 0 ? (T)-1 : r;  // the last: 0, or NaN
        return {side * fabs(r), side * sign, 1, 0};
    }
};
ELEMENTWISE_LOSS(quantile, Quantile)
