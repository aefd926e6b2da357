// y = log(1 + exp(x))
struct Softplus {
    static constexpr bool saves_input = false;
    template <class T> __device__ static inline T forward(T x) { return softplus_of(x); }
    template <class T> __device__ static inline T backward(T y, T d) { return d * -expm1(-y); }
};
ACTIVATION(softplus, Softplus)
