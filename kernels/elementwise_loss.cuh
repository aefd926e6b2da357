// A loss that is a mean over columns of a function of each output and its target, with its gradient, in one launch
// of one block. From a struct:
//
//   struct Name {
//       template <class T> static ElementLoss<T> at(T z, T t, const T* w, double setting);
//   };
//   ELEMENTWISE_LOSS(name, Name)
//
//   l_i = mean_k loss(z_ik, t_ik), loss = Σ s l / Σ s m, gradient_ik = s_i slope(z_ik, t_ik) / (cols Σ s m)
//
// Shapes: z, targets, gradient (rows, cols); s (rows,) and w (2,) may be null.

template <class T> struct ElementLoss { T loss, slope, mass, hit; };

template <class F, class T, class Y>
__device__ void elementwise_loss(
    const T* z, const Y* targets, const T* s, const T* w, T* value, double* sums, T* gradient, i64 rows, i64 cols,
    double setting
) {
    double mass = 0, loss = 0, hits = 0, count = 0;
    BLOCK_ROWS(r, rows) {
        T m = 0, weight = s ? s[r] : (T)1;
        LANES_SUM(c, cols, m) {
            i64 i = r * cols + c;
            m += F::at(z[i], (T)targets[i], w, setting).mass;
        }
        mass += (double)(weight * (warp_sum(m) / cols));
        count += (double)weight;
    }
    mass = block_sum_of_warps(mass);
    count = block_sum_of_warps(count);
    BLOCK_ROWS(r, rows) {
        T weight = s ? s[r] : (T)1, scale = mass == 0 ? (T)0 : weight / (T)mass / cols, l = 0, h = 0;
        LANES_SUM2(c, cols, l, h) {
            i64 i = r * cols + c;
            ElementLoss<T> e = F::at(z[i], (T)targets[i], w, setting);
            l += e.loss;
            h += e.hit;
            if (gradient) gradient[i] = scale * e.slope;
        }
        loss += (double)(weight * (warp_sum(l) / cols));
        hits += (double)(weight * (warp_sum(h) / cols));
    }
    report(block_sum_of_warps(loss), mass, block_sum_of_warps(hits), count, value, sums);
}

#define ELEMENTWISE_LOSS(name, F)                                                                                \
    template <class T, class Y>                                                                                  \
    __global__ void name##_forward(                                                                              \
        const T* z, const Y* targets, const T* s, const T* w, T* value, double* sums, T* gradient, i64 rows,     \
        i64 cols, double setting                                                                                 \
    ) {                                                                                                          \
        elementwise_loss<F>(z, targets, s, w, value, sums, gradient, rows, cols, setting);                       \
    }                                                                                                            \
    template <class T, class Y>                                                                                  \
    __global__ void name##_evaluate(                                                                             \
        const T* z, const Y* targets, const T* s, const T* w, T* value, double* sums, i64 rows, i64 cols,        \
        double setting                                                                                           \
    ) {                                                                                                          \
        elementwise_loss<F>(z, targets, s, w, value, sums, (T*)0, rows, cols, setting);                          \
    }
