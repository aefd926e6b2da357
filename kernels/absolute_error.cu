// l = |z - t|, slope 0 at 0
struct AbsoluteError {
    template <class T> __device__ static inline ElementLoss<T> at(T z, T t, Sides<T>, Settings) {
        T r = z - t;
        return {fabs(r), r > 0 ? (T)1 : r < 0 ? (T)-1 : r, 1, 0};  // the last: 0, or NaN
    }
};
ELEMENTWISE_LOSS(absolute_error, AbsoluteError)
