// A loss that is a mean over columns of a function of each output and its target, with its gradient. From a struct:
//
//   struct Name {
//       static constexpr bool takes_levels = true;     only where w (cols,) is a number for each column, not two sides (2,)
//       template <class T> static ElementLoss<T> at(T z, T t, Sides<T> weight, Settings set);
//   };
//   ELEMENTWISE_LOSS(name, Name)
//
//   l_i = mean_k loss(z_ik, t_ik), loss = Σ s l / Σ s m, gradient_ik = s_i slope(z_ik, t_ik) / (cols Σ s m)
//
// A target that is NaN is missing and counts for nothing.
//
// Shapes: z, targets, gradient (rows, cols); s (rows,) and w, both of wide<T>, may be null; scratch (parts, 4).
// Elements of T moved: 2 for the masses, 3 for loss and gradient.

template <class T> struct ElementLoss { T loss, slope, mass, hit; };

// What the two sides of a target weigh, 0 and 1: 1 where nothing else is given.
template <class W> struct Sides { W of_0, of_1; };
template <class W> __device__ inline Sides<W> sides(const W* w) {
    return {w ? w[0] : (W)1, w ? w[1] : (W)1};
}

template <class F, class = void> struct LevelsOf { static constexpr bool taken = false; };
template <class F> struct LevelsOf<F, decltype((void)F::takes_levels)> { static constexpr bool taken = F::takes_levels; };

// The level of a column: its complement weighs outputs above the target, itself those below.
template <class W> __device__ inline Sides<W> level_of(const W* w, i64 c) {
    W level = w ? w[c] : (W)0.5;
    return {1 - level, level};
}

template <class F, class W>
__device__ inline ElementLoss<W> element(W z, W t, const W* w, i64 c, Sides<W> both, Settings set) {
    Sides<W> weight = both;
    if constexpr (LevelsOf<F>::taken) weight = level_of(w, c);
    ElementLoss<W> e = F::at(z, t, weight, set);
    bool known = t == t;
    return {known ? e.loss : (W)0, known ? e.slope : (W)0, known ? e.mass : (W)0, known ? e.hit : (W)0};
}

template <class F, class T, class Y>
__device__ void elementwise_mass(
    const T* z, const Y* targets, const wide<T>* s, const wide<T>* w, i64 rows, i64 cols, Settings set,
    double* scratch
) {
    typedef wide<T> W;
    const Sides<W> both = LevelsOf<F>::taken ? Sides<W>{1, 1} : sides(w);
    double mass = 0, count = 0;
    if (cols == 1) {
        decide(s != 0, [&](auto weighted) {
            PART_SUM2(r, rows, mass, count) {
                W weight = weighted ? s[r] : (W)1;
                mass += (double)(weight * element<F>((W)z[r], (W)targets[r], w, 0, both, set).mass);
                count += (double)weight;
            }
        });
    } else PART_ROWS(r, rows) {
        W m = 0, weight = s ? s[r] : (W)1;
        LANES_SUM(c, cols, m) {
            i64 i = r * cols + c;
            m += element<F>((W)z[i], (W)targets[i], w, c, both, set).mass;
        }
        m = team_sum(m);
        if (lane() == 0) {
            mass += (double)(weight * (m / cols));
            count += (double)weight;
        }
    }
    leave(scratch, 1, mass, 3, count);
}

template <class F, class T, class Y>
__device__ void elementwise_loss(
    const T* z, const Y* targets, const wide<T>* s, const wide<T>* w, T* gradient, i64 rows, i64 cols, Settings set,
    double* scratch, i64 parts
) {
    typedef wide<T> W;
    const Sides<W> both = LevelsOf<F>::taken ? Sides<W>{1, 1} : sides(w);
    const W of_0 = both.of_0, of_1 = both.of_1;  // apart: clang would keep them as a vector of two, and the loop scalar
    double mass = divisor_of(scratch, parts, set), loss = 0, hits = 0;
    if (cols == 1) {  // a vector has many rows
        decide(s != 0, [&](auto weighted) {
            PART_SUM2(r, rows, loss, hits) {
                W weight = weighted ? s[r] : (W)1, scale = mass == 0 ? (W)0 : weight / (W)mass;
                ElementLoss<W> e = element<F>((W)z[r], (W)targets[r], w, 0, Sides<W>{of_0, of_1}, set);
                loss += (double)(weight * e.loss);
                hits += (double)(weight * e.hit);
                if (gradient) gradient[r] = stored<T>(scale * e.slope);
            }
        });
    } else PART_ROWS(r, rows) {
        W weight = s ? s[r] : (W)1, scale = mass == 0 ? (W)0 : weight / (W)mass / cols, l = 0, h = 0;
        LANES_SUM2(c, cols, l, h) {
            i64 i = r * cols + c;
            ElementLoss<W> e = element<F>((W)z[i], (W)targets[i], w, c, both, set);
            l += e.loss;
            h += e.hit;
            if (gradient) gradient[i] = stored<T>(scale * e.slope);
        }
        l = team_sum(l);
        h = team_sum(h);
        if (lane() == 0) {
            loss += (double)(weight * (l / cols));
            hits += (double)(weight * (h / cols));
        }
    }
    leave(scratch, 0, loss, 2, hits);
}

#define ELEMENTWISE_LOSS(name, F) LOSS_KERNELS(name, elementwise_mass<F>, elementwise_loss<F>)
