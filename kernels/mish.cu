// y = x tanh(log(1 + exp(x))) (Misra 2019, arXiv:1908.08681)
//
// tanh(log(1 + e)) = n / (n + 2) and its slope 4 e (e + 1) / (n + 2)², with e = exp(x), n = e² + 2 e. Where x is
// positive all is multiplied by u² or u⁴, u = exp(-x), so that nothing overflows.
struct Mish {
    static constexpr bool saves_input = true;
    template <class T> struct Quotient { T u, k, above, below; };
    template <class T> __device__ static inline Quotient<T> gate(T x) {
        T u = exp(-fabs(x)), k = x > 0 ? u : (T)1, above = x > 0 ? 1 + 2 * u : u * (u + 2);
        return {u, k, above, above + 2 * k * k};
    }
    template <class T> __device__ static inline T forward(T x) {
        Quotient<T> q = gate(x);
        return x * (q.above * (1 / q.below));
    }
    template <class T> __device__ static inline T backward(T x, T d) {
        Quotient<T> q = gate(x);
        T w = 1 / q.below;
        return d * (q.above * w + x * (4 * q.u * (1 + q.u) * q.k * w * w));
    }
};
ACTIVATION(mish, Mish)
MIXING(mish, Mish)
