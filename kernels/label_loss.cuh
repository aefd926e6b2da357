// A loss of rows that have one label each, with its gradient. From a struct that is made of a row and its label:
//
//   template <class W> struct Name {
//       W loss;
//       template <class T> Name(const T* row, i64 cols, i64 label, W top, Settings set);   top: the largest of the row
//       W slope(W z, i64 c) const;                                                         by class c, whose output is z
//   };
//   LABEL_LOSS(name, Name)
//
//   l_i = w_y loss, m_i = w_y, loss = Σ s l / Σ s m, gradient_ik = s_i w_y slope_k / Σ s m, y the label of row i
//
// A label that no class has counts for nothing.
//
// Shapes: z, gradient (rows, cols); targets (rows,); s (rows,) and w (cols,), both of wide<T>, may be null; scratch
// (parts, 4). The outputs of a row are read three times, from cache after the first.

template <class W, class Y> __device__ inline W weight_of_label(Y label, const W* w, i64 cols) {
    bool counts = label >= 0 && label < cols;
    return counts ? (w ? w[(i64)label] : (W)1) : (W)0;
}

template <class T, class Y>
__device__ void label_mass(
    const T*, const Y* targets, const wide<T>* s, const wide<T>* w, i64 rows, i64 cols, Settings, double* scratch
) {
    typedef wide<T> W;
    double mass = 0, count = 0;
    PART_SUM2(r, rows, mass, count) {
        W weight = s ? s[r] : (W)1;
        mass += (double)(weight * weight_of_label(targets[r], w, cols));
        count += (double)weight;
    }
    leave(scratch, 1, mass, 3, count);
}

template <template <class> class F, class T, class Y>
__device__ void label_loss(
    const T* z, const Y* targets, const wide<T>* s, const wide<T>* w, T* gradient, i64 rows, i64 cols, Settings set,
    double* scratch, i64 parts
) {
    typedef wide<T> W;
    double mass = divisor_of(scratch, parts, set), loss = 0, hits = 0;
    PART_ROWS(r, rows) {
        const T* row = z + r * cols;
        const i64 label = (i64)targets[r], at = label >= 0 && label < cols ? label : 0;
        const W of_class = weight_of_label(targets[r], w, cols), weight = s ? s[r] : (W)1;
        const Best<T> best = row_best(row, cols);
        const F<W> found(row, cols, at, (W)best.value, set);
        if (lane() == 0) {
            loss += (double)(weight * (of_class == 0 ? (W)0 : of_class * found.loss));
            hits += best.at == label ? (double)weight : 0.0;
        }
        if (!gradient) continue;
        const W scale = mass == 0 ? (W)0 : weight / (W)mass;
        LANES(c, cols) {
            W slope = found.slope((W)row[c], c);  // a row without mass may say anything
            gradient[r * cols + c] = stored<T>(scale * (of_class == 0 ? (W)0 : of_class * slope));
        }
    }
    leave(scratch, 0, loss, 2, hits);
}

#define LABEL_LOSS(name, F) LOSS_KERNELS(name, label_mass, label_loss<F>)
