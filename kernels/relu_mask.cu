// y = max(x + b, 0), and bit c % 8 of byte c / 8 of a row of the mask: whether the gradient of y goes through at c
//
// Shapes: x, y (rows, cols); b (cols,); mask (rows, pitch) of bytes, 0 behind the last column. Bytes moved per element
// of T: 2, and an eighth of a byte.
template <class T>
__global__ void relu_mask_forward(const T* x, const T* b, T* y, u8* mask, i64 rows, i64 cols, i64 pitch) {
    ROWS(r, rows) {
        const T* from = x + r * cols;
        T* to = y + r * cols;
        LANES(q, pitch) {
            u32 bits = 0;
            for (int k = 0; k < 8; ++k)
                if (i64 c = 8 * q + k; c < cols) {
                    wide<T> z = (wide<T>)from[c] + (wide<T>)b[c];
                    to[c] = stored<T>(larger(z, (wide<T>)0));
                    bits |= (u32)!(z <= 0) << k;
                }
            mask[r * pitch + q] = (u8)bits;
        }
    }
}
