// y = x
struct Identity {
    static constexpr bool saves_input = false;
    template <class T> __device__ static inline T forward(T x) { return x; }
    template <class T> __device__ static inline T backward(T y, T d) { return d; }
};
ACTIVATION(identity, Identity)
