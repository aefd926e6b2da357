// y = 1 / (1 + exp(-x))
struct Sigmoid {
    static constexpr bool saves_input = false;
    template <class T> __device__ static inline T forward(T x) { return sigmoid_of(x); }
    template <class T> __device__ static inline T backward(T y, T d) { return d * (y * (1 - y)); }
};
ACTIVATION(sigmoid, Sigmoid)
