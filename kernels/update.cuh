// An optimizer's step on the flat buffer of all parameters, in one launch. A kernel makes a Step, which reads the
// clock and the rates, and runs it with its own rule: a function of (g, slots) that returns the direction of one
// element and brings its slots up to date.
//
//   g ← g · min(1, clip / ‖g‖)                         norm null: no clipping
//   p ← p - η (direction + λ p)                        λ on the first `decayed` elements only
//   a ← β a + (1 - β) p, β = min(averaging, (1 + t) / (10 + t))     average null: none
//   shadow ← p in 16 bits, for products that take them so           shadow null: none
//
// t counts the steps from 1: the clock has been advanced already.
//
// Shapes: parameters, gradient, average and slots (n,); rates (batches,); clock int64 (3,); norm (1,).
// Elements of T moved: 3 + 2 for each slot + 2 with an average, and two bytes of shadow.
// Outputs are the arrays of the inputs, in place.

template <class T> struct Slot {
    const T* from;
    T* to;
};

template <class T> struct Buffers {
    const T *p, *g, *average;
    T *p_out, *average_out;
    bf16* shadow;
};

template <class T> struct Step {
    T rate, clip, decay, keep, give;
    double t;
    __device__ Step(
        const T* rates, i64 batches, const i64* clock, const T* norm, double weight_decay, double clip_norm,
        double averaging
    ) {
        i64 batch = clock[1] - 1, last = batches - 1;
        rate = rates[batch < last ? batch : last];
        clip = norm && *norm > (T)clip_norm ? (T)clip_norm / *norm : (T)1;
        decay = rate * (T)weight_decay;
        t = (double)clock[0];
        double beta = (1.0 + t) / (10.0 + t);
        keep = (T)(averaging < beta ? averaging : beta);
        give = 1 - keep;
    }

    // What decays and what does not are two loops, as are those with and without shadow or average: none of them asks.
    template <int SLOTS, class Rule>
    __device__ void run(Buffers<T> at, i64 decayed, i64 n, Slot<T> one, Slot<T> two, Rule rule) const {
        const Step step = *this;
        decide(at.shadow != 0, [=](auto shadowed) {
            decide(at.average != 0, [=](auto averaged) {
                step.template range<SLOTS>(at, 0, decayed, step.decay, one, two, rule, shadowed, averaged);
                step.template range<SLOTS>(at, decayed, n, (T)0, one, two, rule, shadowed, averaged);
            });
        });
    }

    template <int SLOTS, class Rule, class Shadowed, class Averaged>
    __device__ void range(
        Buffers<T> at, i64 from, i64 to, T shrink, Slot<T> one, Slot<T> two, Rule rule, Shadowed shadowed,
        Averaged averaged
    ) const {
        i64 n = to - from;
        const T* none = 0;
        i64 head = alone(
            n, at.p + from, at.g + from, at.p_out + from, at.average ? at.average + from : none,
            at.average ? at.average_out + from : none, at.shadow ? at.shadow + from : at.shadow,
            SLOTS > 0 ? one.from + from : none, SLOTS > 0 ? one.to + from : none,
            SLOTS > 1 ? two.from + from : none, SLOTS > 1 ? two.to + from : none
        );
        Step step = *this;
        packs<T>(over_grid(), n, head, [=](auto width, i64 j) {
            i64 i = from + j;
            auto weight = load(width, at.p + i), slope = load(width, at.g + i);
            decltype(weight) first, second;
            if (SLOTS > 0) first = load(width, one.from + i);
            if (SLOTS > 1) second = load(width, two.from + i);
            for (int k = 0; k < width.count; ++k) {
                T direction = rule(slope[k] * step.clip, first[k], second[k]);
                weight[k] -= direction * step.rate + shrink * weight[k];
            }
            if (SLOTS > 0) store(one.to + i, first);
            if (SLOTS > 1) store(two.to + i, second);
            store(at.p_out + i, weight);
            if (shadowed) store(at.shadow + i, weight);
            if (averaged) {
                auto mean = load(width, at.average + i);
                for (int k = 0; k < width.count; ++k) mean[k] = step.keep * mean[k] + step.give * weight[k];
                store(at.average_out + i, mean);
            }
        });
    }
};

#define UPDATE_INPUTS \
    const T *p, const T *g, const T *rates, const i64 *clock, const T *norm, const T *average, const bf16*
#define UPDATE_OUTPUTS T *p_out, T *average_out, bf16 *shadow
#define UPDATE_SCALARS \
    i64 rows, i64 n, i64 batches, i64 decayed, double weight_decay, double clip_norm, double averaging
#define SLOT(name) (Slot<T>{name, name##_out})
#define UPDATE_RUN(slots, one, two, rule)                                                       \
    Step<T>(rates, batches, clock, norm, weight_decay, clip_norm, averaging)                    \
        .template run<slots>({p, g, average, p_out, average_out, shadow}, decayed, n, one, two, rule)
