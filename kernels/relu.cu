// y = max(x, 0); slope 0 at 0, NaN goes through
struct Relu {
    static constexpr bool saves_input = false;
    template <class T> __device__ static inline T forward(T x) { return larger(x, (T)0); }
    template <class T> __device__ static inline T backward(T y, T d) { return y <= 0 ? (T)0 : d; }
};
ACTIVATION(relu, Relu)
