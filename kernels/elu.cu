// y = x where x > 0, else exp(x) - 1 (Clevert et al. 2015, arXiv:1511.07289)
struct Elu {
    static constexpr bool saves_input = false;
    template <class T> __device__ static inline T forward(T x) { T e = expm1(smaller(x, (T)0)); return x > 0 ? x : e; }
    template <class T> __device__ static inline T backward(T y, T d) { return y > 0 ? d : d * (y + 1); }
};
ACTIVATION(elu, Elu)
