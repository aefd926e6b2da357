// The four kernels of every activation, from a struct with two functions.
//
//   struct Name {
//       static constexpr bool saves_input = ...;               which of z and y `backward` reads
//       template <class T> static T forward(T x);              y = f(x)
//       template <class T> static T backward(T saved, T dy);   dx = f'(x) dy
//   };
//   ACTIVATION(name, Name)
//
// Shapes: x, y, z, saved, dy, dx (rows, cols); b, db (cols,).
// Bytes moved per element of T: forward 2, backward 3, bias_forward 2 (3 where z is saved), bias_backward 3.

template <class F, class T> __device__ void activation_forward(const T* x, T* y, i64 rows, i64 cols) {
    EACH(i, rows * cols) y[i] = F::forward(x[i]);
}

template <class F, class T>
__device__ void activation_backward(const T* saved, const T* dy, T* dx, i64 rows, i64 cols) {
    EACH(i, rows * cols) dx[i] = F::backward(saved[i], dy[i]);
}

template <class F, class T>
__device__ void activation_bias_forward(const T* x, const T* b, T* y, T* z, i64 rows, i64 cols) {
    EACH_ROW(r, rows) {
        const T* from = x + r * cols;
        T* to = y + r * cols;
        if (F::saves_input) {
            T* kept = z + r * cols;
            EACH_COLUMN(c, cols) {
                T sum = from[c] + b[c];
                kept[c] = sum;
                to[c] = F::forward(sum);
            }
        } else {
            EACH_COLUMN(c, cols) to[c] = F::forward(from[c] + b[c]);
        }
    }
}

template <class F, class T>
__device__ void activation_bias_backward(const T* saved, const T* dy, T* dx, T* db, i64 rows, i64 cols) {
    COLUMN_TILES(c0, cols) {
        T sum[OWN] = {};
        for (i64 r = warp(); r < rows; r += warps()) {
            const T *s = saved + r * cols, *g = dy + r * cols;
            T* to = dx + r * cols;
            OWNED(k, c, c0, cols) {
                T d = F::backward(s[c], g[c]);
                to[c] = d;
                sum[k] += d;
            }
        }
        block_sum_of_lanes(sum);
        if (warp() == 0) OWNED(k, c, c0, cols) db[c] = sum[k];
    }
}

#define ACTIVATION(name, F)                                                                                      \
    template <class T> __global__ void name##_forward(const T* x, T* y, i64 rows, i64 cols) {                    \
        activation_forward<F>(x, y, rows, cols);                                                                 \
    }                                                                                                            \
    template <class T>                                                                                           \
    __global__ void name##_backward(const T* saved, const T* dy, T* dx, i64 rows, i64 cols) {                    \
        activation_backward<F>(saved, dy, dx, rows, cols);                                                       \
    }                                                                                                            \
    template <class T>                                                                                           \
    __global__ void name##_bias_forward(const T* x, const T* b, T* y, T* z, i64 rows, i64 cols) {                \
        activation_bias_forward<F>(x, b, y, z, rows, cols);                                                      \
    }                                                                                                            \
    template <class T>                                                                                           \
    __global__ void name##_bias_backward(const T* saved, const T* dy, T* dx, T* db, i64 rows, i64 cols) {        \
        activation_bias_backward<F>(saved, dy, dx, db, rows, cols);                                              \
    }
