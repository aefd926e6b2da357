// s ← ρ s + (1 - ρ) g², d = g / (√s + ε) (Tieleman and Hinton 2012)
template <class T>
__global__ void rmsprop_forward(
    UPDATE_INPUTS, const T* squares, UPDATE_OUTPUTS, T* squares_out, UPDATE_SCALARS, double decay, double epsilon
) {
    T small = (T)epsilon, old = (T)decay, fresh = (T)(1.0 - decay);
    auto rule = [=](T g, T& s, T&) {
        s = old * s + fresh * (g * g);
        return g / (sqrt(s) + small);
    };
    UPDATE_RUN(1, SLOT(squares), Slot<T>(), rule);
}
