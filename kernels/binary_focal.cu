// l = -w_1 t (1 - p)^γ log p - w_0 (1 - t) p^γ log(1 - p) with p = sigmoid(z) (Lin et al. 2017); set by γ
struct BinaryFocal {
    template <class T> struct Side { T loss, slope; };
    // What the label 1 adds, of z, or the label 0, of -z.
    template <class T> __device__ static inline Side<T> side(T z, T gamma) {
        T tail = log1p_unit(exp(-fabs(z)));
        T logarithm = -(larger(-z, (T)0) + tail), power = exp(-gamma * (larger(z, (T)0) + tail));
        T p = sigmoid_of(z), part = p == 0 ? (T)0 : p * logarithm;
        return {power == 0 ? (T)0 : -power * logarithm, power * (gamma * part - sigmoid_of(-z))};
    }
    template <class T> __device__ static inline ElementLoss<T> at(T z, T t, Sides<T> weight, Settings set) {
        T positive = t * weight.of_1, negative = (1 - t) * weight.of_0, gamma = (T)set.first;
        Side<T> one = side(z, gamma), zero = side(-z, gamma);
        // A side without mass may be at infinity.
        T loss = (positive == 0 ? (T)0 : positive * one.loss) + (negative == 0 ? (T)0 : negative * zero.loss);
        return {loss, positive * one.slope - negative * zero.slope, positive + negative,
                (T)((z > 0) == (t > (T)0.5))};
    }
};
ELEMENTWISE_LOSS(binary_focal, BinaryFocal)
