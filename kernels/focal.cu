// l = -w_y (1 - p_y)^γ log p_y with p = softmax(z) (Lin et al. 2017); set by γ
//
// With q = 1 - p_y its slope by z_k is q^γ (1 - γ p_y log(p_y) / q) (p_k - [k = y]).
template <class W> struct Focal {
    W loss, top, lse, factor;
    i64 label;
    template <class T>
    __device__ Focal(const T* row, i64 cols, i64 label, W top, Settings set) : top(top), label(label) {
        W sum = 0;
        LANES_SUM(c, cols, sum) sum += exp((W)row[c] - top);
        lse = log(team_sum(sum));
        const W gamma = (W)set.first, logarithm = (W)row[label] - top - lse, p = exp(logarithm), q = -expm1(logarithm);
        const W power = q == 0 ? (W)0 : exp(gamma * log(q));
        const W ratio = p == 0 ? (W)0 : p * (q == 0 ? (W)-1 : logarithm / q);
        loss = q == 0 ? (W)0 : -power * logarithm;
        factor = power * (1 - gamma * ratio);
    }
    __device__ W slope(W z, i64 c) const { return factor * (exp(z - top - lse) - (W)(c == label)); }
};
LABEL_LOSS(focal, Focal)
