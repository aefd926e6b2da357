// An optimizer's step on the flat buffer of all parameters, in one launch. A kernel makes a Step, which reads the
// clock and the rates, and runs it with its own rule: a function of (g, i) that returns the direction of element i
// and brings its slots up to date.
//
//   g ← g · min(1, clip / ‖g‖)                         norm null: no clipping
//   p ← p - η (direction + λ p)                        λ on the first `decayed` elements only
//   a ← β a + (1 - β) p, β = min(averaging, (1 + t) / (10 + t))     average null: none
//
// Shapes: parameters, gradient, average and slots (n,); rates (batches,); clock int64 (3,); norm (1,).
// Elements of T moved: 3 + 2 for each slot + 2 with an average. Outputs are the arrays of the inputs, in place.

template <class T> struct Step {
    T rate, clip, decay, keep, give;
    double t;
    __device__ Step(
        const T* rates, i64 batches, const i64* clock, const T* norm, double weight_decay, double clip_norm,
        double averaging
    ) {
        i64 last = batches - 1;
        rate = rates[clock[1] < last ? clock[1] : last];
        clip = norm && *norm > (T)clip_norm ? (T)clip_norm / *norm : (T)1;
        decay = rate * (T)weight_decay;
        t = (double)(clock[0] + 1);
        double beta = (1.0 + t) / (10.0 + t);
        keep = (T)(averaging < beta ? averaging : beta);
        give = 1 - keep;
    }
    // What decays and what does not are two loops, so that neither asks at every element.
    template <class Direction>
    __device__ void run(
        const T* p, const T* g, const T* a, T* p_out, T* a_out, i64 from, i64 to, T shrink, Direction direction
    ) const {
        EACH(j, to - from) {
            i64 i = from + j;
            T after = p[i] - (direction(g[i] * clip, i) * rate + shrink * p[i]);
            p_out[i] = after;
            if (a) a_out[i] = keep * a[i] + give * after;
        }
    }
};

#define UPDATE_INPUTS const T *p, const T *g, const T *rates, const i64 *clock, const T *norm, const T *average
#define UPDATE_OUTPUTS T *p_out, T *average_out
#define UPDATE_SCALARS \
    i64 rows, i64 n, i64 batches, i64 decayed, double weight_decay, double clip_norm, double averaging
#define UPDATE_STEP Step<T> step(rates, batches, clock, norm, weight_decay, clip_norm, averaging)
#define UPDATE_RUN(direction)                                                                   \
    step.run(p, g, average, p_out, average_out, 0, decayed, step.decay, direction);             \
    step.run(p, g, average, p_out, average_out, decayed, n, (T)0, direction)
