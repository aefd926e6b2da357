// The kernels of a hidden layer whose activation is mixed with the identity: bias, f, mixing and dropout in one launch.
//
//   z = x + b, u = z + a (f(z) - z), y = u / (1 - rate) where the mask of dropout keeps an element, else 0
//
// with f the struct of an activation (activation.cuh) and a share a of each column (Holzmueller et al. 2024,
// arXiv:2407.04491). Where clock is null there is no dropout. MIXING(name, F) defines the kernels.
//
// Shapes: x, y, z, dy, dx (rows, cols) of T; b (cols,) of T; a, da, db (cols,) of wide<T>; kept u8 (rows, cols) or null;
// clock int64 (3,); factors double (batches,); scratch (parts, 2 cols). Elements of T moved: forward 3, backward 3, and
// a byte each for kept.

#define MIXING_SCALARS i64 rows, i64 cols, double rate, i64 batches, i64 stream, i64 key0, i64 key1, i64 first
#define MIXING_FORWARD \
    const T *x, const T *b, const wide<T> *a, const i64 *clock, const double *factors, T *y, T *z, u8 *kept, \
        MIXING_SCALARS
#define MIXING_BACKWARD \
    const T *z, const wide<T> *a, const T *dy, const u8 *kept, const i64 *clock, const double *factors, T *dx, \
        wide<T> *da, wide<T> *db, MIXING_SCALARS, double *scratch, i64 parts

template <class F, class T> __device__ void mixing_forward(MIXING_FORWARD) {
    typedef wide<T> W;
    const i64 n = rows * cols;
    const Mask<W> mask(clock, factors, rate, batches, stream, key0, key1);
    constexpr int RUN = mask.RUN, LONG = MASK_RUNS * RUN;
    const i64 skipped = first / RUN, early = first % RUN;  // runs before those of x, and words of its first one
    EACH_RUN(j, (early + n + LONG - 1) / LONG) {
        const i64 i = j * LONG - early;
        i64 c = i > 0 ? i % cols : 0;
        W share[LONG], bias[LONG];
        if (i >= 0 && c + LONG <= cols)
            OF_RUN(q, LONG) share[q] = a[c + q], bias[q] = b[c + q];
        else
            for (int q = 0; q < LONG; ++q) {
                share[q] = a[c], bias[q] = b[c];
                if (i + q >= 0 && ++c == cols) c = 0;
            }
        u32 words[LONG];
        if (clock)
            for (int k = 0; k < MASK_RUNS; ++k) mask.words_of(skipped + j * MASK_RUNS + k, words + k * RUN);
        decide(i >= 0 && i + LONG <= n, [&](auto whole) {
            const auto inside = [=](int q) { return whole || (i + q >= 0 && i + q < n); };
            const auto mixed = [&](int q) {
                const W v = (W)x[i + q] + bias[q];
                z[i + q] = stored<T>(v);
                return v + share[q] * (F::forward(v) - v);
            };
            if (clock) {
                OF_RUN(q, LONG) if (inside(q)) {
                    const bool keeps = mask.keeps(words[q]);
                    kept[i + q] = keeps;
                    y[i + q] = stored<T>(mask.applied(keeps, mixed(q)));
                }
            } else {
                OF_RUN(q, LONG) if (inside(q)) y[i + q] = stored<T>(mixed(q));
            }
        });
    }
}

template <class F, class T> __device__ void mixing_backward(MIXING_BACKWARD) {
    typedef wide<T> W;
    const Mask<W> mask(clock, factors, rate, batches, stream, key0, key1);
    COLUMN_TILES(c0, cols) {
        W of_share[OWN] = {}, of_bias[OWN] = {};
        PART_ROWS(r, rows) decide(kept != 0, [&](auto drops) {
            OWNED(k, c, c0, cols) {
                const i64 i = r * cols + c;
                const W v = z[i], g = drops ? mask.applied(kept[i] != 0, (W)dy[i]) : (W)dy[i], h = F::forward(v);
                const W d = g + a[c] * (F::backward(F::saves_input ? v : h, g) - g);
                of_share[k] += g * (h - v);
                of_bias[k] += d;
                dx[i] = stored<T>(d);
            }
        });
        sum_over_teams(of_share);
        sum_over_teams(of_bias);
        leave_columns(of_share, of_bias, c0, cols, scratch);
    }
}

#define MIXING(name, F)                                                                                \
    template <class T> __global__ void name##_mixed_forward(MIXING_FORWARD) {                          \
        mixing_forward<F>(                                                                             \
            x, b, a, clock, factors, y, z, kept, rows, cols, rate, batches, stream, key0, key1, first  \
        );                                                                                             \
    }                                                                                                  \
    template <class T> __global__ void name##_mixed_backward(MIXING_BACKWARD) {                        \
        mixing_backward<F>(                                                                            \
            z, a, dy, kept, clock, factors, dx, da, db, rows, cols, rate, batches, stream, key0, key1, \
            first, scratch, parts                                                                      \
        );                                                                                             \
    }                                                                                                  \
    template <class T> __global__ void name##_mixed_backward_finish(MIXING_BACKWARD) {                 \
        finish_columns(da, cols, scratch, parts, 2 * cols);                                            \
        finish_columns(db, cols, scratch + cols, parts, 2 * cols);                                     \
    }
