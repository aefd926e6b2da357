// The kernels of every activation, from a struct with two functions.
//
//   struct Name {
//       static constexpr bool saves_input = ...;               which of z and y `backward` reads
//       template <class T> static T forward(T x);              y = f(x)
//       template <class T> static T backward(T saved, T dy);   dx = f'(x) dy
//   };
//   ACTIVATION(name, Name)
//
// Shapes: x, y, z, saved, dy, dx (rows, cols); b (cols,); db (cols,) of wide<T>; scratch (parts, cols).
// Bytes moved per element of T: forward 2, backward 3, bias_forward 2 (3 where z is saved), bias_backward 3.

template <class F, class T> __device__ void activation_forward(const T* x, T* y, i64 n) {
    packs<T>(over_grid(), n, alone(n, x, y), [=](auto width, i64 i) {
        auto v = load(width, x + i);
        for (int k = 0; k < width.count; ++k) v[k] = F::forward(v[k]);
        store(y + i, v);
    });
}

template <class F, class T> __device__ void activation_backward(const T* saved, const T* dy, T* dx, i64 n) {
    packs<T>(over_grid(), n, alone(n, saved, dy, dx), [=](auto width, i64 i) {
        auto s = load(width, saved + i), d = load(width, dy + i);
        for (int k = 0; k < width.count; ++k) d[k] = F::backward(s[k], d[k]);
        store(dx + i, d);
    });
}

template <class F, class T>
__device__ void activation_bias_forward(const T* x, const T* b, T* y, T* z, i64 rows, i64 cols) {
    ROWS(r, rows) {
        const T* from = x + r * cols;
        T *to = y + r * cols, *kept = F::saves_input ? z + r * cols : to;
        packs<T>(over_team(), cols, alone(cols, from, b, to, kept), [=](auto width, i64 c) {
            auto v = load(width, from + c), bias = load(width, b + c);
            for (int k = 0; k < width.count; ++k) v[k] += bias[k];
            if (F::saves_input) store(kept + c, v);
            for (int k = 0; k < width.count; ++k) v[k] = F::forward(v[k]);
            store(to + c, v);
        });
    }
}

template <class F, class T>
__device__ void activation_bias_backward(const T* saved, const T* dy, T* dx, i64 rows, i64 cols, double* scratch) {
    COLUMN_TILES(c0, cols) {
        wide<T> sum[OWN] = {};
        PART_ROWS(r, rows) {
            const T *s = saved + r * cols, *g = dy + r * cols;
            T* to = dx + r * cols;
            OWNED(k, c, c0, cols) {
                wide<T> d = F::backward((wide<T>)s[c], (wide<T>)g[c]);
                to[c] = stored<T>(d);
                sum[k] += d;
            }
        }
        sum_over_teams(sum);
        if (team() == 0) OWNED(k, c, c0, cols) scratch[part() * cols + c] = (double)sum[k];
    }
}

#define ACTIVATION(name, F)                                                                                      \
    template <class T> __global__ void name##_forward(const T* x, T* y, i64 rows, i64 cols) {                    \
        activation_forward<F>(x, y, rows * cols);                                                                \
    }                                                                                                            \
    template <class T>                                                                                           \
    __global__ void name##_backward(const T* saved, const T* dy, T* dx, i64 rows, i64 cols) {                    \
        activation_backward<F>(saved, dy, dx, rows * cols);                                                      \
    }                                                                                                            \
    template <class T>                                                                                           \
    __global__ void name##_bias_forward(const T* x, const T* b, T* y, T* z, i64 rows, i64 cols) {                \
        activation_bias_forward<F>(x, b, y, z, rows, cols);                                                      \
    }                                                                                                            \
    template <class T>                                                                                           \
    __global__ void name##_bias_backward(                                                                        \
        const T* saved, const T* dy, T* dx, wide<T>*, i64 rows, i64 cols, double* scratch, i64                   \
    ) {                                                                                                          \
        activation_bias_backward<F>(saved, dy, dx, rows, cols, scratch);                                         \
    }                                                                                                            \
    template <class T>                                                                                           \
    __global__ void name##_bias_backward_finish(                                                                 \
        const T*, const T*, T*, wide<T>* db, i64, i64 cols, double* scratch, i64 parts                           \
    ) {                                                                                                          \
        finish_columns(db, cols, scratch, parts, cols);                                                          \
    }
