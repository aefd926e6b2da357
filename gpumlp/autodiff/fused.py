"""The records as taped functions: fused forward, fused backward.

Where another tape is recording while a gradient is taken (a second derivative), the fused backward gives way to
taped functions. Activations and losses run the formula of their backward on them, so a first derivative is the same
whether or not somebody watches, at the seams of a formula too; what is smooth everywhere (norms, dropout, the product
of a dense layer) is differentiated step by step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpumlp.autodiff.coded import is_read_by_code
from gpumlp.autodiff.functions import TapedModule
from gpumlp.autodiff.tape import GradientTape, Want, record, recording
from gpumlp.autodiff.tensor import (
    DEFAULT_DTYPE,
    Function,
    Tensor,
    _contiguous,
    all_held,
    as_arrays,
    as_dtype,
    as_floats,
    backend_of,
    current,
    on_backend,
    raw,
    reshape,
    transpose,
    wrap,
)
from gpumlp.backend.base import Backend, place_of
from gpumlp.errors import CaptureError, ConfigError, ShapeError, TapeError
from gpumlp.ops import ACTIVATIONS, LOSS_RECORDS, record_of
from gpumlp.ops.dropout import DROPOUT, RATE
from gpumlp.ops.hyper import settle
from gpumlp.ops.losses import Loss
from gpumlp.ops.members import MEMBER_SCALE
from gpumlp.ops.mix import MIX
from gpumlp.ops.norms import BATCH_NORM, LAYER_NORM
from gpumlp.ops.precision import is_narrow, wide
from gpumlp.ops.record import Activation, Array, Op

Formula = Callable[..., Any]
TABLES = "clock", "factors"
"""Arguments of dropout that are arrays."""


@dataclass(frozen=True)
class DenseOf:
    """What a dense layer is on a tape: a product, a bias and this activation in one."""

    activation: Activation


def dense_array(value: Any, backend: Backend, floats: Any = DEFAULT_DTYPE) -> Array:
    """Return the array behind ``value`` with its elements side by side: what a kernel may be given."""
    if isinstance(value, Tensor):
        return _dense(current(value), backend)
    return _dense(as_arrays([raw(value, backend, floats)], backend)[0], backend)


def _dense(array: Array, backend: Backend) -> Array:
    if array.flags.c_contiguous:
        return array
    return backend.compute("copy", _contiguous, array, xp=backend.xp)


def operands(values: Sequence[Any], backend: Backend) -> tuple[tuple[Any, ...], Sequence[Array]]:
    """Return arguments as the tape may keep them, tensors and arrays, and their arrays in floating point."""
    arrays = [current(value) for value in values if isinstance(value, Tensor)]
    if len(arrays) == len(values):  # the usual case
        return tuple(values), as_floats(arrays, backend)
    values_held = as_arrays(all_held(values, backend), backend)
    return tuple(values_held), as_floats([raw(value, backend) for value in values_held], backend)


def through_formula(
    name: str, formula: Formula, inputs: Sequence[Any], g: Tensor, wants: Sequence[Want]
) -> list[Tensor | None]:
    """Return the gradients of ``formula(taped module, *inputs)`` by differentiating it step by step."""
    module = taped_module(name, g, *inputs)
    sources = [value for value, want in zip(inputs, wants, strict=True) if want is not False]
    with GradientTape() as tape:
        tape.watch(*sources)
        y = formula(module, *inputs)
    gradients = {id(source): part for source, part in zip(sources, tape.gradient(y, sources, g), strict=True)}
    # An input that stands twice has one gradient, the sum over both places: it must be given once.
    return [gradients.pop(id(v), None) if want is not False else None for v, want in zip(inputs, wants, strict=True)]


def taped_module(name: str, g: Tensor, *inputs: Any) -> TapedModule:
    """Return the module to take a second derivative with. Raises CaptureError, TapeError where there is none."""
    _refuse_narrow(name, g, *inputs)
    if g.backend.capturing:
        raise CaptureError(
            f"the second derivative of {name} cannot be replayed",
            hint="build it from taped functions (exp, tanh, where, ...), or do not capture this step",
        )
    return TapedModule(g.backend)


def _refuse_narrow(name: str, *values: Any) -> None:
    """Refuse what is stored in bfloat16: rounding at every step would leave little of a second derivative."""
    if any(is_narrow(value.dtype) for value in values if isinstance(value, Tensor)):
        raise TapeError(
            f"the second derivative of {name} is not taken in bfloat16", hint="build the model in float32 or float64"
        )


def narrowed(value: Any, array: Array, like: Array, backend: Backend) -> Array:
    """Return the array of weights as a product with ``like`` reads them: as narrow as that is."""
    if array.dtype == like.dtype or not is_narrow(like.dtype):
        return array
    shadow = getattr(value, "shadow", None)
    return backend.cast(array, like.dtype) if shadow is None else shadow


def activate(activation: str | Activation, x: Any) -> Tensor:
    """Return f(x) for an activation given by name or record; shape and dtype of ``x``."""
    op = record_of(activation)
    backend = backend_of((x,))
    (x,), (array,) = operands((x,), backend)
    if op.of_rows and not (array.ndim and array.shape[-1]):
        raise ShapeError(
            f"{op.name} works along the last axis: it needs one of at least 1 element, not {array.shape}"
        )
    z = _dense(array, backend)
    (out,) = backend.run(op, "forward", (z,))
    y = wrap(out, backend)
    saved = out if op.saves == "output" else z

    def rule(g: Tensor, wants: Sequence[Want]) -> list[Tensor | None]:
        if recording():
            module = taped_module(op.name, g, x)
            return list(op.directions["backward"].formula(module, y if op.saves == "output" else x, g))
        (dx,) = backend.run(op, "backward", (saved, dense_array(g, backend)))
        return [wrap(dx, backend)]

    record(op.name, (x,), y, rule)
    return y


def dense(x: Any, W: Any, b: Any, activation: str | Activation = "identity") -> Tensor:
    """Return f(x W + b): one product, then bias and activation in one launch.

    ``x`` (..., p), ``W`` (p, H), ``b`` (H,) or None; the result is (..., H). Where ``x`` is bfloat16 so is the
    result, W and b are read so, too, and their gradients have their own dtype.
    """
    op = record_of(activation)
    backend = backend_of((x, W, b))
    if b is None:
        linear = product(x, W)
        return activate(op, linear) if op.name != "identity" else linear
    if coded := is_read_by_code(x):
        (W, b), (Wa, ba) = operands((W, b), backend)
        inputs, xa, Wa = (x, W, b), x, _dense(Wa, backend)
    else:
        inputs, (xa, Wa, ba) = operands((x, W, b), backend)
        xa = _dense(xa, backend)
    Wa, ba = narrowed(W, Wa, xa, backend), _dense(narrowed(b, ba, xa, backend), backend)
    if Wa.ndim != 2 or xa.shape[-1:] != Wa.shape[:1] or Wa.shape[1:] != ba.shape:
        raise ShapeError(f"dense: x {xa.shape}, W {Wa.shape} and b {ba.shape} do not fit")
    out, z = xa.dense_forward(op, Wa, ba) if coded else backend.dense(op, xa, Wa, ba)
    y = wrap(out, backend)
    saved = out if z is None else z

    def rule(g: Tensor, wants: Sequence[Want]) -> list[Tensor | None]:
        if recording():
            return through_formula(op.name, lambda _, x, W, b: activate(op, x @ W + b), inputs, g, wants)
        wants = _places_of(wants, out)
        dy = dense_array(g, backend)
        if coded:
            gradients = xa.dense_backward(op, Wa, saved, dy, wants)
        else:
            gradients = backend.dense_backward(op, xa, Wa, saved, dy, wants, inputs[1].dtype)
        parts = zip(gradients, inputs, strict=True)
        return [None if a is None else as_dtype(wrap(a, backend), source.dtype) for a, source in parts]

    record(f"dense {op.name}", inputs, y, rule, DenseOf(op))
    return y


def _places_of(wants: Sequence[Want], out: Array) -> list[Want]:
    """Return which gradients are wanted, and where: sums are found in the dtype that was computed with."""
    computed = wide(out.dtype)
    return [w if isinstance(w, bool) or w.dtype == computed else True for w in wants]


def product(x: Any, W: Any) -> Tensor:
    """Return x W for ``x`` (..., p) and weights ``W`` (p, H), which are read in bfloat16 where ``x`` is."""
    backend = backend_of((x, W))
    x = on_backend(x, backend)
    coded = is_read_by_code(x)
    if not coded and not is_narrow(x.dtype):
        plain: Tensor = x @ W
        return plain
    xa = x if coded else dense_array(x, backend)
    Wa = narrowed(W, dense_array(W, backend) if coded else raw(W, backend), xa, backend)
    if coded and (Wa.ndim != 2 or xa.shape[-1] != len(Wa)):
        raise ShapeError(f"product: x {xa.shape} and W {Wa.shape} do not fit")
    y = wrap(xa.times(Wa) if coded else backend.matmul(xa, Wa), backend)

    def rule(g: Tensor, wants: Sequence[Want]) -> list[Tensor | None]:
        if recording():
            _refuse_narrow("matmul", g)
            return through_formula("matmul", lambda _, x, W: x @ W, (x, W), g, wants)
        dy, wants = dense_array(g, backend), _places_of(wants, y.array)
        if coded:
            gradients = xa.product_backward(Wa, dy, wants)
        else:
            gradients = backend.product_backward(xa, Wa, dy, wants, raw(W, backend).dtype)
        parts = zip(gradients, (x, W), strict=True)
        return [None if a is None else as_dtype(wrap(a, backend), raw(source, backend).dtype) for a, source in parts]

    record("matmul", (x, W), y, rule)
    return y


def loss_value(
    op: Loss,
    outputs: Any,
    targets: Any,
    row_weights: Any = None,
    class_weights: Any = None,
    **params: float,
) -> tuple[Tensor, Tensor]:
    """Return the mean loss, a scalar, and the sums (Σ s l, Σ s m, Σ s h, Σ s), float64 ``(4,)``.

    ``outputs`` (N, K) are the last linear values; see :mod:`gpumlp.ops.losses` for the rest. The gradient is
    computed in the same launch. Only ``outputs`` has a gradient.
    """
    inputs = outputs, targets, row_weights, class_weights
    backend = backend_of(inputs)
    outputs, arrays = loss_operands(op, inputs, backend)
    rest = arrays[1:]
    loss, sums, gradient = backend.run(op, "forward", arrays, None, **params)
    y = wrap(loss, backend)

    def rule(g: Tensor, wants: Sequence[Want]) -> list[Tensor | None]:
        if any(want is not False for want in wants[1:]):
            raise TapeError(f"{op.name} has no gradient for its targets or weights, only for the outputs")
        if recording():
            slope = op.gradient(taped_module(op.name, g, outputs), outputs, *rest, **params)
            return [slope * g, *[None] * (len(wants) - 1)]
        dz = wrap(gradient, backend)
        return [dz if g.unit else as_dtype(dz * g, dz.dtype), *[None] * (len(wants) - 1)]

    record(op.name, (outputs, *inputs[1:]), y, rule, op)
    return y, wrap(sums, backend)


def loss_operands(op: Loss, inputs: Sequence[Any], backend: Backend) -> tuple[Any, tuple[Array, ...]]:
    """Return the outputs as the tape may keep them, and the arrays of outputs, targets, row and class weights.

    Raises ShapeError, DataError for what the loss is not defined for.
    """
    (outputs,), (z,) = operands(inputs[:1], backend)
    z, targets = _dense(z, backend), dense_array(inputs[1], backend, z.dtype)
    weights = [None if value is None else _weights(value, z.dtype, backend) for value in inputs[2:]]
    _check_loss(op, z, targets, *weights)
    # A captured step cannot look at values, and to look at those on a device would be to wait for it.
    on_host = targets if isinstance(targets, np.ndarray) else inputs[1]
    if not backend.capturing and isinstance(on_host, np.ndarray | list | tuple):
        op.check_targets(np.asarray(on_host))
        op.check_weights(*weights)
    return outputs, (z, targets, *weights)


def _weights(value: Any, dtype: Any, backend: Backend) -> Array:
    """Return weights of rows or classes as kernels of a loss take them, beside outputs of this dtype."""
    array = dense_array(value, backend, dtype)
    return array if array.dtype == wide(dtype) else backend.cast(array, wide(dtype))


def _check_loss(op: Loss, z: Array, targets: Array, rows: Array | None, classes: Array | None) -> None:
    if z.ndim != 2:
        raise ShapeError(f"{op.name}: outputs must be (N, K), not {z.shape}")
    n, k = z.shape
    labels = op.link == "softmax"
    fits = targets.shape == z.shape or (targets.ndim == 1 and targets.shape[0] == n and (labels or k == 1))
    if not fits:
        allowed = f"({n},) or {z.shape}" if labels or k == 1 else f"{z.shape}"
        raise ShapeError(f"{op.name}: targets must be {allowed}, not {targets.shape}")
    if rows is not None and rows.shape != (n,):
        raise ShapeError(f"{op.name}: row weights must be ({n},), not {rows.shape}")
    if classes is not None and op.link == "identity" and not op.takes_levels:
        raise ShapeError(f"{op.name} has no classes to weight", hint="give row weights instead")
    width = k if labels or op.takes_levels else 2
    if classes is not None and classes.shape != (width,):
        role = "levels" if op.takes_levels else "class weights"
        raise ShapeError(f"{op.name}: {role} must be ({width},), not {classes.shape}")


def _loss_function(op: Loss) -> Function:
    def function(
        outputs: Any, targets: Any, row_weights: Any = None, class_weights: Any = None, **params: float
    ) -> Tensor:
        settings = settle(op.name, params, op.hyper)
        return loss_value(op, outputs, targets, row_weights, class_weights, **settings)[0]

    function.__doc__ = f"Return the mean loss over the rows, a scalar: {op.meaning}"
    return function


def _activation_function(op: Activation) -> Function:
    def function(x: Any) -> Tensor:
        return activate(op, x)

    function.__doc__ = f"Return {op.meaning}"
    return function


def dropout(
    x: Any,
    rate: float,
    *,
    clock: Array,
    stream: int = 0,
    key: tuple[int, int] = (0, 0),
    factors: Array | None = None,
    first: int = 0,
) -> Tensor:
    """Return ``x`` with a share ``rate`` of its elements set to 0 and the rest scaled by 1 / (1 - rate).

    The mask is a function of (key, stream, step on the clock, position in the batch) and is made again in backward.
    ``factors``, float64 (batches,), multiplies the rate by its element for the batch on the clock; the last one goes
    on. ``first`` is the row of the batch that the first row of ``x`` is.
    """
    rate = RATE.check("the dropout rate", rate)
    backend = backend_of((x,))
    (x,), (array,) = operands((x,), backend)
    tables = raw(clock, backend), None if factors is None else raw(factors, backend)
    params: dict[str, Any] = {"rate": rate, "stream": stream, "key": key, "first": first}
    (out,) = backend.run(DROPOUT, "forward", (_dense(array, backend), *tables), **params)
    y = wrap(out, backend)

    def rule(g: Tensor, wants: Sequence[Want]) -> list[Tensor | None]:
        if recording():
            formula = DROPOUT.directions["forward"].formula
            return through_formula("dropout", lambda xp, x: formula(xp, x, *tables, **params)[0], (x,), g, wants)
        (dx,) = backend.run(DROPOUT, "backward", (dense_array(g, backend), *tables), **params)
        return [wrap(dx, backend)]

    record("dropout", (x,), y, rule)
    return y


def mixed(activation: str | Activation, x: Any, a: Any) -> Tensor:
    """Return x + a (f(x) - x) for an elementwise activation f, ``x`` (..., H), and a share ``a`` (H,) of each column.

    Raises
    ------
    ConfigError
        For an activation of whole rows.
    """
    op = record_of(activation)
    if op.of_rows:
        raise ConfigError(f"{op.name} works along rows, and is not mixed with the identity column by column")
    backend = backend_of((x, a))
    inputs, arrays = operands((x, a), backend)
    xa, aa = (_dense(array, backend) for array in arrays)
    if not xa.ndim or xa.shape[-1:] != aa.shape:
        raise ShapeError(f"mix: x {xa.shape} and a {aa.shape} do not fit")
    (h,) = backend.run(op, "forward", (xa,))
    (out,) = backend.run(MIX, "forward", (xa, h, aa))
    y = wrap(out, backend)

    def rule(g: Tensor, wants: Sequence[Want]) -> list[Tensor | None]:
        if recording():
            return through_formula("mix", lambda _, x, a: x + a * (activate(op, x) - x), inputs, g, wants)
        dy = dense_array(g, backend)
        (slope,) = backend.run(op, "backward", (h if op.saves == "output" else xa, dy))
        outputs = backend.run(MIX, "backward", (xa, h, aa, dy, slope), (None, place_of(wants[1])))
        return [wrap(each, backend) if want is not False else None for each, want in zip(outputs, wants, strict=True)]

    record(f"mix {op.name}", inputs, y, rule)
    return y


def dense_mixed(
    x: Any, W: Any, b: Any, a: Any, activation: str | Activation, dropped: Mapping[str, Any] | None = None
) -> Tensor:
    """Return :func:`dropout` of :func:`mixed` of x W + b: one product, and all that follows in one launch.

    ``x`` (..., p), ``W`` (p, H), ``b`` and ``a`` (H,). ``dropped`` are the arguments of dropout, by name; None: there
    is none. An activation whose record has no such launch takes those of the three operations.
    """
    op = record_of(activation)
    if "mixed_forward" not in op.directions:
        u = mixed(op, dense(x, W, b), a)
        return u if dropped is None else dropout(u, **dropped)
    backend = backend_of((x, W, b, a))
    coded = is_read_by_code(x)
    inputs, arrays = operands((W, b, a) if coded else (x, W, b, a), backend)
    inputs = (x, *inputs) if coded else inputs
    xa, (Wa, ba, aa) = (x, arrays) if coded else (_dense(arrays[0], backend), arrays[1:])
    Wa, ba, aa = narrowed(W, Wa, xa, backend), _dense(narrowed(b, ba, xa, backend), backend), _dense(aa, backend)
    if Wa.ndim != 2 or xa.shape[-1:] != Wa.shape[:1] or not Wa.shape[1:] == ba.shape == aa.shape:
        raise ShapeError(f"dense: x {xa.shape}, W {Wa.shape}, b {ba.shape} and a {aa.shape} do not fit")
    params = {} if dropped is None else {"stream": 0, "key": (0, 0), **dropped}
    if dropped is not None:
        params["rate"] = RATE.check("the dropout rate", params["rate"])
    tables = [None if (table := params.pop(name, None)) is None else raw(table, backend) for name in TABLES]
    z = xa.times(Wa) if coded else backend.matmul(xa, Wa)
    out, z, mask = backend.run(op, "mixed_forward", (z, ba, aa, *tables), (None, z, None), **params)
    y = wrap(out, backend)

    def formula(module: TapedModule, x: Any, W: Any, b: Any, a: Any) -> Any:
        u = mixed(op, x @ W + b, a)
        return u if dropped is None else DROPOUT.directions["forward"].formula(module, u, *tables, **params)[0]

    def rule(g: Tensor, wants: Sequence[Want]) -> list[Tensor | None]:
        if recording():
            return through_formula(op.name, formula, inputs, g, wants)
        want_x, want_W, want_b, want_a = _places_of(wants, out)
        dz, da, db = backend.run(
            op,
            "mixed_backward",
            (z, aa, dense_array(g, backend), mask, *tables),
            (None, place_of(want_a), place_of(want_b)),
            **params,
        )
        if coded:
            dx, dW = xa.product_backward(Wa, dz, (want_x, want_W))
        else:
            dx, dW = backend.product_backward(xa, Wa, dz, (want_x, want_W), inputs[1].dtype)
        parts = zip((dx, dW, db, da), inputs, wants, strict=True)
        return [
            None if array is None or want is False else as_dtype(wrap(array, backend), source.dtype)
            for array, source, want in parts
        ]

    record(f"dense mix {op.name}", inputs, y, rule)
    return y


def _normalise(op: Op, x: Any, gain: Any, bias: Any) -> tuple[Tensor, Array, Array]:
    backend = backend_of((x, gain, bias))
    inputs, arrays = operands((x, gain, bias), backend)
    xa, ga, ba = (_dense(array, backend) for array in arrays)
    if xa.ndim < (2 if op is BATCH_NORM else 1):
        raise ShapeError(f"{op.name}: x must be {'(N, H)' if op is BATCH_NORM else '(..., H)'}, not {xa.shape}")
    if not xa.shape[-1:] == ga.shape == ba.shape:
        raise ShapeError(f"{op.name}: x {xa.shape}, gain {ga.shape} and bias {ba.shape} do not fit")
    out, mean, variance = backend.run(op, "forward", (xa, ga, ba))
    y = wrap(out, backend)

    def rule(g: Tensor, wants: Sequence[Want]) -> list[Tensor | None]:
        if recording():
            formula = op.directions["forward"].formula
            return through_formula(op.name, lambda xp, *a: formula(xp, *a)[0], inputs, g, wants)
        gradient_arrays = (None, *(place_of(want) for want in wants[1:]))
        outputs = backend.run(op, "backward", (xa, ga, mean, variance, dense_array(g, backend)), gradient_arrays)
        return [wrap(a, backend) if want is not False else None for a, want in zip(outputs, wants, strict=True)]

    record(op.name, inputs, y, rule)
    return y, mean, variance


def layer_norm(x: Any, gain: Any, bias: Any) -> Tensor:
    """Return ``x`` (..., H) with each row brought to mean 0 and variance 1, then scaled and shifted."""
    return _normalise(LAYER_NORM, x, gain, bias)[0]


def batch_norm(x: Any, gain: Any, bias: Any) -> tuple[Tensor, Array, Array]:
    """Return ``x`` (N, H) with each column normalised, and the raw mean and (biased) variance, ``(1, H)``."""
    return _normalise(BATCH_NORM, x, gain, bias)


def member_scale(x: Any, gain: Any, bias: Any = None) -> Tensor:
    """Return rows of members, each times the gain of its member, plus its bias: (N k, p).

    Parameters
    ----------
    x
        (N, p), the same for all members, or (N, k, p).
    gain, bias
        (k, p), read in no less than 32 bits.
    """
    backend = backend_of((x, gain, bias))
    inputs, arrays = operands((x, gain) if bias is None else (x, gain, bias), backend)
    xa, ga, *rest = (_dense(array, backend) for array in arrays)
    if ga.ndim != 2 or xa.shape[1:] not in (ga.shape, ga.shape[1:]) or any(b.shape != ga.shape for b in rest):
        raise ShapeError(f"member_scale: x {xa.shape} and gain {ga.shape} do not fit, or the bias does not")
    rows = xa.reshape(len(xa), -1)
    flat = ga.reshape(-1)
    (out,) = backend.run(MEMBER_SCALE, "forward", (rows, flat, rest[0].reshape(-1) if rest else None))
    y = wrap(out.reshape(-1, ga.shape[1]), backend)

    def formula(xp: TapedModule, x: Any, gain: Any, bias: Any = None) -> Any:
        z = xp.reshape(x, (len(xa), -1, ga.shape[1])) * gain
        return xp.reshape(z if bias is None else z + bias, (-1, ga.shape[1]))

    def rule(g: Tensor, wants: Sequence[Want]) -> list[Tensor | None]:
        if recording():
            return through_formula("member_scale", formula, inputs, g, wants)
        dy = dense_array(g, backend).reshape(len(xa), -1)
        gradient_arrays = [
            None if (gradient_array := place_of(want)) is None else gradient_array.reshape(-1)
            for want in (*wants[1:], True)[:2]
        ]
        gradients = backend.run(MEMBER_SCALE, "backward", (rows, flat, dy), (None, *gradient_arrays))
        return [
            wrap(array.reshape(source.shape), backend) if want is not False else None
            for array, source, want in zip(gradients, inputs, wants, strict=False)
        ]

    record("member_scale", inputs, y, rule)
    return y


def member_dense(x: Any, W: Any, b: Any) -> Tensor:
    """Return x_m W_m + b_m of each member m, (N, k, K): a product for each, of its own.

    ``x`` (N k, p), a row of each of k members by turns; ``W`` (k, p, K), ``b`` (k, K).
    """
    backend = backend_of((x, W, b))
    inputs, (xa, Wa, ba) = operands((x, W, b), backend)
    fits = Wa.ndim == 3 and xa.ndim == ba.ndim == 2
    if not fits or len(xa) % len(Wa) or xa.shape[1] != Wa.shape[1] or ba.shape != Wa.shape[::2]:
        raise ShapeError(f"member_dense: x {xa.shape}, W {Wa.shape} and b {ba.shape} do not fit")
    count, width, outputs = Wa.shape
    xa = _dense(xa, backend)
    Wa, ba = _dense(narrowed(W, Wa, xa, backend), backend), _dense(narrowed(b, ba, xa, backend), backend)
    of_member = xa.reshape(-1, count, width).transpose(1, 0, 2)

    def product_into(a: Array, b: Array) -> Array:
        room = backend.allocate((a.shape[1], count, b.shape[2]), xa.dtype)
        return backend.matmul(a, b, room.transpose(1, 0, 2)).transpose(1, 0, 2)

    z = product_into(of_member, Wa).reshape(-1, count * outputs)
    out, _ = backend.run(_IDENTITY, "bias_forward", (z, ba.reshape(-1)))
    y = wrap(out.reshape(-1, count, outputs), backend)

    def formula(_: TapedModule, x: Any, W: Any, b: Any) -> Any:
        return transpose(transpose(reshape(x, (-1, count, width)), (1, 0, 2)) @ W, (1, 0, 2)) + b

    def rule(g: Tensor, wants: Sequence[Want]) -> list[Tensor | None]:
        if recording():
            return through_formula("member_dense", formula, inputs, g, wants)
        want_x, want_W, want_b = wants
        dy = dense_array(g, backend)
        dz = dy.transpose(1, 0, 2)
        gradients: list[Array | None] = [None, None, None]
        if want_x is not False:
            gradients[0] = product_into(dz, Wa.transpose(0, 2, 1)).reshape(-1, width)
        if want_W is not False:
            gradient_array = place_of(want_W)
            if gradient_array is None and raw(W, backend).dtype != xa.dtype:
                gradient_array = backend.allocate(Wa.shape, raw(W, backend).dtype)
            gradients[1] = backend.matmul(of_member.transpose(0, 2, 1), dz, gradient_array)
        if want_b is not False:
            gradient_array = place_of(want_b)
            flat = None if gradient_array is None else gradient_array.reshape(-1)
            rows = dy.reshape(-1, count * outputs)
            gradients[2] = backend.run(_IDENTITY, "bias_backward", (rows, rows), (None, flat))[1].reshape(
                count, outputs
            )
        return [
            None if array is None else as_dtype(wrap(array, backend), source.dtype)
            for array, source in zip(gradients, inputs, strict=True)
        ]

    record("member_dense", inputs, y, rule)
    return y


_IDENTITY = ACTIVATIONS["identity"]
FUSED: dict[str, Function] = {
    **{name: _activation_function(op) for name, op in ACTIVATIONS.items()},
    **{name: _loss_function(op) for name, op in LOSS_RECORDS.items()},
}
"""Each activation and loss as a function of tensors, by the name of its record."""
