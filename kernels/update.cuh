// An optimizer's step on the flat buffer of all parameters, in one launch. A kernel makes a Step, which reads the
// clock and the rates, and runs it with its own rule: a function of (g, slots) that returns the direction of one
// element and brings its slots up to date.
//
//   g ← g · min(1, clip / ‖g‖)                         norm null: no clipping
//   p ← p - η (direction + λ p)                        λ on the first `decayed` elements only
//   a ← β a + (1 - β) p, β = min(averaging, (1 + t) / (10 + t))     average null: none
//
// Shapes: parameters, gradient, average and slots (n,); rates (batches,); clock int64 (3,); norm (1,).
// Elements of T moved: 3 + 2 for each slot + 2 with an average. Outputs are the arrays of the inputs, in place.

template <class T> struct Slot {
    const T* from;
    T* to;
};

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
    template <int SLOTS, class Rule>
    __device__ void run(
        const T* p, const T* g, const T* a, T* p_out, T* a_out, i64 decayed, i64 n, Slot<T> one, Slot<T> two,
        Rule rule
    ) const {
        range<SLOTS>(p, g, a, p_out, a_out, 0, decayed, decay, one, two, rule);
        range<SLOTS>(p, g, a, p_out, a_out, decayed, n, (T)0, one, two, rule);
    }

    template <int SLOTS, class Rule>
    __device__ void range(
        const T* p, const T* g, const T* a, T* p_out, T* a_out, i64 from, i64 to, T shrink, Slot<T> one, Slot<T> two,
        Rule rule
    ) const {
        i64 n = to - from;
        const T* none = 0;
        i64 head = alone(
            n, p + from, g + from, p_out + from, a ? a + from : none, a ? a_out + from : none,
            SLOTS > 0 ? one.from + from : none, SLOTS > 0 ? one.to + from : none,
            SLOTS > 1 ? two.from + from : none, SLOTS > 1 ? two.to + from : none
        );
        Step step = *this;
        packs<T>(over_grid(), n, head, [=](auto width, i64 j) {
            i64 i = from + j;
            auto weight = load(width, p + i), slope = load(width, g + i);
            decltype(weight) first, second;
            if (SLOTS > 0) first = load(width, one.from + i);
            if (SLOTS > 1) second = load(width, two.from + i);
            for (int k = 0; k < width.count; ++k) {
                T direction = rule(slope[k] * step.clip, first[k], second[k]);
                weight[k] -= direction * step.rate + shrink * weight[k];
            }
            if (SLOTS > 0) store(one.to + i, first);
            if (SLOTS > 1) store(two.to + i, second);
            store(p_out + i, weight);
            if (a) {
                auto mean = load(width, a + i);
                for (int k = 0; k < width.count; ++k) mean[k] = step.keep * mean[k] + step.give * weight[k];
                store(a_out + i, mean);
            }
        });
    }
};

#define UPDATE_INPUTS const T *p, const T *g, const T *rates, const i64 *clock, const T *norm, const T *average
#define UPDATE_OUTPUTS T *p_out, T *average_out
#define UPDATE_SCALARS \
    i64 rows, i64 n, i64 batches, i64 decayed, double weight_decay, double clip_norm, double averaging
#define SLOT(name) (Slot<T>{name, name##_out})
#define UPDATE_RUN(slots, one, two, rule)                                                       \
    Step<T>(rates, batches, clock, norm, weight_decay, clip_norm, averaging)                    \
        .template run<slots>(p, g, average, p_out, average_out, decayed, n, one, two, rule)
