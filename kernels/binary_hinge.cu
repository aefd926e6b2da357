// l = w_1 t max(0, 1 - z) + w_0 (1 - t) max(0, 1 + z); slope 0 at the margin
struct BinaryHinge {
    template <class T> __device__ static inline T step(T margin) { return margin > 0 ? (T)1 : margin; }  // 0, or NaN
    template <class T> __device__ static inline ElementLoss<T> at(T z, T t, Sides<T> weight, Settings) {
        T positive = t * weight.of_1, negative = (1 - t) * weight.of_0;
        T below = larger(1 - z, (T)0), above = larger(1 + z, (T)0);
        // A side without mass may be at infinity.
        T loss = (positive == 0 ? (T)0 : positive * below) + (negative == 0 ? (T)0 : negative * above);
        return {loss, negative * step(above) - positive * step(below), positive + negative,
                (T)((z > 0) == (t > (T)0.5))};
    }
};
ELEMENTWISE_LOSS(binary_hinge, BinaryHinge)
