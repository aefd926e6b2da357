// l = -w_1 t log sigmoid(z) - w_0 (1 - t) log(1 - sigmoid(z)), t smoothed to (1 - ε) t + ε / 2; set by ε
struct BinaryCrossEntropy {
    template <class T>
    __device__ static inline ElementLoss<T> at(T z, T t, Sides<T> weight, Settings set) {
        T soft = t * (T)(1.0 - set.first) + (T)(0.5 * set.first);
        T positive = soft * weight.of_1, negative = (1 - soft) * weight.of_0;
        // -log sigmoid(z) = max(-z, 0) + log(1 + exp(-|z|)), and the other likewise
        T tail = log1p_unit(exp(-fabs(z)));
        T of_positive = positive * (larger(-z, (T)0) + tail), of_negative = negative * (larger(z, (T)0) + tail);
        // A side without mass may be at infinity.
        T loss = (positive == 0 ? (T)0 : of_positive) + (negative == 0 ? (T)0 : of_negative);
        T mass = positive + negative;
        return {loss, mass * sigmoid_of(z) - positive, mass, (T)((z > 0) == (t > (T)0.5))};
    }
};
ELEMENTWISE_LOSS(binary_cross_entropy, BinaryCrossEntropy)
