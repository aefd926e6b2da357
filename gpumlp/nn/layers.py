"""The layers.

Adding one is a class here and, for what can stand between a linear layer and its activation, a row of ``NORMS``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpumlp.autodiff import (
    Tensor,
    activate,
    batch_norm,
    dense,
    dense_mixed,
    dropout,
    layer_norm,
    maximum,
    member_scale,
    mixed,
    power,
)
from gpumlp.autodiff.functions import minimum
from gpumlp.autodiff.tensor import as_dtype
from gpumlp.errors import ConfigError, ShapeError, choices
from gpumlp.nn.initializers import INITIALIZERS, default_initializer
from gpumlp.nn.layer import Declared, Equation, Layer
from gpumlp.ops import record_of
from gpumlp.ops.dropout import RATE
from gpumlp.ops.hyper import Hyper, whole
from gpumlp.ops.norms import EPSILON
from gpumlp.ops.precision import wide
from gpumlp.ops.record import Array
from gpumlp.seeds import DROPOUT, generator


@dataclass(frozen=True)
class Parametrization:
    """By what the learning rate of a linear layer's weights and biases is multiplied.

    ``weights`` is a function of the number of inputs. The weight decay of weights stays what it is.
    """

    meaning: str
    weights: Callable[[int], float]
    biases: float


STANDARD = "standard"
PARAMETRIZATIONS = {
    STANDARD: Parametrization("one learning rate for all", lambda inputs: 1.0, 1.0),
    # z = x V / sqrt(p) + 0.1 c with V ~ N(0, 1) (Jacot et al. 2018, arXiv:1806.07572), in W = V / sqrt(p), b = 0.1 c:
    # Adam's steps do not depend on the scale of a gradient, so those of W are 1 / sqrt(p) of those of V.
    "ntk": Parametrization(
        "learning rate over the root of the number of inputs for weights, a tenth for biases: with adam and its like "
        "the same as the neural tangent kernel's form, x V / sqrt(inputs), with two logits for two classes",
        lambda inputs: inputs**-0.5,
        0.1,
    ),
}
"""Factors of the learning rate in a linear layer, by name."""


class Dense(Layer):
    """h = f(x W + b), with W (p, H) and b (H,): (p + 1) H parameters.

    Parameters
    ----------
    units
        Number of values of a row of the output, H.
    activation
        The name of f, any of gpumlp.ops.ACTIVATIONS.
    initializer
        A name of gpumlp.nn.INITIALIZERS, or ``auto`` for the one that suits f.
    bias
        False leaves b out.
    parametrization
        A name of ``PARAMETRIZATIONS``.
    of_two
        Whether a value stands for the difference of two that are trained, as of the logits of two classes: it then
        moves at twice their rate and, by data, starts √2 times as wide.
    """

    numbered = True

    def __init__(
        self,
        units: int,
        activation: str = "identity",
        *,
        initializer: str = "auto",
        bias: bool = True,
        parametrization: str = STANDARD,
        of_two: bool = False,
    ) -> None:
        super().__init__()
        units = whole("units of a dense layer", units)
        if parametrization not in PARAMETRIZATIONS:
            hint = choices(parametrization, PARAMETRIZATIONS)
            raise ConfigError(f"unknown parametrization {parametrization!r}", hint=hint)
        self.parametrization = parametrization
        if initializer != "auto" and initializer not in INITIALIZERS:
            raise ConfigError(f"unknown initializer {initializer!r}", hint=choices(initializer, INITIALIZERS))
        self.units, self.activation = units, record_of(activation).name
        self.initializer = default_initializer(activation) if initializer == "auto" else initializer
        self.bias, self.of_two = bias, of_two
        self.link = self.activation

    def declare(self, inputs: int) -> Mapping[str, Declared]:
        factors = PARAMETRIZATIONS[self.parametrization]
        pair = 2.0 if self.of_two else 1.0
        rate = pair * factors.weights(inputs)
        W = Declared(
            (inputs, self.units),
            "weight",
            lambda rng: INITIALIZERS[self.initializer](rng, inputs, self.units),
            matrix=True,
            called={"keras": "kernel", "pytorch": "weight"},
            rate=rate,
            decay=1.0 / rate,  # the optimizer multiplies it by the rate
        )
        b = Declared(
            (self.units,),
            "offset",
            lambda rng: np.zeros(self.units),
            called={"keras": "bias", "pytorch": "bias"},
            rate=pair * factors.biases,
        )
        return {"W": W, "b": b} if self.bias else {"W": W}

    def width(self, inputs: int) -> int:
        return self.units

    def forward(self, x: Tensor, *, training: bool = False) -> Tensor:
        return dense(x, self.weights["W"], self.offsets.get("b"), self.activation)

    def with_following(self, x: Tensor, following: Sequence[Layer], *, training: bool) -> tuple[Tensor, int]:
        mix, dropout = (*following, None, None)[:2]
        if not (self.bias and self.activation == "identity" and isinstance(mix, Mix) and mix.built):
            return super().with_following(x, following, training=training)
        dropped = dropout.arguments(training) if isinstance(dropout, Dropout) else None
        x = self.taken(x)
        y = dense_mixed(x, self.weights["W"], self.offsets["b"], mix.weights["a"], mix.name, dropped)
        return y, 1 + isinstance(dropout, Dropout)

    def linear(self, x: Any, *, training: bool = False) -> Tensor:
        """Return x W + b, before the activation.

        Parameters
        ----------
        x
            (N, p).
        training
            As of :meth:`forward`.

        Returns
        -------
        Tensor
            (N, H).
        """
        x = self.taken(x)
        return dense(x, self.weights["W"], self.offsets.get("b"))

    def equation(self, value: str, place: str) -> Equation:
        z, W, b = f"z_{place}", f"W_{place}", f"b_{place}"
        arrays = {"W": (W, f"{value}ᵀ ∇{z}")} | ({"b": (b, f"∇{z}")} if self.bias else {})
        return Equation(z, f"{value} {W}{f' + {b}' * self.bias}", f"∇{z} {W}ᵀ", arrays)

    @property
    def detail(self) -> str:
        return self.activation


class Activation(Layer):
    """An activation on its own, for where something stands between it and the dense layer.

    Parameters
    ----------
    name
        A name of gpumlp.ops.ACTIVATIONS.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = self.link = record_of(name).name

    def forward(self, x: Tensor, *, training: bool = False) -> Tensor:
        return activate(self.name, x)

    def linear(self, x: Tensor, *, training: bool = False) -> Tensor:
        return x

    def equation(self, value: str, place: str) -> None:
        return None

    @property
    def detail(self) -> str:
        return self.name


class InputFactors(Layer):
    """Multiplies each column by a trained factor, 1 at the start: p parameters.

    Their learning rate is 6 times that of weights, and so is their decay: what does not help fades (RealMLP,
    Holzmüller et al. 2024, arXiv:2407.04491).
    """

    def declare(self, inputs: int) -> Mapping[str, Declared]:
        return {"s": Declared((1, inputs), "weight", lambda rng: np.ones((1, inputs)), rate=6.0, decay=6.0)}

    def forward(self, x: Tensor, *, training: bool = False) -> Tensor:
        return member_scale(x, self.weights["s"])

    def equation(self, value: str, place: str) -> Equation:
        symbol, s = (f"{name}_{place}" if place else name for name in ("u", "s"))
        return Equation(symbol, f"{value} ⊙ {s}", f"∇{symbol} ⊙ {s}", {"s": (s, f"∇{symbol} ⊙ {value}")})


class Mix(Layer):
    """z + a ⊙ (f(z) - z): an activation mixed with the identity, each column by a trained share, 1 at the start.

    H parameters, at a tenth of the learning rate and of the decay of weights (RealMLP, arXiv:2407.04491).

    Parameters
    ----------
    name
        Name of f, any of gpumlp.ops.ACTIVATIONS that works elementwise.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = record_of(name).name

    def declare(self, inputs: int) -> Mapping[str, Declared]:
        return {"a": Declared((inputs,), "weight", lambda rng: np.ones(inputs), rate=0.1, decay=0.1)}

    def forward(self, x: Tensor, *, training: bool = False) -> Tensor:
        return mixed(self.name, x, self.weights["a"])

    def equation(self, value: str, place: str) -> Equation:
        y, a, f = f"y_{place}", f"a_{place}", f"{self.name}({value})"
        slope = f"∇{y} ⊙ (1 + {a} ⊙ ({self.name}'({value}) - 1))"
        return Equation(y, f"{value} + {a} ⊙ ({f} - {value})", slope, {"a": (a, f"∇{y} ⊙ ({f} - {value})")})

    @property
    def detail(self) -> str:
        return self.name


class Residual(Layer):
    """x + e, e the input of the layer that stands ``reach`` layers before (He et al. 2015, arXiv:1512.03385).

    It stands in a Sequential, whose other layers between the two are the block that learns a difference.
    """

    def __init__(self, reach: int) -> None:
        super().__init__()
        self.reach = whole("the reach of a residual", reach)

    def joined(self, x: Tensor, earlier: Tensor) -> Tensor:
        if x.shape != earlier.shape:
            message = f"a residual adds {earlier.shape[-1]} values to {x.shape[-1]}"
            raise ShapeError(message, hint="use blocks that are as wide as their input")
        return as_dtype(as_dtype(x, wide(x.dtype)) + as_dtype(earlier, wide(x.dtype)), x.dtype)

    def forward(self, x: Tensor, *, training: bool = False) -> Tensor:
        raise ConfigError("a residual takes two values, and works in a Sequential alone")

    def equation(self, value: str, place: str) -> Equation:
        r = f"r_{place}"
        return Equation(r, f"{value} + ", f"∇{r}")  # to be completed by the value that it reaches back to

    @property
    def detail(self) -> str:
        return f"{self.reach} layers back"


class Clamp(Layer):
    """In prediction, brings each number below ``low`` or above ``high`` to that bound; in training, does nothing.

    The bounds, (p,) each, are the largest numbers until :meth:`set` is called.
    """

    takes = "either"

    def declare(self, inputs: int) -> Mapping[str, Declared]:
        largest = float(np.finfo(np.float32).max)  # not infinite: a model file holds finite numbers only
        return {
            "low": Declared((inputs,), "state", lambda rng: np.full(inputs, -largest)),
            "high": Declared((inputs,), "state", lambda rng: np.full(inputs, largest)),
        }

    def set(self, low: Any, high: Any) -> None:
        """Set the bounds, (p,) each, of a layer that is built."""
        for name, value in (("low", low), ("high", high)):
            bound = self.state[name]
            assert self.context is not None
            self.context.backend.write(bound, np.broadcast_to(np.asarray(value, bound.dtype), bound.shape))

    def forward(self, x: Tensor, *, training: bool = False) -> Tensor:
        if training:
            return x
        low, high = (Tensor(self.state[name], x.backend) for name in ("low", "high"))
        clamped: Tensor = minimum(maximum(as_dtype(x, low.dtype), low), high)
        return clamped

    def equation(self, value: str, place: str) -> Equation:
        symbol = f"y_{place}"
        return Equation(symbol, f"min(max({value}, low), high)", f"∇{symbol} where low < {value} < high, else 0")


class Dropout(Layer):
    """In training, sets a share ``rate`` of its inputs to 0 and scales the others by 1 / (1 - rate).

    ``factors``, float64 (batches,) on the backend, multiplies the rate batch by batch; a trainer sets it.

    Parameters
    ----------
    rate
        Share of inputs that are set to 0, in [0, 1).
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.factors: Array | None = None
        self.rate = RATE.check("the dropout rate", rate)

    def arguments(self, training: bool) -> dict[str, Any] | None:
        """Return the arguments of :func:`gpumlp.autodiff.dropout`, or None where nothing is dropped.

        Parameters
        ----------
        training
            As of :meth:`forward`.

        Returns
        -------
        dict or None
        """
        if not training or self.rate == 0.0:
            return None
        context = self.context
        assert context is not None
        k0, k1 = generator(context.seed, DROPOUT).integers(0, 2**32, 2)
        return {
            "rate": self.rate,
            "clock": context.clock,
            "stream": context.index,
            "key": (int(k0), int(k1)),
            "factors": self.factors,
            "first": context.shard.first,
        }

    def forward(self, x: Tensor, *, training: bool = False) -> Tensor:
        arguments = self.arguments(training)
        return x if arguments is None else dropout(x, **arguments)

    def equation(self, value: str, place: str) -> None:
        return None

    @property
    def detail(self) -> str:
        return f"{self.rate:g}"


class _Norm(Layer):
    """A normalization that scales and shifts its result: gain ⊙ u + bias."""

    epsilon = EPSILON

    def declare(self, inputs: int) -> Mapping[str, Declared]:
        return {
            "gain": Declared(
                (inputs,), "offset", lambda rng: np.ones(inputs), called={"keras": "gamma", "pytorch": "weight"}
            ),
            "bias": Declared(
                (inputs,), "offset", lambda rng: np.zeros(inputs), called={"keras": "beta", "pytorch": "bias"}
            ),
        }

    def _equation(self, suffix: str, normal: str, slope: str) -> Equation:
        n, gain, bias = f"n_{suffix}", f"gain_{suffix}", f"bias_{suffix}"
        arrays = {"gain": (gain, f"∇{n} ⊙ u"), "bias": (bias, f"∇{n}")}
        return Equation(n, f"{gain} ⊙ u + {bias}, u = {normal}", slope, arrays)


class LayerNorm(_Norm):
    """Brings each row to mean 0 and variance 1, then scales and shifts: 2 H parameters."""

    def forward(self, x: Tensor, *, training: bool = False) -> Tensor:
        return layer_norm(x, self.offsets["gain"], self.offsets["bias"])

    def equation(self, value: str, place: str) -> Equation:
        slope = f"(g - mean g - u mean(g ⊙ u)) / σ, g = ∇n_{place} ⊙ gain_{place}"
        return self._equation(place, f"({value} - mean) / σ over the row", slope)


class BatchNorm(_Norm):
    """Brings each column of a batch to mean 0 and variance 1, then scales and shifts: 2 H parameters.

    Of more than two axes all but the last are rows. Outside of training it uses running averages,
    ``average ← (1 - momentum) average + momentum batch``, the variance unbiased, as PyTorch does.

    Parameters
    ----------
    momentum
        Share of the batch in each step, in [0, 1].
    """

    mixes_rows = cancels_bias = True

    def __init__(self, momentum: float = 0.1) -> None:
        super().__init__()
        self.momentum: float = Hyper(0.1, "share of the batch", ge=0.0, le=1.0).check(
            "momentum of batch norm", momentum
        )

    def declare(self, inputs: int) -> Mapping[str, Declared]:
        return {
            **super().declare(inputs),
            "mean": Declared(
                (inputs,),
                "state",
                lambda rng: np.zeros(inputs),
                called={"keras": "moving_mean", "pytorch": "running_mean"},
            ),
            "variance": Declared(
                (inputs,),
                "state",
                lambda rng: np.ones(inputs),
                called={"keras": "moving_variance", "pytorch": "running_var"},
            ),
        }

    def with_epsilon(self, arrays: Mapping[str, Any], epsilon: float) -> dict[str, Any]:
        variance = np.asarray(arrays["variance"], np.float64) + (epsilon - EPSILON)
        if (variance < 0).any():
            raise ConfigError(f"a running variance is too small for an epsilon of {epsilon:g}", where="BatchNorm")
        return {**arrays, "variance": variance}

    def forward(self, x: Tensor, *, training: bool = False) -> Tensor:
        gain, bias = self.offsets["gain"], self.offsets["bias"]
        if not training:
            backend = x.backend
            mean, variance = Tensor(self.state["mean"], backend), Tensor(self.state["variance"], backend)
            y = (as_dtype(x, wide(x.dtype)) - mean) * power(variance + EPSILON, -0.5) * gain + bias
            return as_dtype(y, x.dtype)
        y, mean, variance = batch_norm(x, gain, bias)
        rows = x.size // x.shape[-1] if x.size else 0
        assert self.context is not None
        if rows < 2:
            return y  # one row has no variance that could be remembered
        for name, value, scale in (("mean", mean, 1.0), ("variance", variance, rows / (rows - 1))):
            self.context.average(self.state[name], value, self.momentum, scale)
        return y

    def equation(self, value: str, place: str) -> Equation:
        normal = f"({value} - running mean) / σ, σ the running one"
        return self._equation(place, normal, f"∇n_{place} ⊙ gain_{place} / σ")


NORMS: dict[str, type[Layer]] = {"layer": LayerNorm, "batch": BatchNorm}
"""Layers that may stand between a linear layer and its activation, by the names that settings and model files use."""
