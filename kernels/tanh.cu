// y = tanh(x)
struct Tanh {
    static constexpr bool saves_input = false;
    template <class T> __device__ static inline T forward(T x) { return tanh(x); }
    template <class T> __device__ static inline T backward(T y, T d) { return d * (1 - y * y); }
};
ACTIVATION(tanh, Tanh)
