// v ← β₂ v + (1 - β₂) g², z ← z - η (g / (√v̂ + ε) + λ p), x ← (1 - c) x + c z with c = η² / Σ η²,
// p ← (1 - β₁) z + β₁ x (Defazio et al. 2024, arXiv:2405.15682). x is not kept: it follows from p and z.
template <class T>
__global__ void schedule_free_forward(
    UPDATE_INPUTS, const T* z, const T* v, const double* squares, UPDATE_OUTPUTS, T* z_out, T* v_out, UPDATE_SCALARS,
    double beta1, double beta2, double epsilon
) {
    double rate = (double)of_batch(rates, batches, clock[1] - 1);
    double total = *squares > 1e-300 ? *squares : 1e-300;
    double exact = rate * rate / total;
    T share = (T)exact, back = (T)((1.0 - beta1) + beta1 * exact);
    T old = (T)beta2, fresh = (T)(1.0 - beta2), small = (T)epsilon;
    T unbias = (T)(1.0 / (1.0 - pow(beta2, (double)clock[0])));
    auto rule = [=](T g, T&, T& second) {
        second = old * second + fresh * (g * g);
        return g / (sqrt(second * unbias) + small);
    };
    auto move = [=](T& weight, T step, T& ahead, T&) {
        weight += share * (ahead - weight) - back * step;
        ahead -= step;
    };
    UPDATE_MOVE(2, SLOT(z), SLOT(v), rule, move);
}
