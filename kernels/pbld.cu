// y = (V cos(2 pi w x + b) + c, x) of each number x (Holzmueller et al. 2024, arXiv:2407.04491), with its own w, b, V, c
//
// Shapes, of T: x (n, pitch), the first f columns of which are the numbers; w, b, dw, db (f, waves); V, dV (f, size,
// waves); c, dc (f, size); y, dy (n, f, size + 1). Reads x once and computes n f waves cosines, once for each three of
// the outputs.

// An argument in half turns, so that no large one loses its digits.
template <class T> __device__ inline T half_turns(T x, T w, T b) { return x * (2 * w) + b * (T)0.3183098861837907; }

// `rows` are the numbers of all rows of the batch, one after the other; a team has one.
template <class T>
__global__ void pbld_forward(
    const T* x, const T* w, const T* b, const T* V, const T* c, T* y, i64 rows, i64 cols, i64 pitch, i64 numbers,
    i64 waves
) {
    const i64 size = cols - 1;
    ROWS(r, rows) {
        const i64 i = r % numbers;
        const T value = x[r / numbers * pitch + i], *wi = w + i * waves, *bi = b + i * waves;
        for (i64 j = 0; j < size; j += 3) {
            const i64 left = size - j;
            const T* v0 = V + (i * size + j) * waves;
            const T *v1 = left > 1 ? v0 + waves : v0, *v2 = left > 2 ? v1 + waves : v0;
            T e0 = 0, e1 = 0, e2 = 0;
            LANES_SUM3(k, waves, e0, e1, e2) {
                const T h = cospi(half_turns(value, wi[k], bi[k]));
                e0 += h * v0[k];
                e1 += h * v1[k];
                e2 += h * v2[k];
            }
            e0 = team_sum(e0), e1 = team_sum(e1), e2 = team_sum(e2);
            const T *from = c + i * size + j;
            T* to = y + r * cols + j;
            if (lane() == 0) {
                to[0] = e0 + from[0];
                if (left > 1) to[1] = e1 + from[1];
                if (left > 2) to[2] = e2 + from[2];
            }
        }
        if (lane() == 0) y[r * cols + size] = value;
    }
}

// What the rows of the batch add to the gradients of one number, for COUNT outputs from j on. A lane adds to its own.
template <int COUNT, class T>
__device__ inline void pbld_add(
    const T* x, const T* wi, const T* bi, const T* v, const T* g, T* dwi, T* dbi, T* dv, T* dc, i64 waves, i64 pitch,
    i64 n, i64 step
) {
    T s0 = 0, s1 = 0, s2 = 0;
    for (i64 r = 0; r < n; ++r, x += pitch, g += step) {
        const T value = *x, g0 = g[0], g1 = COUNT > 1 ? g[COUNT > 1] : 0, g2 = COUNT > 2 ? g[COUNT > 2 ? 2 : 0] : 0;
        s0 += g0, s1 += g1, s2 += g2;
        LANES(k, waves) {
            const T u = half_turns(value, wi[k], bi[k]), h = cospi(u);
            T sum = g0 * v[k];
            dv[k] += g0 * h;
            if constexpr (COUNT > 1) {
                sum += g1 * v[waves + k] + g2 * v[2 * waves + k];
                dv[waves + k] += g1 * h;
                dv[2 * waves + k] += g2 * h;
            }
            sum *= -sinpi(u);
            dbi[k] += sum;
            dwi[k] += sum * value;
        }
    }
    if (lane() == 0) {
        dc[0] = s0;
        if constexpr (COUNT > 1) dc[1] = s1, dc[2] = s2;
    }
}

// A team has a number, and goes through all rows of the batch.
template <class T>
__global__ void pbld_backward(
    const T* x, const T* w, const T* b, const T* V, const T* dy, T* dw, T* db, T* dV, T* dc, i64 rows, i64 cols, i64 n,
    i64 pitch, i64 size
) {
    ROWS(i, rows) {
        const T *wi = w + i * cols, *bi = b + i * cols, *v = V + i * size * cols, *g = dy + i * (size + 1);
        T *dwi = dw + i * cols, *dbi = db + i * cols, *dv = dV + i * size * cols;
        LANES(k, cols) dwi[k] = dbi[k] = 0;
        for (i64 j = 0; j < size; ++j) LANES(k, cols) dv[j * cols + k] = 0;
        i64 j = 0;
        for (; j + 3 <= size; j += 3)
            pbld_add<3>(x + i, wi, bi, v + j * cols, g + j, dwi, dbi, dv + j * cols, dc + i * size + j, cols, pitch, n,
                        rows * (size + 1));
        for (; j < size; ++j)
            pbld_add<1>(x + i, wi, bi, v + j * cols, g + j, dwi, dbi, dv + j * cols, dc + i * size + j, cols, pitch, n,
                        rows * (size + 1));
        LANES(k, cols) dwi[k] *= (T)6.283185307179586;
    }
}
