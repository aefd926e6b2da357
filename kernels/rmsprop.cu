// s ← ρ s + (1 - ρ) g², d = g / (√s + ε) (Tieleman and Hinton 2012)
template <class T>
__global__ void rmsprop_forward(
    UPDATE_INPUTS, const T* squares, UPDATE_OUTPUTS, T* squares_out, UPDATE_SCALARS, double decay, double epsilon
) {
    UPDATE_STEP;
    T small = (T)epsilon, old = (T)decay, fresh = (T)(1.0 - decay);
    auto direction = [=](T g, i64 i) {
        T s = old * squares[i] + fresh * (g * g);
        squares_out[i] = s;
        return g / (sqrt(s) + small);
    };
    UPDATE_RUN(direction);
}
