"""The bugs: what stands for what, of which kind, and which tests should see it.

A bug is one that somebody could have written: a guard or a barrier left out, a tail, a stride, a mask, a sign, a type,
a place beside the right one. The tests named are few, so that all bugs are run within minutes.
"""

# ruff: noqa: E501
# fmt: off
from __future__ import annotations

from .machine import Mutant

Tests = tuple[str, ...]

AGREEMENT, EDGES, FAR = (f"tests/backend/test_{name}.py" for name in ("agreement", "edges", "far"))


def native(what: str, *files: str) -> Tests:
    """Tests of the kernels as they are compiled for a processor, those whose names have this."""
    return (*(files or (AGREEMENT, EDGES)), "-k", f"native-{what}")


def checked(what: str) -> Tests:
    """Tests of the kernels in the form of a GPU, where every access is seen."""
    return (AGREEMENT, EDGES, "-k", f"checked-{what}")


ENTROPY = native("softmax_cross_entropy")
BINARY = native("binary_cross_entropy")
ROWS = (AGREEMENT, EDGES, "-k", "checked-layer_norm-forward or (comes_round and layer_norm-forward)")
COLUMNS = (AGREEMENT, EDGES, "-k", "checked-tanh-bias_backward or (comes_round and tanh-bias_backward)")
NARROW = ("tests/backend/test_bfloat16.py", EDGES, "-k", "native and (gather or rounding_is)")
DROPOUT = (EDGES, "-k", "native and (dropout or mask_knows or word_drops)")
GATHER = (AGREEMENT, EDGES, "-k", "native and (gather or batches_are or order_of_any)")
NORM = (EDGES, "-k", "native and not parts and norm_")
MATH = ("tests/backend/test_host_math.py",)
PRODUCTS = ("tests/backend/test_program.py", "-k", "layout or any_shape or steps_of or cut")
CREW = ("tests/backend/test_program.py", "-k", "threads or callers or batch or cut")

OPS_ACTIVATIONS = ("tests/ops/test_activations.py", "tests/ops/test_special.py")
OPS_LOSSES = ("tests/ops/test_losses.py",)
OPS_NORMS = ("tests/ops/test_norms.py", "tests/ops/test_records.py", "-k", "norm or moving")
OPS_RANDOM = ("tests/ops/test_random.py",)
OPS_BATCHES = ("tests/ops/test_batches.py", "tests/ops/test_random.py")
OPS_RECORDS = ("tests/ops/test_hyper.py", "tests/ops/test_precision.py", "tests/ops/test_activations.py")
TAPE = ("tests/autodiff",)
OPTIM = ("tests/optim",)
CURVES = ("tests/training/test_isotonic.py", "-k", "curve_is or curve_of or cannot")
TEMPERATURE = ("tests/training/test_calibration.py", "-k", "temperature or rank or softmax or scikit")
SNAPSHOTS = ("tests/training/test_snapshots.py", "-k", "join or joins or shares or after_its_epoch or zero")
NARROW_INPUTS = ("tests/nn/test_narrow_inputs.py",)
EDGES_OF_BINS = ("tests/nn/test_inputs.py", "-k", "edges or frequent or weight_3")
SELECTION = ("tests/sweep/test_ensemble.py", "-k", "selection or equal or numbers or count_by or in_pieces")
CODED = ("tests/autodiff/test_coded.py", "tests/training/test_categories.py")
PACKED = ("tests/data/test_packed.py", "-k", "memory or like_all or chunks or damage or short or taken")
SPLITS = ("tests/data/test_splits.py", "tests/data/test_folds.py")
STORE = ("tests/store/test_formats.py",)
UPDATE = native("adam")


def kernels(kind: str, file: str, tests: Tests, *bugs: tuple[str, str, str]) -> list[Mutant]:
    return [Mutant(name, kind, f"kernels/{file}", old, new, tests) for name, old, new in bugs]


def python(kind: str, file: str, tests: Tests, *bugs: tuple[str, str, str]) -> list[Mutant]:
    return [Mutant(name, kind, f"gpumlp/{file}", old, new, tests) for name, old, new in bugs]


LOSS_KERNELS = [
    *kernels(
        "guard", "softmax_cross_entropy.cu", ENTROPY,
        ("no class without mass, long rows", "below -= t == 0 ? (W)0 : part;", "below -= part;"),
        ("no class without mass, short rows", "below[k] -= t == 0 ? (W)0 : part;", "below[k] -= part;"),
        ("no batch without mass, long rows", "W scale = mass == 0 ? (W)0 : weight", "W scale = weight"),
        ("no batch without mass, short rows", "weight[k] = mass == 0 ? (W)0 : weight[k]", "weight[k] = weight[k]"),
        ("labels below 0 are smoothed, short rows", "return label[k] >= 0 && label[k] < cols;", "return label[k] < cols;"),
        ("labels above all are smoothed, long rows", "return at >= 0 && at < cols;", "return at >= 0;"),
    ),
    *kernels(
        "guard", "softmax_cross_entropy.cu", (EDGES, "-k", "native and row_without_mass"),
        ("no row without mass, long rows", "W l = m == 0 ? (W)0 : m * lse", "W l = m * lse"),
        ("no row without mass, short rows", "(m[k] == 0 ? (W)0 : m[k] * sum[k] + below[k])", "(m[k] * sum[k] + below[k])"),
    ),
    *kernels(
        "dtype", "softmax_cross_entropy.cu", (AGREEMENT, "-k", "native and a_label_that"),
        ("labels of 64 bits cut, short rows", "short_label == targets[r0 + k] ? short_label : -1", "short_label"),
        ("labels of 64 bits cut, long rows", "struct LabelTarget {\n    i64 at, cols;", "struct LabelTarget {\n    int at;\n    i64 cols;"),
    ),
    *kernels(
        "tie", "softmax_cross_entropy.cu", (AGREEMENT, "-k", "native and answer_of_a_row"),
        ("the last of the largest, short rows", "bool better = x > top[k] ||", "bool better = x >= top[k] ||"),
        ("NaN is smaller, short rows", "x > top[k] || (x != x && top[k] == top[k])", "x > top[k]"),
    ),
    *kernels(
        "sum", "softmax_cross_entropy.cu", ENTROPY,
        ("hits not weighted", "hits += hit ? (double)weight : 0.0;", "hits += hit ? 1.0 : 0.0;"),
        ("rows counted, not their weights", "count += (double)weight;", "count += 1.0;"),
        ("sums in float, short rows", "double mass = 0, total = 0;", "float mass = 0, total = 0;"),
        ("no mass in the softmax of the gradient", "- top - lse) * m - t)", "- top - lse) - t)"),
        ("no maximum taken off", "sum[k] += exp(z_c);", "sum[k] += exp(run.at(k, c));"),
        ("class weights of the class before", "__device__ W operator()(i64 c) const { return w[c]; }",
         "__device__ W operator()(i64 c) const { return w[c > 0 ? c - 1 : c]; }"),
    ),
    *kernels(
        "guard", "binary_cross_entropy.cu", BINARY,
        ("overflow of the tail", "exp(-fabs(z))", "exp(-z)"),
        ("no positive side without mass", "(positive == 0 ? (T)0 : of_positive)", "of_positive"),
        ("no negative side without mass", "(negative == 0 ? (T)0 : of_negative)", "of_negative"),
        ("a logit of 0 is positive", "(z > 0) == (t >", "(z >= 0) == (t >"),
        ("the gradient forgets class weights", "mass * sigmoid_of(z) - positive", "sigmoid_of(z) - positive"),
        ("smoothing towards 1", "(T)(0.5 * set.first)", "(T)set.first"),
    ),
    *kernels(
        "kink", "absolute_error.cu", native("absolute_error"),
        ("slope of an absolute value at 0", "r > 0 ? (T)1 : r < 0 ? (T)-1 : r", "r >= 0 ? (T)1 : (T)-1"),
    ),
    *kernels(
        "sign", "huber.cu", native("huber"),
        ("huber not cut off below", "larger(smaller(r, d), -d)", "smaller(r, d)"),
        ("huber without its half", "near * (fabs(r) - near / 2)", "near * (fabs(r) - near)"),
    ),
    *kernels(
        "guard", "elementwise_loss.cuh", native("squared_error"),
        ("no batch without mass, one column", "scale = mass == 0 ? (W)0 : weight / (W)mass;", "scale = weight / (W)mass;"),
        ("no batch without mass, several columns", "scale = mass == 0 ? (W)0 : weight / (W)mass / cols",
         "scale = weight / (W)mass / cols"),
        ("a loss not divided by its columns", "(double)(weight * (l / cols))", "(double)(weight * l)"),
        ("the weight of a row forgotten in the mass", "mass += (double)(weight * (m / cols));", "mass += (double)(m / cols);"),
        ("targets of the row before", "ElementLoss<W> e = element<F>((W)z[i], (W)targets[i], w, c, both, set);",
         "ElementLoss<W> e = element<F>((W)z[i], (W)targets[r > 0 ? i - cols : i], w, c, both, set);"),
        ("a missing target has mass", "known ? e.mass : (W)0", "e.mass"),
    ),
    *kernels(
        "side", "quantile.cu", native("quantile"),
        ("levels of the wrong side", "r > 0 ? level.of_0 : level.of_1", "r > 0 ? level.of_1 : level.of_0"),
        ("a quantile without its level", "side * fabs(r), side * sign", "side * fabs(r), sign"),
    ),
    *kernels(
        "slope", "focal.cu", native("focal"),
        ("focal without the slope of its factor", "factor = power * (1 - gamma * ratio);", "factor = power;"),
        ("focal at a probability of 1", "loss = q == 0 ? (W)0 : -power * logarithm;", "loss = -logarithm;"),
        ("focal without its maximum", "sum += exp((W)row[c] - top);", "sum += exp((W)row[c]);"),
    ),
    *kernels(
        "guard", "hinge.cu", native("hinge"),
        ("the label as a rival", "sum += c == label ? (W)0 : margin;", "sum += margin;"),
        ("hinge not shared among classes", "loss = team_sum(sum) / cols;", "loss = team_sum(sum);"),
        ("a slope at the margin", "return margin > 0 ? (W)1 : margin; }", "return margin >= 0 ? (W)1 : margin; }"),
    ),
    *kernels(
        "guard", "absolute_percentage_error.cu", native("absolute_percentage_error"),
        ("percentages of less than their floor", "larger(fabs(t), (T)set.first)", "fabs(t)"),
        ("percentages of negative targets", "larger(fabs(t), (T)set.first)", "larger(t, (T)set.first)"),
    ),
    *kernels(
        "order", "schedule_free.cu", native("schedule_free"),
        ("the mean before the step", "weight += share * (ahead - weight) - back * step;", "weight += share * (ahead - step - weight) - back * step;"),
        ("a share that is no square", "double exact = rate * rate / total;", "double exact = rate / total;"),
        ("where it goes back to", "(T)((1.0 - beta1) + beta1 * exact)", "(T)(1.0 - beta1)"),
    ),
    *kernels(
        "slope", "poisson.cu", native("poisson"),
        ("the slope of a rate", "rate - t, 1, 0}", "rate, 1, 0}"),
    ),
    *kernels(
        "order", "elementwise_loss.cuh", BINARY,
        ("class weights exchanged", "{w ? w[0] : (W)1, w ? w[1] : (W)1}", "{w ? w[1] : (W)1, w ? w[0] : (W)1}"),
    ),
    *kernels(
        "guard", "loss.cuh", native("huber"),
        ("no mean of nothing", "found[1] == 0 ? 0.0 : found[0] / found[1]", "found[0] / found[1]"),
        ("the second sum is the first", "scratch[part() * SUMS + other] = second;",
         "scratch[part() * SUMS + other] = first;"),
    ),
    *kernels(
        "order", "loss.cuh", BINARY,
        ("the mean by the weights of rows", "found[0] / found[1]);", "found[0] / found[3]);"),
    ),
]

ACTIVATION_KERNELS = [
    *kernels(
        "accuracy", "elu.cu", native("elu"),
        ("expm1 by exp", "expm1(smaller(x, (T)0))", "exp(smaller(x, (T)0)) - 1"),
        ("elu's slope without its 1", "d * (y + 1)", "d * y"),
    ),
    *kernels(
        "kink", "leaky_relu.cu", native("leaky_relu"),
        ("slope of a leaky relu at 0", "return y > 0 ? d", "return y >= 0 ? d"),
    ),
    *kernels(
        "kink", "relu.cu", native("relu"),
        ("slope of relu at 0", "y <= 0 ? (T)0 : d", "y < 0 ? (T)0 : d"),
        ("relu swallows NaN", "return larger(x, (T)0);", "return x > 0 ? x : (T)0;"),
    ),
    *kernels(
        "factor", "selu.cu", native("selu"),
        ("selu's slope without its scale", "y > 0 ? (T)scale * d", "y > 0 ? d"),
    ),
    *kernels(
        "factor", "gelu.cu", native("gelu"),
        ("gelu's slope without x", "normal_cdf(x) + x * normal_pdf(x)", "normal_cdf(x) + normal_pdf(x)"),
    ),
    *kernels(
        "sign", "silu.cu", native("silu"),
        ("silu's slope the other way", "s * (1 + x * (1 - s))", "s * (1 - x * (1 - s))"),
    ),
    *kernels(
        "factor", "mish.cu", native("mish"),
        ("mish's denominator", "above + 2 * k * k", "above + 2 * k"),
    ),
    *kernels(
        "accuracy", "softplus.cu", native("softplus"),
        ("a small slope of softplus", "d * -expm1(-y)", "d * (1 - exp(-y))"),
    ),
    *kernels(
        "factor", "tanh.cu", native("tanh"),
        ("tanh's slope not squared", "1 - y * y", "1 - y"),
    ),
    *kernels(
        "guard", "softmax.cu", native("softmax"),
        ("softmax without its maximum", "exp((wide<T>)from[c] - top)", "exp((wide<T>)from[c])"),
        ("softmax's gradient the other way", "(wide<T>)g[c] - inner", "(wide<T>)g[c] + inner"),
    ),
    *kernels(
        "reduction", "softmax.cu", checked("softmax-"),
        ("a lane's sum for a row's", "1 / team_sum(sum)", "1 / sum"),
        ("a lane's inner product for a row's", "inner = team_sum(inner);", ""),
    ),
    *kernels(
        "stride", "activation.cuh", native("tanh"),
        ("the bias of the first column", "v[k] += bias[k];", "v[k] += bias[0] * (c == 0);"),
        ("the sum of what came, not of what goes", "sum[k] += d;", "sum[k] += (wide<T>)g[c];"),
    ),
    *kernels(
        "stride", "activation.cuh", native("gelu"),
        ("what is saved is the output", "if (F::saves_input) store(kept + c, v);",
         "if (F::saves_input) { auto u = v; u[0] = F::forward(u[0]); store(kept + c, u); }"),
    ),
]

NORM_KERNELS = [
    *kernels(
        "part", "batch_norm.cu", native("batch_norm"),
        ("the rows of all parts for those of one", "W count = (W)(last_of(rows) - first_of(rows));", "W count = (W)rows;"),
        ("parts not moved to the mean of all", "+ d * d * (double)size_of_part(rows, p, parts);", ";"),
        ("a mean not weighted by its part", "* (double)size_of_part(rows, p, parts);\n        }\n        sum_over_teams(m);",
         "* (double)rows / (double)parts;\n        }\n        sum_over_teams(m);"),
        ("the mean of the gradient not taken", "- dbias[c] / rows", "- dbias[c]"),
        ("another epsilon", "batch_norm_epsilon = 1e-5", "batch_norm_epsilon = 1e-4"),
        ("gain forgotten backwards", "stored<T>(scale * gain[c] * inner)", "stored<T>(scale * inner)"),
    ),
    *kernels(
        "accuracy", "layer_norm.cu", native("layer_norm"),
        ("a difference of two large sums", "squares += ((W)row[c] - m) * ((W)row[c] - m);",
         "squares += (W)row[c] * (W)row[c] - m * m;"),
        ("the variance of a sample", "W v = team_sum(squares) / cols;", "W v = team_sum(squares) / (cols - 1);"),
        ("the mean of the row before", "W m = mean[r], scale = 1 / sqrt(variance[r] + (W)layer_norm_epsilon);",
         "W m = mean[r > 0 ? r - 1 : r], scale = 1 / sqrt(variance[r] + (W)layer_norm_epsilon);"),
    ),
    *kernels(
        "reduction", "layer_norm.cu", checked("layer_norm"),
        ("a lane's mean of the gradient for a row's", "a = team_sum(a) / cols;", "a = a / cols;"),
    ),
    *kernels(
        "accuracy", "gradient_norm.cu", NORM,
        ("squares in float", "(double)g[i] * (double)g[i]", "(double)(g[i] * g[i])"),
        ("their sum in float", "double sum = 0;", "T sum = 0;"),
    ),
    *kernels(
        "factor", "moving_average.cu", native("moving_average"),
        ("the scale forgotten", "(T)(momentum * scale)", "(T)momentum"),
    ),
]

UPDATE_KERNELS = [
    *kernels(
        "accuracy", "adam.cu", UPDATE,
        ("the power of beta2 in float", "(T)(1.0 / (1.0 - pow(beta2, t)))", "1 / (1 - (T)pow(beta2, t))"),
        ("epsilon under the root", "sqrt(second * unbias2) + small", "sqrt(second * unbias2 + small)"),
        ("one beta for the other", "first = old1 * first + fresh1 * g;", "first = old2 * first + fresh1 * g;"),
        ("no correction of the first", "return first * unbias1 /", "return first /"),
    ),
    *kernels("sum", "adagrad.cu", native("adagrad"), ("squares not kept", "s += g * g;", "s = g * g;")),
    *kernels("sum", "rmsprop.cu", native("rmsprop"), ("the fresh share is the old", "(T)(1.0 - decay)", "(T)decay")),
    *kernels("sign", "nesterov.cu", native("nesterov"), ("no look ahead", "return g + mu * v;", "return v;")),
    *kernels("sign", "momentum.cu", native("momentum"), ("momentum brakes", "v = mu * v + g", "v = g - mu * v")),
    *kernels(
        "off by one", "prelude.cuh", (EDGES, "-k", "native and late_batch"),
        ("a rate behind the last", "table[batch < length - 1 ? batch", "table[(int)batch < length - 1 ? (int)batch"),
    ),
    *kernels(
        "off by one", "update.cuh", (AGREEMENT, EDGES, "-k", "native and (sgd or late_batch)"),
        ("the rate of the next batch", "of_batch(rates, batches, clock[1] - 1)", "of_batch(rates, batches, clock[1])"),
        ("gradients below the norm are raised", "norm && *norm > (T)clip_norm ?", "norm ?"),
        ("clipping forgotten", "slope[k] * step.clip", "slope[k]"),
        ("decay without the rate", "shrink = own.rate * (step.decay", "shrink = (step.decay"),
        ("all decays", "(step.decay * (T)group[2])", "step.decay"),
        ("one rate for all", "own.rate = step.rate * (T)group[1];", "own.rate = step.rate;"),
        ("decay without its schedule", "if (decays) decay *=", "if (false) decay *="),
        ("early weights are not forgotten", "averaging < beta ? averaging : beta", "averaging"),
        ("the average of the weights before", "step.give * weight[k];", "step.give * mean[k];"),
    ),
    *kernels(
        "dtype", "update.cuh", ("tests/backend/test_bfloat16.py", EDGES, "-k", "native and sgd"),
        ("a shadow left as it was", "if (shadowed) store(at.shadow + i, weight);", "if (shadowed && i < 0) store(at.shadow + i, weight);"),
    ),
]

BATCH_KERNELS = [
    *kernels(
        "guard", "gather.cu", GATHER,
        ("a batch of a short epoch", "clock[1] * stride + r0 + k", "clock[1] * rows + r0 + k"),
        ("bytes not scaled", "stored<T>((wide<T>)from[c] * factor)", "stored<T>((wide<T>)from[c])"),
        ("another shift", "x ^= x >> 13;", "x ^= x >> 12;"),
        ("one bit too many", "while (((i64)1 << bits) < n) ++bits;", "while (((i64)1 << bits) <= n) ++bits;"),
        ("a key for all epochs", "mix(mix((u32)epoch) + (u32)key)", "mix((u32)key)"),
        ("one walk outside for all", "place[k] = place[k] >= end ? next : place[k];", "place[k] = next;"),
        ("weights of the places in the batch", "batch_weights[r] = weights[at];", "batch_weights[r] = weights[r];"),
    ),
    *kernels(
        "off by one", "dropout.cu", DROPOUT,
        ("no last element", "if (i + q < n) y[i + q]", "if (i + q + 1 < n) y[i + q]"),
    ),
    *kernels(
        "off by one", "philox.cuh", DROPOUT,
        ("the word at the limit is dropped", "return word >= threshold;", "return word > threshold;"),
        ("the upper half of the step", "alike(step >> 32)", "alike(0)"),
        ("no stream", "alike(stream)", "alike(0)"),
        ("scaled by what is dropped", "(1.0 / (1.0 - rate))", "(1.0 / (1.0 + rate))"),
        ("one half of the key", "philox(c, (u32)key0, (u32)key1);", "philox(c, (u32)key0, (u32)key0);"),
    ),
    *kernels(
        "order", "mixing.cuh", native("mish-mixed"),
        ("the share of another column", "share[q] = a[c + q], bias", "share[q] = a[q], bias"),
        ("columns that do not come round", "if (i + q >= 0 && ++c == cols) c = 0;", "if (i + q >= 0) c = (c + 1) % (cols + 1);"),
        ("a share of nothing", "of_share[k] += g * (h - v);", "of_share[k] += g * h;"),
        ("biases of what came", "of_bias[k] += d;", "of_bias[k] += g;"),
        ("the sums exchanged", "leave_columns(of_share, of_bias,", "leave_columns(of_bias, of_share,"),
    ),
    *kernels(
        "order", "mixing.cuh", native("selu-mixed"),
        ("what is read is the input", "F::saves_input ? v : h", "v"),
        ("what is dropped has a slope", "mask.applied(kept[i] != 0, (W)dy[i])", "mask.applied(true, (W)dy[i])"),
    ),
    *kernels(
        "constant", "philox.cuh", DROPOUT,
        ("nine rounds", "round < 10", "round < 9"),
        ("words exchanged", "c[1] = p1;", "c[1] = p0;"),
    ),
    *kernels(
        "guard", "expand.cu", native("expand"),
        ("a feature behind the last", "code < (wide<T>)cols", "code <= (wide<T>)cols"),
        ("features that stay as they were", "rest[c] = stored<T>((wide<T>)0);", "rest[c] = stored<T>((wide<T>)(c == 0));"),
    ),
    *kernels(
        "race", "expand.cu", checked("expand"),
        ("every lane sets every feature", "if (feature % lanes() == lane()) rest", "rest"),
    ),
    *kernels(
        "guard", "code_sum.cu", native("code_sum"),
        ("a code behind the last feature", "code < (T)features;", "code <= (T)features;"),
        ("a code of a number", "code >= (T)dense", "code >= 0"),
        ("sums that stay as they were", "else if (z != y)", "else if (z == y)"),
        ("the last gradient stays as it was", "ROWS(f, rows) LANES", "ROWS(f, rows - 1) LANES"),
        ("the gradient of the last code", "to[j] += g[j];", "to[j] = g[j];"),
    ),
    *kernels(
        "race", "code_sum.cu", checked("code_sum"),
        ("every team adds to every feature", "if (feature % FEATURE_GROUPS != i) continue;", ""),
    ),
    *kernels("off by one", "advance.cu", native("advance"), ("the batch stands still", "(i < 2)", "(i < 1)")),
    *kernels("sum", "accumulate.cu", native("accumulate"), ("the sums replaced", "totals[i] + sums[i]", "sums[i]")),
]

DIALECT = [
    *kernels(
        "dtype", "prelude.cuh", NARROW,
        ("NaN rounded as a number", "(x != x ? 0x7FC0u : rounded)", "rounded"),
        ("halves rounded up", "(all + 0x7FFFu + (all >> 16 & 1u)) >> 16", "(all + 0x8000u) >> 16"),
    ),
    *kernels(
        "guard", "prelude.cuh", native("relu"),
        ("the larger swallows NaN", "return x <= bound ? bound : x;", "return x > bound ? x : bound;"),
    ),
    *kernels(
        "guard", "prelude.cuh", native("softplus"),
        ("softplus of the sign", "log1p_unit(exp(-fabs(x)))", "log1p_unit(exp(-x))"),
    ),
    *kernels(
        "guard", "prelude.cuh", native("sigmoid"),
        ("sigmoid overflows", "return 1 / (1 + exp(-x));", "return exp(x) / (1 + exp(x));"),
    ),
    *kernels(
        "barrier", "prelude.cuh", ROWS,
        ("no barrier before a block's numbers are overwritten", "    __syncthreads();  // the last user of `of_warp` is done\n", ""),
        ("no barrier before a block's numbers are read", "of_warp[thread() / WARP] = x;\n    __syncthreads();",
         "of_warp[thread() / WARP] = x;"),
        ("a warp forgotten", "for (int w = 1; w < threads()", "for (int w = 2; w < threads()"),
        ("half of the neighbours", "for (int d = width / 2; d > 0; d /= 2)", "for (int d = width / 2; d > 1; d /= 2)"),
        ("lanes that take turns with one", "c < (cols); c += lanes())", "c < (cols); c += lanes() + 1)"),
        ("a grid that does not come round, rows", "r < (rows); r += gridDim.x * (i64)teams()", "r < (rows); r += (rows)"),
    ),
    *kernels(
        "barrier", "prelude.cuh", COLUMNS,
        ("no barrier before teams are added", "x[k];\n    __syncthreads();", "x[k];"),
        ("a team forgotten", "for (int t = 0; t < teams(); ++t)", "for (int t = 1; t < teams(); ++t)"),
        ("a grid that does not come round, columns", "c0 < (cols); c0 += gridDim.x * (i64)(WARP * OWN))", "c0 < (cols); c0 += (cols))"),
        ("a column behind the last", "(c0) + k * WARP + lane(); c < (cols))", "(c0) + k * WARP + lane(); c <= (cols))"),
        ("parts of equal sizes", "return n * blockIdx.y / gridDim.y;", "return n / gridDim.y * blockIdx.y;"),
    ),
    *kernels(
        "tail", "prelude.cuh", checked("tanh-forward"),
        ("elements before the vectors", "j < head ? j : tail + j - head", "j < head ? j : tail + j"),
        ("vectors one too far", "body(Width<PACK<T>>(), head + j * PACK<T>);", "body(Width<PACK<T>>(), head + j * PACK<T> + 1);"),
        ("vectors that stand still", "j < whole; j += walk.step) body(Width<PACK", "j < whole; j += 2 * walk.step) body(Width<PACK"),
    ),
    *kernels(
        "tie", "prelude.cuh", (AGREEMENT, "-k", "checked and answer_of_a_row"),
        ("a tie goes to any", "a.at < b.at ? a : b;", "b;"),
        ("NaN of either", "if (a_nan != b_nan) return a_nan ? a : b;", ""),
    ),
    *kernels(
        "dtype", "prelude.cuh", checked("accumulate"),
        ("elements that no block takes", "i < (n); i += gridDim.x * (i64)threads())", "i < (n) - 1; i += gridDim.x * (i64)threads())"),
    ),
    *kernels(
        "stride", "columns.cuh", native("layer_norm"),
        ("one sum for both", "= (double)second[k];", "= (double)first[k];"),
        ("sums of parts in float", "double sum[OWN] = {};", "float sum[OWN] = {};"),
        ("the second sum beside its place", "scratch[part() * 2 * cols + cols + c]", "scratch[part() * 2 * cols + cols + (c ? c - 1 : c)]"),
    ),
]

OFFSETS = [
    *kernels(
        "dtype", "host/host.h", (FAR, "-k", "gradient_far"),
        ("elements of a sum in 32 bits", "omp simd reduction(+ : s)) for (i64 i = first_of(n); i < last_of(n); ++i)",
         "omp simd reduction(+ : s)) for (i64 i = (int)first_of(n); i < (int)last_of(n); ++i)"),
    ),
    *kernels(
        "dtype", "dropout.cu", (FAR, "-k", "mask"),
        ("a run of a mask in 32 bits", "i64 i = j * RUN;", "i64 i = (u32)(j * RUN);"),
    ),
    *kernels(
        "dtype", "activation.cuh", (FAR, "-k", "tanh"),
        ("a row in 32 bits", "const T *s = saved + r * cols,", "const T *s = saved + (int)(r * cols),"),
        ("a place in scratch memory in 32 bits", "scratch[part() * cols + c] =", "scratch[(unsigned)(part() * cols) + c] ="),
        ("elements in 32 bits", "auto s = load(width, saved + i)", "auto s = load(width, saved + (u32)i)"),
    ),
    *kernels(
        "dtype", "layer_norm.cu", (FAR, "-k", "layer_norm"),
        ("a row of a norm in 32 bits", "LANES(c, cols) y[r * cols + c] =", "LANES(c, cols) y[(u32)(r * cols) + c] ="),
    ),
    *kernels(
        "dtype", "gather.cu", (FAR, "-k", "batch"),
        ("a row of the data in 32 bits", "inputs + at * cols;", "inputs + (u32)(at * cols);"),
    ),
    *kernels(
        "dtype", "softmax_cross_entropy.cu", (FAR, "-k", "softmax_cross"),
        ("a row of the gradient in 32 bits", "gradient[r * cols + c] =", "gradient[(u32)(r * cols) + c] ="),
    ),
    *kernels(
        "dtype", "elementwise_loss.cuh", (FAR, "-k", "squared"),
        ("an element of a loss in 32 bits", "if (gradient) gradient[i] =", "if (gradient) gradient[(u32)i] ="),
    ),
    *kernels(
        "dtype", "update.cuh", (FAR, "-k", "weight and sgd"),
        ("a weight in 32 bits", "store(at.p_out + i, weight);", "store(at.p_out + (u32)i, weight);"),
    ),
]

HOST = [
    *kernels(
        "tail", "host/host.h", native("batch_norm"),
        ("a tile of columns behind the last", "k < (int)at_most(OWN, (cols) - (c0))", "k < (int)at_most(OWN, (cols))"),
        ("parts of equal sizes on a processor", "return n * (this_part.index + 1) / this_part.count;",
         "return n / this_part.count * (this_part.index + 1);"),
        ("sizes of parts", "return n * (p + 1) / parts - n * p / parts;", "return n / parts;"),
    ),
    *kernels(
        "tail", "host/host.h", ENTROPY,
        ("a run of rows behind the last", "const int count = (int)at_most(ROW_RUN, r##_end - r)", "const int count = ROW_RUN"),
        ("a run that leaves its first row", "for (int k = 0; k < count; ++k)\n            for", "for (int k = 1; k < count; ++k)\n            for"),
    ),
    *kernels(
        "tie", "host/host.h", (AGREEMENT, "-k", "native and answer_of_a_row"),
        ("the last of the largest, long rows", "if (row[c] > row[best] ||", "if (row[c] >= row[best] ||"),
        ("NaN is smaller, long rows", "|| (row[c] != row[c] && row[best] == row[best])", ""),
    ),
    *kernels(
        "tail", "host/host.h", native("softmax"),
        ("columns behind the last whole vector", "for (int k = 0; c < cols; ++c, ++k)", "for (int k = 0; c + 1 < cols; ++c, ++k)"),
    ),
    *kernels(
        "order", "host/host.h", DROPOUT,
        ("words in another order", "{(c[0] & low) | c[1] << 32, (c[2] & low) | c[3] << 32}", "{(c[0] & low) | c[2] << 32, (c[1] & low) | c[3] << 32}"),
        ("counters alike", "x[k] = first + k;", "x[k] = first;"),
    ),
    *kernels(
        "constant", "host/host_math.h", MATH,
        ("an exponential that ends early", "exp_low = -104, exp_high = 89;", "exp_low = -80, exp_high = 89;"),
        ("the low part of a logarithm forgotten", "(log1p_tail(f) + k * Format<T>::ln2_lo)", "log1p_tail(f)"),
        ("tanh without its sign", "copysign(a > 10 ? 1 : y, x)", "(a > 10 ? 1 : y)"),
        ("tanh by its large form too early", "const float y = a < 0.55f ? small : large;", "const float y = a < 0.05f ? small : large;"),
        ("expm1 of the smallest", "fabs(x) < std::numeric_limits<T>::epsilon() / 4 ? x : half + half", "half + half"),
        ("log1p of -0", "return x == 0 ? x : log_limits(x, T(1) + x, y);", "return log_limits(x, T(1) + x, y);"),
        ("no denormal logarithm", "const bool denormal = x < std::numeric_limits<T>::min();", "const bool denormal = false;"),
        ("a logarithm of negative numbers", "zero < 0 ? Limits::quiet_NaN() : upper", "upper"),
        ("a digit of a coefficient", "0x1.5554aep-3f", "0x1.5564aep-3f"),
        ("a normal tail cut short", "normal_limit = 14.6f;", "normal_limit = 9.0f;"),
        ("a power in one piece", "const Bits<T> half = n >> 1;", "const Bits<T> half = 0;"),
    ),
    *kernels(
        "tail", "host/host_products.h", PRODUCTS,
        ("what was summed before is forgotten", "put(add ? widened(*to) + *from : *from, to)", "put(*from, to)"),
        ("whole vectors over what is beside", "if (j < cols) put(found[j], c.data + j);", "put(found[j], c.data + j);"),
        ("each round begins anew", "there = more ? there + sum[i][v] : sum[i][v];", "there = sum[i][v];"),
        ("a task at another row", "return at_most((n + size - 1) / size * k / parts * size, n);", "return at_most(n / size * k / parts * size, n);"),
        ("a turned panel beside its place", "copy(four, 4, to + p * width + j);", "copy(four, 3, to + p * width + j);"),
        ("the step of a column", "return data + row * down + col * right;", "return data + row * down + col;"),
        ("columns copied at the pitch of the highest", "std::memcpy(to + p * ROWS, from + p * right", "std::memcpy(to + p * ROWS, from + p * ROWS"),
    ),
    *kernels(
        "accuracy", "host/host_products.h", ("tests/backend/test_bfloat16_products.py",),
        ("a bfloat16 cut off", "(bits + 0x7fff + (bits >> 16 & 1)) >> 16 : 0x7fc0", "bits >> 16 : 0x7fc0"),
    ),
    *kernels(
        "guard", "host/host_program.h", CREW,
        ("a part that nobody takes", "(u64)(node.parts * (k + 1) / owners) << 32", "(u64)(node.parts / owners * (k + 1)) << 32"),
        ("a ticket beyond the last", "return (ticket & 0xFFFFFFFF) < ticket >> 32;", "return (ticket & 0xFFFFFFFF) <= ticket >> 32;"),
        ("parts counted as one", "node->run(node->slots, part, node->parts);", "node->run(node->slots, part, 1);"),
    ),
]

FORMULAS = [
    *python(
        "kink", "ops/activations.py", OPS_ACTIVATIONS,
        ("slope of relu at 0, formula", "xp.where(y <= 0, 0.0, dy)", "xp.where(y < 0, 0.0, dy)"),
        ("slope of a leaky relu at 0, formula", "xp.where(y > 0, dy, LEAK * dy)", "xp.where(y >= 0, dy, LEAK * dy)"),
        ("elu's negative side for both", "xp.where(x > 0, x, alpha * xp", "xp.where(x > 1, x, alpha * xp"),
        ("selu's slope without alpha", "dy * (y + SELU_SCALE * SELU_ALPHA)", "dy * (y + SELU_SCALE)"),
        ("silu's slope, formula", "s * (1.0 + x * (1.0 - s))", "s * (1.0 + x * s)"),
        ("softmax without its maximum, formula", "xp.exp(x - xp.max(x, axis=-1, keepdims=True))", "xp.exp(x)"),
        ("softmax over all", "return e / xp.sum(e, axis=-1, keepdims=True)", "return e / xp.sum(e)"),
        ("mish's slope, formula", "(1.0 - t * t))\n\n\ndef _softmax", "(1.0 - t))\n\n\ndef _softmax"),
    ),
    *python(
        "accuracy", "ops/special.py", OPS_ACTIVATIONS,
        ("small sigmoids from 1", "xp.where(x >= 0, 1.0 / (1.0 + e), e / (1.0 + e))", "xp.where(x >= 0, 1.0 / (1.0 + e), 1.0 - 1.0 / (1.0 + e))"),
        ("softplus by log", "xp.log1p(xp.exp(-xp.abs(x)))", "xp.log(1.0 + xp.exp(-xp.abs(x)))"),
        ("the normal tail from 1", "xp.where(x < 0, tail, 1.0 - tail)", "xp.where(x < 0, 1.0 - (1.0 - tail), 1.0 - tail)"),
    ),
    *python(
        "guard", "ops/losses.py", OPS_LOSSES,
        ("no batch without mass, formula", "scale = xp.where(empty, 0.0, counts / (xp.where(empty, 1.0, divisor) if divisor else whole))", "scale = counts / (divisor or total)"),
        ("no mean of nothing, formula", "lambda part: xp.where(empty, 0.0, part / whole)", "lambda part: part / total"),
        ("no class without mass, formula", "xp.sum(xp.where(t == 0, 0.0, t * (lse - z)), axis=-1)", "xp.sum(t * (lse - z), axis=-1)"),
        ("smoothing to the left classes", "targets * (1.0 - smoothing) + spread if smoothing", "targets + spread if smoothing"),
        ("binary smoothing, formula", "+ 0.5 * label_smoothing", "+ label_smoothing"),
        ("binary class weights exchanged, formula", "t * class_weights[1], (1.0 - t) * class_weights[0]", "t * class_weights[0], (1.0 - t) * class_weights[1]"),
        ("the columns of a regression forgotten", "xp.where(known, slopes, 0.0) / columns", "xp.where(known, slopes, 0.0)"),
        ("huber's half, formula", "near * (size - 0.5 * near)", "near * (size - near)"),
        ("a tie goes to the last class", "return xp.argmax(logits, axis=-1) == labels", "return logits.shape[-1] - 1 - xp.argmax(logits[..., ::-1], axis=-1) == labels"),
        ("a logit of 0 is positive, formula", "((logits > 0) == (targets", "((logits >= 0) == (targets"),
        ("rows counted, not their weights, formula", "(total, count, right, xp.sum(counts))", "(total, count, right, 0.0 * count + len(outputs))"),
        ("the gradient forgets the mass of its row", "xp.exp(z - lse) * mass[:, None] - t", "xp.exp(z - lse) - t"),
    ),
    *python(
        "factor", "ops/norms.py", OPS_NORMS,
        ("the variance not around the mean", "_mean(xp, (x - mean) * (x - mean), axes)", "_mean(xp, x * x, axes)"),
        ("the mean of the gradient left in", "inner = dh - _mean(xp, dh, axes) - h", "inner = dh - h"),
        ("gain forgotten backwards, formula", "dh = dy * gain", "dh = dy + 0.0 * gain"),
        ("an average that keeps too much", "((1.0 - momentum) * average", "((1.0 - 0.5 * momentum) * average"),
    ),
    *python(
        "constant", "ops/random.py", OPS_RANDOM,
        ("nine rounds, formula", "for _ in range(10):", "for _ in range(9):"),
        ("the step cut to 32 bits", "(step >> 32).astype(xp.uint32)", "(0 * step).astype(xp.uint32)"),
        ("the halves of a network", "tables[0::2] &= (1 << narrow) - 1", "tables[0::2] &= (1 << wide) - 1"),
        ("one walk too few", "outside = outside[walked >= n]", "outside = outside[:0]"),
        ("one bit too many, formula", "bits = max(n - 1, 0).bit_length()", "bits = n.bit_length()"),
        ("a key for all epochs, formula", "int(epoch[0]) & 0xFFFFFFFF, key)", "0, key)"),
    ),
    *python(
        "factor", "ops/dropout.py", OPS_RANDOM,
        ("not scaled", "2**32 - 1)), 1.0 / (1.0 - rate)", "2**32 - 1)), 1.0"),
    ),
    *python(
        "off by one", "ops/dropout.py", OPS_RANDOM,
        ("the word at the limit is dropped, formula", "key, first) >= limit", "key, first) > limit"),
    ),
    *python(
        "off by one", "ops/batches.py", OPS_BATCHES,
        ("the epoch advances", "xp.asarray([1, 1, 0])", "xp.asarray([1, 1, 1])"),
        ("batches overlap", "clock[BATCH : BATCH + 1] * stride + xp.arange(rows)", "clock[BATCH : BATCH + 1] * (stride - 1) + xp.arange(rows)"),
        ("targets of other rows", "xp.take(targets, chosen, axis=0)", "xp.take(targets, positions, axis=0)"),
        ("bytes not scaled, formula", "x.astype(wide(dtype)) * scale if", "x.astype(wide(dtype)) if"),
    ),
    *python(
        "sign", "ops/updates.py", OPTIM,
        ("weights that grow", "step[part] += (rate", "step[part] -= (rate"),
        ("biases decay", "if weight_decay and decay_factor:", "decay_factor = 1.0\n            if weight_decay:"),
        ("gradients below the norm are raised, formula", "xp.where(norm > clip_norm, clip_norm / norm, 1.0)", "(clip_norm / xp.maximum(norm, 1e-30))"),
        ("the rate of the next batch, formula", "at_batch(xp, table, clock[BATCH : BATCH + 1] - 1)", "at_batch(xp, table, clock[BATCH : BATCH + 1])"),
        ("early weights are not forgotten, formula", "xp.minimum(averaging, (1.0 + t) / (10.0 + t))", "(averaging + 0.0 * t)"),
        ("the average of the weights before, formula", "average = beta * average + (1.0 - beta) * result", "average = beta * average + (1.0 - beta) * parameters"),
        ("no look ahead, formula", "return g + momentum * velocity, velocity", "return velocity, velocity"),
        ("squares not kept, formula", "squares = squares + g * g", "squares = g * g"),
        ("adam's root before its correction", "xp.sqrt(v / c2) + epsilon", "xp.sqrt(v) / c2 + epsilon"),
    ),
    *python(
        "accuracy", "ops/updates.py", NORM,
        ("squares in float, formula", "exact = gradient.astype(xp.float64)", "exact = gradient"),
    ),
    *python(
        "guard", "ops/hyper.py", OPS_RECORDS,
        ("a number at its bound", "(\"<\", operator.lt, self.lt)", "(\"<\", operator.le, self.lt)"),
        ("settings that nobody declared", "if name not in declared:", "if False:"),
    ),
    *python(
        "guard", "ops/record.py", OPS_RECORDS,
        ("the bias not added", "z = x + b\n", "z = x + 0.0 * b\n"),
    ),
    *python(
        "dtype", "ops/precision.py", OPS_RECORDS,
        ("16 bits are computed in", "return np.dtype(np.float32) if is_narrow(dtype)", "return np.dtype(np.float64) if is_narrow(dtype)"),
    ),
]

DERIVATIVES = [
    *python(
        "sign", "autodiff/tensor.py", TAPE,
        ("the gradient of a difference", "reduce_to(-g, b)", "reduce_to(g, b)"),
        ("the gradient of a product", "reduce_to(g * b, a), lambda g, y, a, b: reduce_to(g * a, b)", "reduce_to(g * a, a), lambda g, y, a, b: reduce_to(g * b, b)"),
        ("the gradient of a quotient", "reduce_to(-(g * y) / b, b)", "reduce_to((g * y) / b, b)"),
        ("the exponent below", "below = b - 1 if b else 0", "below = b if b else 0"),
        ("axes that were broadcast", "if n == 1 and g.shape[extra + i] != 1", "if n == 1 and g.shape[i] != 1"),
        ("axes in front", "*range(extra),", "*range(max(extra - 1, 0)),"),
        ("a product not turned", "reduce_to(_matmul(g, transpose(b)), a)", "reduce_to(_matmul(g, b), a)"),
        ("axes back in their order", "_permute(g, axes=_inverse(axes))", "_permute(g, axes=axes)"),
        ("what is chosen twice", "xp.add.at(out, index, g)", "out[index] = g"),
        ("both sides of a choice", "reduce_to(where(condition, 0.0, g), b)", "reduce_to(g, b)"),
        ("a gradient of another type", "if isinstance(value, Tensor) and g.dtype != value.dtype:", "if False:"),
        ("negative axes", "gone = {a % x.ndim for a in axes}", "gone = set(axes)"),
        ("the logarithm of 0", "log(where(greater(a, 0.0), a, 1.0))", "log(a)"),
        ("the mean of one axis", "total * (total.size / size if size else math.nan)", "total * (1.0 / size if size else math.nan)"),
        ("equal ones each get all", "return among * (g / sum(among, axis=axis, keepdims=True))", "return among * g"),
        ("the second of what was joined", "slice(int(end) - array.shape[axis], int(end))", "slice(0, array.shape[axis])"),
    ),
    *python(
        "kink", "autodiff/functions.py", TAPE,
        ("both get the gradient of a tie", "reduce_to(where(greater(a, b), 0.0, g), b)", "reduce_to(where(greater_equal(a, b), 0.0, g), b)"),
        ("the gradient of a root", "g * (0.5 / y)", "g * (0.5 * y)"),
        ("the gradient of log1p", "g / (1.0 + x)", "g / x"),
    ),
    *python(
        "order", "autodiff/tape.py", TAPE,
        ("parts not summed up", "gradients[key] + part if key in gradients else part", "part"),
        ("in the order of the forward pass", "for node in reversed(self.nodes):", "for node in self.nodes:"),
        ("what is asked for twice is given once", "g = gradients.get(key) if key in keys else gradients.pop(key, None)", "g = gradients.pop(key, None)"),
        ("what does not matter keeps its place", "source.backend.clear(array)", "pass"),
        ("several parts in one place", "True if uses[id(value)] > 1 else arrays", "arrays"),
    ),
    *python(
        "guard", "autodiff/fused.py", TAPE,
        ("a loss not scaled", "dz if g.unit else as_dtype(dz * g, dz.dtype)", "dz"),
        ("an input twice", "gradients.pop(id(v), None) if want is not False else None for v, want", "gradients.get(id(v)) if want is not False else None for v, want"),
        ("the input for the output", "saved = out if op.saves == \"output\" else z\n", "saved = z\n"),
        ("a second derivative not scaled", "return [slope * g, *[None]", "return [slope, *[None]"),
    ),
]

OPTIMIZERS = [
    *python(
        "order", "optim/optimizers.py", OPTIM,
        ("a clock that stands", "backend.run(ADVANCE, \"forward\", (self.clock,), (self.clock,))", "pass"),
        ("the norm of the step before", "if self.norm is not None:\n", "if False:\n"),
        ("an average that begins at 0", "backend.asarray(like, copy=True)", "backend.zeros(like.shape, like.dtype)"),
        ("a state without the average", "return self.slots | further | ({} if self.average is None else {\"average\": self.average})", "return self.slots | further"),
        ("the average is not what is kept", "self.parameters.values if self.average is None else self.average", "self.parameters.values"),
        ("decay of adam by default", "spec.weight_decay if shared[\"weight_decay\"] is None else shared", "0.0 if shared[\"weight_decay\"] is None else shared"),
    ),
    *python(
        "off by one", "optim/schedules.py", OPTIM,
        ("warm-up begins at 0", "(steps + 1.0) / max(warm, 1)", "steps / max(warm, 1)"),
        ("a step too late", "factor ** (epochs // every)", "factor ** ((epochs - 1) // every)"),
        ("a cosine that ends at 0", "final + (1.0 - final) * 0.5", "(1.0 - final) * 0.5"),
        ("a cycle that goes on up", "between(1.0, final,", "between(1.0, start,"),
        ("patience one longer", "if self.waited >= self.hyper[\"patience\"]:", "if self.waited > self.hyper[\"patience\"]:"),
        ("an equal loss is better", "if loss < self.best:", "if loss <= self.best:"),
        ("the run without its warm-up", "(steps - warm) / max(total - warm, 1)", "steps / max(total, 1)"),
        ("patience not reset", "self.scale * self.hyper[\"factor\"], 0.0", "self.scale * self.hyper[\"factor\"], self.waited"),
    ),
]

INPUT_KERNELS = [
    *kernels(
        "guard", "binary_hinge.cu", native("binary_hinge"),
        ("a slope of two classes at the margin", "return margin > 0 ? (T)1 : margin;", "return margin >= 0 ? (T)1 : margin;"),
    ),
    *kernels(
        "guard", "binary_focal.cu", native("binary_focal"),
        ("binary focal without the slope of its factor", "power * (gamma * part - sigmoid_of(-z))", "power * (-sigmoid_of(-z))"),
    ),
]

ROWS_ON_DISK = [
    *python(
        "place", "data/packed/blocks.py", PACKED,
        ("a block without its checksum", "if zlib.crc32(content) != self.checksums[name][block]:", "if False:"),
        ("a file that ends too early", "            raise self._damaged(name, block, \"ends too early\")", "            rest = rest[:0]"),
        ("rows over those of the chunk before", "self._filled[block] += end - start", "self._filled[block] = end - start"),
        ("a checksum of the last piece alone", "zlib.crc32(content, self.checksums[array][block])", "zlib.crc32(content)"),
        ("rows of a chunk in another order", "self._of(array, rows)[order]", "self._of(array, rows)"),
        ("rows by their number in the file", "rows.take(row_numbers - block * self.layout.size)", "rows.take(row_numbers)"),
    ),
]

CHOICE = [
    *python(
        "formula", "training/calibration.py", CURVES,
        ("levels that fall by one", "while levels and levels[-1] >= level:", "if levels and levels[-1] >= level:"),
        ("pools without their weights", "(levels[-1] * masses[-1] + level * weight) / (masses[-1] + weight)", "(levels[-1] + level) / 2"),
        ("curves not divided by their sum", "shares_of_classes / np.where(total > 0, total, 1.0)", "shares_of_classes"),
    ),
    *python(
        "formula", "training/calibration.py", TEMPERATURE,
        ("a temperature without weights", "weighted, weight = weight > 0, weight / max(weight.sum(), 1e-300)", "weighted, weight = weight > 0, np.full(len(weight), 1 / len(weight))"),
        ("labels that are not smoothed", "slope = float(weights @ mean) - spread", "slope = float(weights @ mean)"),
        ("a rank too low", "return math.ceil((count + 1) * level - 1e-9)", "return math.ceil(count * level - 1e-9)"),
    ),
    *python(
        "formula", "sweep/ensemble.py", SELECTION,
        ("candidates that count alike", "[(1 - 1 / number) * mean + 1 / number * each for", "[0.5 * mean + 0.5 * each for"),
        ("the last round, not the best", "if losses[taken] < best - TIE_TOLERANCE * abs(best) or number == 1:", "if True:"),
        ("weights of rows left out", "float(weights @ -np.log(counted.clip(MIN_PROBABILITY)) / weights.sum())", "float(-np.log(counted.clip(MIN_PROBABILITY)).mean())"),
        ("a probability of 0", "counted.clip(MIN_PROBABILITY)", "counted"),
        ("repeats of a fold by their sum", "each / count.reshape(-1, *[1] * (each.ndim - 1))", "each"),
    ),
    *python(
        "formula", "training/snapshots.py", SNAPSHOTS,
        ("a mean of one too few", "(total + each.shares) / (len(together) + 1)", "(total + each.shares) / len(together)"),
        ("an epoch that wins nothing", "if not costs[lowest] < current:", "if costs[lowest] > current:"),
        ("an epoch more than asked for", "len(together) < limit", "len(together) <= limit"),
        ("weights beside their average", "weights = model.arrays(optimizer.weights)", "weights = model.arrays()"),
        ("joined by what counts rows", '"log_loss" if metric.later else self.parts.metric', "self.parts.metric"),
        ("a sum that misses who joined", "total = costs[lowest], total + left[lowest].shares", "total = costs[lowest], total + left[0].shares"),
    ),
    *python(
        "formula", "nn/inputs.py", EDGES_OF_BINS,
        ("quantiles of frequent values, too", "others, ends = different[~frequent], np.cumsum(rows[~frequent])", "others, ends = different, np.cumsum(rows)"),
        ("bins of frequent values kept", "left = bins - int(frequent.sum())", "left = bins"),
    ),
    *python(
        "dtype", "nn/layer.py", NARROW_INPUTS,
        ("numbers embedded as they are stored", "self.context.wide if self.takes == \"compute\" else self.context.dtype", "self.context.dtype"),
        ("a layer that computes in what it is given", "and self.takes != \"either\"", "and self.takes == \"compute\""),
    ),
    *python(
        "dtype", "nn/model.py", NARROW_INPUTS,
        ("inputs rounded before they are embedded", "self.context.wide if takes_float32 else dtype", "dtype"),
        ("inputs that are never rounded", "any(layer.takes == \"compute\"", "any(layer.takes != \"storage\""),
    ),
    *python(
        "dtype", "training/device_data.py", NARROW_INPUTS,
        ("rows rounded before they are embedded", "if features.has_categories else model.input_dtype", "if features.has_categories else model.context.dtype"),
        ("codes rounded before they are embedded", "features.width, model.input_dtype, model", "features.width, model.context.dtype, model"),
    ),
    *python(
        "place", "data/splits.py", SPLITS,
        ("a class without training rows", "_apportion(sizes, validation, np.maximum(sizes - 1 - from_test, 0))", "_apportion(sizes, validation, sizes - from_test)"),
        ("the smallest remainders first", "np.argsort(counts - exact, kind=\"stable\")", "np.argsort(exact - counts, kind=\"stable\")"),
        ("validation rows that are test rows", "np.array([2, 1, 0], np.uint8)", "np.array([2, 2, 0], np.uint8)"),
        ("folds that do not follow the classes", "order[np.argsort(classes[order], kind=\"stable\")]", "order"),
        ("a time that is divided", "int(np.searchsorted(times, times[position], \"left\"))", "position"),
        ("a fold of time too late", "(fold.of - fold.number + 1) * size", "(fold.of - fold.number) * size"),
        ("small groups first", "np.argsort(-sizes[order], kind=\"stable\")", "np.argsort(sizes[order], kind=\"stable\")"),
    ),
    *python(
        "guard", "store/atomic.py", STORE,
        ("a folder that does not come back", "                os.rename(old, path)\n", "                pass\n"),
        ("a folder taken for a leftover", "            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)\n", ""),
        ("leftovers of other files", "if match and name in (None, match[\"name\"]):", "if match:"),
        ("half a line stays", "            file.truncate(before)\n", ""),
    ),
]

SHORT_CUTS = [
    *python(
        "place", "autodiff/coded.py", CODED,
        ("codes over the product with numbers", "(z, self.stored, W), (z,), dense=self.dense)", "(None, self.stored, W), (z,), dense=self.dense)"),
        ("gradients of the weights of codes at the first", "(dW[self.dense :],), **below)", "(dW[: self._width - self.dense],), **below)"),
        ("no gradient of the weights of numbers", "        if self.dense:\n            self.backend.matmul(self.numbers.T, dz, dW", "        if False:\n            self.backend.matmul(self.numbers.T, dz, dW"),
        ("weights read by code in bfloat16", "if not isinstance(x, CodedRows) or is_narrow(x.dtype):", "if not isinstance(x, CodedRows):"),
        ("values of numbers counted for codes", "x.shape[1] - x.dense, int(x.stored", "x.shape[1], int(x.stored"),
        ("features of the numbers alone", "self._features = self._first(self._width)", "self._features = self._first(self.dense)"),
    ),
    *python(
        "guard", "runs/replay.py", ("tests/runs/test_replay.py", "-k", "moved_are_seen and numpy"),
        ("weights that were moved", "if plans is None or not plans.hold:", "if plans is None:"),
        ("plans without an end", "if len(self._plans) >= MAX_SHAPES:", "if False:"),
    ),
    *python(
        "guard", "runs/replay.py", ("tests/runs/test_replay.py", "-k", "new_weights"),
        ("a network built anew by the old plan", "*map(id, contexts), stored.shape", "id(network), stored.shape"),
    ),
    *python(
        "guard", "runs/replay.py", ("tests/runs/test_replay.py", "-k", "plans_of_their_own"),
        ("threads that share a plan", "plan = plans.free.pop()", "plan = plans.free[-1]"),
    ),
    *python(
        "guard", "runs/replay.py", ("tests/runs/test_replay.py", "-k", "without_a_plan and numpy and classes"),
        ("a plan for each call", "            plans.free.append(plan)\n", ""),
    ),
    *python(
        "guard", "runs/replay.py", ("tests/runs/test_replay.py", "-k", "copy"),
        ("a copy with the plans of the first", "return type(self), ()", "return lambda: self, ()"),
    ),
    *python(
        "guard", "runs/replay.py", ("tests/runs/test_replay.py", "-k", "was_returned"),
        ("probabilities of the call before", "if answer is linear else answer.numpy()", "if answer is linear else answer.array"),
    ),
    *python(
        "order", "ranks/devices.py", ("tests/ranks/test_devices.py", "-k", "wait_for"),
        ("a part for the rank before", "source.data.ptr + peer * size, size, unit, peer, stream", "source.data.ptr + peer * size, size, unit, peer ^ 1, stream"),
        ("parts of a rank at one place", "out.data.ptr + peer * size", "out.data.ptr"),
        ("bytes counted as elements", "source.nbytes // self._ranks.size", "source.size // self._ranks.size"),
        ("a failed link is left open", "                self._link.abort()  # else this process would wait for its device as it ends\n", ""),
        ("errors of NCCL unseen", "                    self._link.check_async_error()\n", ""),
    ),
    *python(
        "order", "ranks/devices.py", ("tests/ranks/test_devices.py", "-k", "exchange_as and GPUMLP"),
        ("what was received is left on the host", "        out[...] = self._xp.asarray(received)\n", ""),
    ),
    *python(
        "order", "ranks/devices.py", ("tests/ranks/test_devices.py", "-k", "meet and one"),
        ("two ranks on one device", "if (other := addresses.index(each)) != number:", "if (other := addresses.index(each)) > number:"),
    ),
    *python(
        "order", "ranks/devices.py", ("tests/ranks/test_devices.py", "-k", "lacks"),
        ("one rank without NCCL", "if lacking:\n", "if len(lacking) == len(known):\n"),
    ),
    *python(
        "order", "sweep/beside.py", ("tests/sweep/test_beside.py", "-k", "known_results"),
        ("results as they come", "while running and running[0].done():\n        yield running.popleft().result()", "for future in [each for each in running if each.done()]:\n        running.remove(future)\n        yield future.result()"),
    ),
    *python(
        "order", "sweep/beside.py", ("tests/sweep/test_beside.py", "-k", "large"),
        ("a backend for a network that has all threads", "return None if apart is backend else apart", "return apart"),
    ),
    *python(
        "order", "sweep/beside.py", ("tests/sweep/test_beside.py", "-k", "networks_of_a_bag"),
        ("runs by one thread after the other", "leave=_beside(job.data) - 1", "leave=0"),
    ),
    *python(
        "order", "sweep/beside.py", ("tests/sweep/test_beside.py", "-k", "share_of_the_memory"),
        ("no run where data are large", "max(1, min(threads(),", "max(0, min(threads(),"),
        ("more runs than threads", "min(threads(), int(MAX_SHARE", "max(threads(), int(MAX_SHARE"),
    ),
]

NO_DIFFERENCE = [
    Mutant(
        "elu overflows", "guard", "gpumlp/ops/activations.py", "xp.expm1(xp.minimum(x, 0.0))", "xp.expm1(x)", OPS_ACTIVATIONS,
        equivalent="what overflows is on the side that is not taken, and slopes are not taken through it",
    ),
    Mutant(
        "sigmoid by one side", "guard", "gpumlp/ops/special.py",
        "xp.where(x >= 0, 1.0 / (1.0 + e), e / (1.0 + e))", "1.0 / (1.0 + xp.exp(-x)) + 0.0 * e", OPS_ACTIVATIONS,
        equivalent="it differs where the value is below all normal numbers, which kernels take for 0",
    ),
    Mutant(
        "slope of elu at 0", "kink", "kernels/elu.cu", "return y > 0 ? d", "return y >= 0 ? d", native("elu"),
        equivalent="at 0 the other side's slope is y + 1 = 1, the same",
    ),
    Mutant(
        "a head longer than all", "tail", "kernels/prelude.cuh",
        "return together && head < n ? head : n;", "return together ? head : n;", checked("tanh-forward"),
        equivalent="it is shorter than a vector, so there are no vectors, and the loop of single elements ends at n",
    ),
    Mutant(
        "no first run", "guard", "kernels/host/host.h", "int better = from == 0;", "int better = 0;",
        (AGREEMENT, "-k", "native and answer_of_a_row"),
        equivalent="it only spares a loop: what is larger than the first is found by the comparison, too",
    ),
    Mutant(
        "four columns more by one", "tail", "kernels/host/host_products.h", "j + 4 <= cols; j += 4", "j + 4 < cols; j += 4", PRODUCTS,
        equivalent="the loop behind takes what this one leaves",
    ),
    Mutant(
        "unused columns not cleared", "guard", "kernels/host/host_products.h",
        "if (wide < width) std::memset(to, 0, rows * width * sizeof(T));", "", PRODUCTS,
        equivalent="columns behind the last are computed, and never stored",
    ),
]

MUTANTS: list[Mutant] = [
    *LOSS_KERNELS,
    *ACTIVATION_KERNELS,
    *NORM_KERNELS,
    *UPDATE_KERNELS,
    *BATCH_KERNELS,
    *DIALECT,
    *OFFSETS,
    *HOST,
    *FORMULAS,
    *DERIVATIVES,
    *OPTIMIZERS,
    *INPUT_KERNELS,
    *ROWS_ON_DISK,
    *CHOICE,
    *SHORT_CUTS,
    *NO_DIFFERENCE,
]

SAMPLE = ("the gradient of a difference", "a step too late", "the batch stands still")
"""Quick ones, that are planted in every run of the tests."""
