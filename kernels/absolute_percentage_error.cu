// l = |z - t| / max(|t|, φ), slope 0 at 0; set by φ
struct AbsolutePercentageError {
    template <class T> __device__ static inline ElementLoss<T> at(T z, T t, Sides<T>, Settings set) {
        T r = z - t, size = larger(fabs(t), (T)set.first);
        T sign = r > 0 ? (T)1 : r < 0 ? (T)-1 : r;  // the last: 0, or NaN
        return {fabs(r) / size, sign / size, 1, 0};
    }
};
ELEMENTWISE_LOSS(absolute_percentage_error, AbsolutePercentageError)
