// s ← s + g², d = g / (√s + ε) (Duchi et al. 2011)
template <class T>
__global__ void adagrad_forward(
    UPDATE_INPUTS, const T* squares, UPDATE_OUTPUTS, T* squares_out, UPDATE_SCALARS, double epsilon
) {
    T small = (T)epsilon;
    auto rule = [=](T g, T& s, T&) {
        s += g * g;
        return g / (sqrt(s) + small);
    };
    UPDATE_RUN(1, SLOT(squares), Slot<T>(), rule);
}
