// y = x sigmoid(x) (Elfwing et al. 2017, arXiv:1702.03118)
struct Silu {
    static constexpr bool saves_input = true;
    template <class T> __device__ static inline T forward(T x) { return x * sigmoid_of(x); }
    template <class T> __device__ static inline T backward(T x, T d) { T s = sigmoid_of(x); return d * (s * (1 + x * (1 - s))); }
};
ACTIVATION(silu, Silu)
