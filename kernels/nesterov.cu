// v ← μ v + g, d = g + μ v (Sutskever et al. 2013)
template <class T>
__global__ void nesterov_forward(
    UPDATE_INPUTS, const T* velocity, UPDATE_OUTPUTS, T* velocity_out, UPDATE_SCALARS, double momentum
) {
    T mu = (T)momentum;
    auto rule = [=](T g, T& v, T&) {
        v = mu * v + g;
        return g + mu * v;
    };
    UPDATE_RUN(1, SLOT(velocity), Slot<T>(), rule);
}
