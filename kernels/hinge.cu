// l = w_y mean_k max(0, 1 - z_y + z_k) over the classes k, of which y adds nothing (Weston and Watkins 1999)
template <class W> struct Hinge {
    W loss, beyond, active;
    i64 label, cols;
    template <class T>
    __device__ Hinge(const T* row, i64 cols, i64 label, W, Settings)
        : beyond(1 - (W)row[label]), label(label), cols(cols) {
        const W from = beyond;
        W sum = 0, count = 0;
        LANES_SUM2(c, cols, sum, count) {
            W margin = larger(from + (W)row[c], (W)0);
            sum += c == label ? (W)0 : margin;
            count += c == label ? (W)0 : step(margin);
        }
        loss = team_sum(sum) / cols;
        active = team_sum(count);
    }
    __device__ static inline W step(W margin) { return margin > 0 ? (W)1 : margin; }  // 0, or NaN
    __device__ W slope(W z, i64 c) const {
        return (c == label ? -active : step(larger(beyond + z, (W)0))) / cols;
    }
};
LABEL_LOSS(hinge, Hinge)
