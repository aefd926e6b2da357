// Sums down the columns, in two launches: what the parts of the rows leave in scratch memory, and what is made of it.

// Two sums of each column that a lane owns, of this part: scratch (parts, 2 cols) has the one before the other.
template <class T>
__device__ void leave_columns(const T (&first)[OWN], const T (&second)[OWN], i64 c0, i64 cols, double* scratch) {
    if (team() == 0) OWNED(k, c, c0, cols) {
        scratch[part() * 2 * cols + c] = (double)first[k];
        scratch[part() * 2 * cols + cols + c] = (double)second[k];
    }
}

// sums[c] = Σ_p scratch[p, c], for one or several arrays of sums: they lie behind each other in a row of scratch.
template <class T> __device__ void finish_columns(T* sums, i64 cols, const double* scratch, i64 parts, i64 pitch) {
    COLUMN_TILES(c0, cols) {
        double sum[OWN] = {};
        TEAM_PARTS(p, parts) OWNED(k, c, c0, cols) sum[k] += scratch[p * pitch + c];
        sum_over_teams(sum);
        if (team() == 0) OWNED(k, c, c0, cols) sums[c] = stored<T>((wide<T>)sum[k]);
    }
}
