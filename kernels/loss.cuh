// What every loss leaves behind. Each part of the rows leaves (Σ s l, Σ s m, Σ s h, Σ s) in its row of scratch.

constexpr int SUMS = 4;

// What a loss is set by: the numbers of its record in their order, and 0 where it has fewer. Its record refuses more.
// `divisor` is what gradients are divided by, 0 for the mass of the rows.
enum { LOSS_SETTINGS = 2 };  // an enum, as NVRTC warns of constants that are not used
struct Settings { double first, second, divisor; };

// The sum over all parts of one of the four; every thread of a block gets it.
__device__ inline double total_of(const double* scratch, i64 parts, int which) {
    double total = 0;
    EACH_PART(p, parts) total += scratch[p * SUMS + which];
    return block_sum(total);
}

// What the gradients of the rows are divided by, 0 where none of them counts; every thread of a block gets it.
__device__ inline double divisor_of(const double* scratch, i64 parts, Settings set) {
    double mass = total_of(scratch, parts, 1);
    return mass == 0 || set.divisor == 0 ? mass : set.divisor;
}

// What this block has found, to its row of scratch: `first` and `second` hold what this thread has added up.
__device__ inline void leave(double* scratch, int which, double first, int other, double second) {
    first = block_sum(first);
    second = block_sum(second);
    if (thread() != 0) return;
    scratch[part() * SUMS + which] = first;
    scratch[part() * SUMS + other] = second;
}

// The mean, 0 where nothing counts, and the sums it is made of.
template <class W> __device__ void finish_loss(W* value, double* sums, const double* scratch, i64 parts) {
    double found[SUMS];
    for (int k = 0; k < SUMS; ++k) found[k] = total_of(scratch, parts, k);
    if (thread() != 0) return;
    for (int k = 0; k < SUMS; ++k) sums[k] = found[k];
    *value = (W)(found[1] == 0 ? 0.0 : found[0] / found[1]);
}

// The six kernels of a loss: the masses of the rows, their losses and gradients, and the sums, with a gradient or
// without. `name_mass(targets, ...)` and `name_rows(...)` are device functions.
#define LOSS_ARGUMENTS \
    const T *z, const Y *targets, const wide<T> *s, const wide<T> *w, wide<T> *value, double *sums
#define LOSS_SHAPE i64 rows, i64 cols, double first, double second, double divisor, double *scratch, i64 parts
#define LOSS_KERNELS(name, mass, loss)                                                                               \
    template <class T, class Y> __global__ void name##_forward(LOSS_ARGUMENTS, T*, LOSS_SHAPE) {                     \
        mass(z, targets, s, w, rows, cols, Settings{first, second, divisor}, scratch);                               \
    }                                                                                                                \
    template <class T, class Y> __global__ void name##_forward_loss(LOSS_ARGUMENTS, T* gradient, LOSS_SHAPE) {       \
        loss(z, targets, s, w, gradient, rows, cols, Settings{first, second, divisor}, scratch, parts);              \
    }                                                                                                                \
    template <class T, class Y> __global__ void name##_forward_finish(LOSS_ARGUMENTS, T*, LOSS_SHAPE) {              \
        finish_loss(value, sums, scratch, parts);                                                                    \
    }                                                                                                                \
    template <class T, class Y> __global__ void name##_evaluate(LOSS_ARGUMENTS, LOSS_SHAPE) {                        \
        mass(z, targets, s, w, rows, cols, Settings{first, second, divisor}, scratch);                               \
    }                                                                                                                \
    template <class T, class Y> __global__ void name##_evaluate_loss(LOSS_ARGUMENTS, LOSS_SHAPE) {                   \
        loss(z, targets, s, w, (T*)0, rows, cols, Settings{first, second, divisor}, scratch, parts);                 \
    }                                                                                                                \
    template <class T, class Y> __global__ void name##_evaluate_finish(LOSS_ARGUMENTS, LOSS_SHAPE) {                 \
        finish_loss(value, sums, scratch, parts);                                                                    \
    }
