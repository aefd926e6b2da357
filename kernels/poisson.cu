// l = exp(z) - t z
struct Poisson {
    template <class T> __device__ static inline ElementLoss<T> at(T z, T t, Sides<T>, Settings) {
        T rate = exp(z);
        return {rate - (t == 0 ? (T)0 : t * z), rate - t, 1, 0};
    }
};
ELEMENTWISE_LOSS(poisson, Poisson)
