// v ← μ v + g, d = v (Polyak 1964)
template <class T>
__global__ void momentum_forward(
    UPDATE_INPUTS, const T* velocity, UPDATE_OUTPUTS, T* velocity_out, UPDATE_SCALARS, double momentum
) {
    T mu = (T)momentum;
    auto rule = [=](T g, T& v, T&) { return v = mu * v + g; };
    UPDATE_RUN(1, SLOT(velocity), Slot<T>(), rule);
}
