// y = x where x > 0, else 0.01 x
struct LeakyRelu {
    static constexpr bool saves_input = false;
    template <class T> __device__ static inline T forward(T x) { return x > 0 ? x : (T)0.01 * x; }
    template <class T> __device__ static inline T backward(T y, T d) { return y > 0 ? d : (T)0.01 * d; }
};
ACTIVATION(leaky_relu, LeakyRelu)
