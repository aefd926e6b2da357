// y = x tanh(log(1 + exp(x))) (Misra 2019, arXiv:1908.08681)
struct Mish {
    static constexpr bool saves_input = true;
    template <class T> __device__ static inline T forward(T x) { return x * tanh(softplus_of(x)); }
    template <class T> __device__ static inline T backward(T x, T d) { T t = tanh(softplus_of(x)); return d * (t + x * sigmoid_of(x) * (1 - t * t)); }
};
ACTIVATION(mish, Mish)
