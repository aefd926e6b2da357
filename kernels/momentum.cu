// v ← μ v + g, d = v (Polyak 1964)
template <class T>
__global__ void momentum_forward(
    UPDATE_INPUTS, const T* velocity, UPDATE_OUTPUTS, T* velocity_out, UPDATE_SCALARS, double momentum
) {
    UPDATE_STEP;
    T mu = (T)momentum;
    auto direction = [=](T g, i64 i) { return velocity_out[i] = mu * velocity[i] + g; };
    UPDATE_RUN(direction);
}
