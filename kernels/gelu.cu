// y = x Φ(x), Φ the standard normal distribution (Hendrycks and Gimpel 2016, arXiv:1606.08415)
struct Gelu {
    static constexpr bool saves_input = true;
    template <class T> __device__ static inline T forward(T x) { return x * normal_cdf(x); }
    template <class T> __device__ static inline T backward(T x, T d) { return d * (normal_cdf(x) + x * normal_pdf(x)); }
};
ACTIVATION(gelu, Gelu)
