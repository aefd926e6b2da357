// y = λ (x where x > 0, else α (exp(x) - 1)) (Klambauer et al. 2017, arXiv:1706.02515)
struct Selu {
    static constexpr bool saves_input = false;
    static constexpr double scale = 1.0507009873554805, alpha = 1.6732632423543772;
    template <class T> __device__ static inline T forward(T x) {
        T e = (T)alpha * expm1(smaller(x, (T)0));
        return (T)scale * (x > 0 ? x : e);
    }
    template <class T> __device__ static inline T backward(T y, T d) {
        return y > 0 ? (T)scale * d : d * (y + (T)(scale * alpha));
    }
};
ACTIVATION(selu, Selu)
MIXING(selu, Selu)
