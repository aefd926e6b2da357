// m ← β₁ m + (1 - β₁) g, v ← β₂ v + (1 - β₂) g², d = m̂ / (√v̂ + ε) (Kingma and Ba 2014, arXiv:1412.6980)
template <class T>
__global__ void adam_forward(
    UPDATE_INPUTS, const T* m, const T* v, UPDATE_OUTPUTS, T* m_out, T* v_out, UPDATE_SCALARS, double beta1,
    double beta2, double epsilon
) {
    double t = (double)clock[0];
    T old1 = (T)beta1, fresh1 = (T)(1.0 - beta1), old2 = (T)beta2, fresh2 = (T)(1.0 - beta2), small = (T)epsilon;
    // In double: 1 - β^t would lose four of the seven digits of a float in the first steps.
    T unbias1 = (T)(1.0 / (1.0 - pow(beta1, t))), unbias2 = (T)(1.0 / (1.0 - pow(beta2, t)));
    auto rule = [=](T g, T& first, T& second) {
        first = old1 * first + fresh1 * g;
        second = old2 * second + fresh2 * (g * g);
        return first * unbias1 / (sqrt(second * unbias2) + small);
    };
    UPDATE_RUN(2, SLOT(m), SLOT(v), rule);
}
