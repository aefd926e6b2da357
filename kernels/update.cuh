// An optimizer's step on the flat buffer of all parameters, in one launch. A kernel makes a Step, which reads the
// clock and the rates, and runs it with its own rule: a function of (g, slots) that returns the direction of one
// element and brings its slots up to date. What the step of an element does to it and its slots is `move`: by default
// it is subtracted.
//
//   g ← g · min(1, clip / ‖g‖)                         norm null: no clipping
//   p ← p - η (direction + λ p)                        η and λ times the factors of the element's group
//   a ← β a + (1 - β) p, β = min(averaging, (1 + t) / (10 + t))     average null: none
//   shadow ← p in 16 bits, for products that take them so           shadow null: none
//
// t counts the steps from 1: the clock has been advanced already. η is the rate of the batch, λ the weight decay times
// the element of `decays` for it. Each row of `groups` has the end of a range of elements and its factors of η and λ.
//
// Shapes: parameters, gradient, average and slots (n,); rates (batches,); decays (decay_batches,), null: all 1; groups
// double (ranges, 3); clock int64 (3,); norm (1,).
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

struct Down {
    template <class T> __device__ inline void operator()(T& weight, T step, T&, T&) const { weight -= step; }
};

template <class T> struct Step {
    T rate, clip, decay, keep, give;
    __device__ Step(
        const T* rates, i64 batches, const T* decays, i64 decay_batches, const i64* clock, const T* norm,
        double weight_decay, double clip_norm, double averaging
    ) {
        rate = of_batch(rates, batches, clock[1] - 1);
        decay = (T)weight_decay;
        if (decays) decay *= of_batch(decays, decay_batches, clock[1] - 1);
        clip = norm && *norm > (T)clip_norm ? (T)clip_norm / *norm : (T)1;
        double t = (double)clock[0], beta = (1.0 + t) / (10.0 + t);
        keep = (T)(averaging < beta ? averaging : beta);
        give = 1 - keep;
    }

    // Each group is a loop of its own, as are those with and without shadow or average: none of them asks.
    template <int SLOTS, class Rule, class Move>
    __device__ void run(
        Buffers<T> at, const double* groups, i64 ranges, Slot<T> one, Slot<T> two, Rule rule, Move move
    ) const {
        const Step step = *this;
        decide(at.shadow != 0, [=](auto shadowed) {
            decide(at.average != 0, [=](auto averaged) {
                i64 from = 0;
                for (const double* group = groups; group < groups + 3 * ranges; group += 3) {
                    Step own = step;
                    own.rate = step.rate * (T)group[1];
                    T shrink = own.rate * (step.decay * (T)group[2]);
                    own.template range<SLOTS>(
                        at, from, (i64)group[0], shrink, one, two, rule, move, shadowed, averaged
                    );
                    from = (i64)group[0];
                }
            });
        });
    }

    template <int SLOTS, class Rule, class Move, class Shadowed, class Averaged>
    __device__ void range(
        Buffers<T> at, i64 from, i64 to, T shrink, Slot<T> one, Slot<T> two, Rule rule, Move move, Shadowed shadowed,
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
                move(weight[k], direction * step.rate + shrink * weight[k], first[k], second[k]);
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
    const T *p, const T *g, const T *rates, const T *decays, const double *groups, const i64 *clock, const T *norm, \
        const T *average, const bf16*
#define UPDATE_OUTPUTS T *p_out, T *average_out, bf16 *shadow
#define UPDATE_SCALARS                                                                                         \
    i64 rows, i64 n, i64 batches, i64 decay_batches, i64 ranges, double weight_decay, double clip_norm, \
        double averaging
#define SLOT(name) (Slot<T>{name, name##_out})
#define UPDATE_RUN(slots, one, two, rule) UPDATE_MOVE(slots, one, two, rule, Down())
#define UPDATE_MOVE(slots, one, two, rule, move)                                                                \
    Step<T>(rates, batches, decays, decay_batches, clock, norm, weight_decay, clip_norm, averaging)             \
        .template run<slots>({p, g, average, p_out, average_out, shadow}, groups, ranges, one, two, rule, move)
