// c = a b: sums of products, taken in the order of their terms
//
// For steps that one block takes alone, where no library can be called. A thread makes SIDE x SIDE numbers, so that it
// reads half a number for a product: rows side by side, which all threads of a warp share, and columns apart, so
// that what a warp reads at once lies side by side.
//
// Shapes: a (rows, inner), b (inner, cols), c (rows, cols). From one row to the next it is `down` numbers, from one
// column to the next `right`: a matrix that is stored turned has the two swapped. Of two of bfloat16 the sums are float,
// rounded once where c is of bfloat16, too.

template <class A, class B, class C>
__global__ void matrix_product_forward(
    const A* a, const B* b, C* c, i64 rows, i64 cols, i64 inner, i64 a_down, i64 a_right, i64 b_down, i64 b_right
) {
    typedef wide<A> W;
    constexpr int SIDE = 4;
    const i64 across = (cols + SIDE - 1) / SIDE, down = (rows + SIDE - 1) / SIDE;
    EACH_RUN(tile, down * across) {
        const i64 r0 = tile / across * SIDE, c0 = tile % across;
        i64 row[SIDE], col[SIDE];
        for (int k = 0; k < SIDE; ++k) {  // beyond the last the last is read again, and nothing written
            row[k] = r0 + k < rows ? r0 + k : rows - 1;
            col[k] = c0 + k * across < cols ? c0 + k * across : cols - 1;
        }
        W sum[SIDE][SIDE] = {};
        for (i64 p = 0; p < inner; ++p) {
            W left[SIDE], right[SIDE];
            for (int k = 0; k < SIDE; ++k) {
                left[k] = (W)a[row[k] * a_down + p * a_right];
                right[k] = (W)b[p * b_down + col[k] * b_right];
            }
            for (int i = 0; i < SIDE; ++i)
                for (int j = 0; j < SIDE; ++j) sum[i][j] += left[i] * right[j];
        }
        for (int i = 0; i < SIDE && r0 + i < rows; ++i)
            for (int j = 0; j < SIDE && c0 + j * across < cols; ++j)
                c[(r0 + i) * cols + c0 + j * across] = stored<C>(sum[i][j]);
    }
}
