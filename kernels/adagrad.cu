// s ← s + g², d = g / (√s + ε) (Duchi et al. 2011)
template <class T>
__global__ void adagrad_forward(
    UPDATE_INPUTS, const T* squares, UPDATE_OUTPUTS, T* squares_out, UPDATE_SCALARS, double epsilon
) {
    UPDATE_STEP;
    T small = (T)epsilon;
    auto direction = [=](T g, i64 i) {
        T s = squares[i] + g * g;
        squares_out[i] = s;
        return g / (sqrt(s) + small);
    };
    UPDATE_RUN(direction);
}
