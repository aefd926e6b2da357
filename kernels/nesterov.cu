// v ← μ v + g, d = g + μ v (Sutskever et al. 2013)
template <class T>
__global__ void nesterov_forward(
    UPDATE_INPUTS, const T* velocity, UPDATE_OUTPUTS, T* velocity_out, UPDATE_SCALARS, double momentum
) {
    UPDATE_STEP;
    T mu = (T)momentum;
    auto direction = [=](T g, i64 i) {
        T v = mu * velocity[i] + g;
        velocity_out[i] = v;
        return g + mu * v;
    };
    UPDATE_RUN(direction);
}
