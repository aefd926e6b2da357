"""Layers: small objects that own variables and call taped functions.

A layer makes its variables when it first sees an input, since only then is the width known. ``training=True``
switches dropout on and makes batch norm use (and remember) the statistics of the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpumlp.autodiff import Tensor, Variable, activate, batch_norm, dense, dropout, layer_norm, power
from gpumlp.autodiff.tensor import as_dtype
from gpumlp.backend import Backend
from gpumlp.errors import ConfigError, choices
from gpumlp.nn.initializers import INITIALIZERS, default_initializer
from gpumlp.ops import record_of
from gpumlp.ops.norms import EPSILON, MOVING_AVERAGE
from gpumlp.ops.precision import wide
from gpumlp.ops.record import Array
from gpumlp.seeds import DROPOUT, WEIGHTS, generator


@dataclass(frozen=True)
class Context:
    """What a layer needs to know of the model it stands in. ``index`` is its place among the layers."""

    backend: Backend
    dtype: Any  # of inputs and activations
    seed: int
    clock: Array  # int64 (3,) on the backend: see gpumlp.ops.batches
    index: int = 0

    @property
    def wide(self) -> Any:
        """The dtype of what is trained, remembered and predicted: float32 where ``dtype`` is bfloat16."""
        return wide(self.dtype)


class Layer:
    """Base of all layers. A subclass makes its variables in ``build`` and computes in ``forward``."""

    def __init__(self) -> None:
        self.context: Context | None = None
        self.built = False
        self.weights: dict[str, Variable] = {}  # trained, with weight decay
        self.offsets: dict[str, Variable] = {}  # trained, without: biases and gains
        self.state: dict[str, Array] = {}  # remembered, not trained

    def __call__(self, x: Any, *, training: bool = False) -> Tensor:
        if not isinstance(x, Tensor):
            x = Tensor(x, self.context.backend if self.context else None)
        self.ensure_built(x)
        return self.forward(x, training=training)

    def ensure_built(self, x: Tensor) -> None:
        """Make the variables now if this is the first input; a layer outside of a model has seed 0."""
        if self.context is None:
            self.context = Context(x.backend, x.dtype, 0, x.backend.zeros((3,), np.int64))
        if not self.built:
            self.build(self.context, x.shape[-1])
            self.built = True

    def place(self, context: Context) -> None:
        """Put the layer into a model: it starts anew, with variables made at the next input."""
        self.context, self.built = context, False
        self.weights, self.offsets, self.state = {}, {}, {}

    def build(self, context: Context, inputs: int) -> None:
        """Make the variables for rows of ``inputs`` values."""

    def forward(self, x: Tensor, *, training: bool = False) -> Tensor:
        """Return the layer's output for ``x`` (N, inputs)."""
        raise NotImplementedError

    @property
    def parameters(self) -> int:
        """How many numbers are trained."""
        return sum(v.size for v in (*self.weights.values(), *self.offsets.values()))


class Dense(Layer):
    """h = f(x W + b), with W (p, H) and b (H,): (p + 1) H parameters.

    units : H
    activation : the name of f, any of gpumlp.ops.ACTIVATIONS
    initializer : a name of gpumlp.nn.INITIALIZERS, or ``auto`` for the one that suits f
    bias : False leaves b out
    """

    def __init__(
        self, units: int, activation: str = "identity", *, initializer: str = "auto", bias: bool = True
    ) -> None:
        super().__init__()
        if units < 1:
            raise ConfigError(f"a dense layer needs at least 1 unit, not {units}")
        if initializer != "auto" and initializer not in INITIALIZERS:
            raise ConfigError(f"unknown initializer {initializer!r}", hint=choices(initializer, INITIALIZERS))
        self.units, self.activation = units, record_of(activation).name
        self.initializer = default_initializer(activation) if initializer == "auto" else initializer
        self.bias = bias

    def build(self, context: Context, inputs: int) -> None:
        rng = generator(context.seed, WEIGHTS, context.index)
        W = INITIALIZERS[self.initializer](rng, inputs, self.units)
        self.weights["W"] = Variable(W.astype(context.wide), context.backend, name="W")
        if self.bias:
            self.offsets["b"] = Variable(np.zeros(self.units, context.wide), context.backend, name="b")

    def forward(self, x: Tensor, *, training: bool = False) -> Tensor:
        return dense(x, self.weights["W"], self.offsets.get("b"), self.activation)

    def linear(self, x: Tensor) -> Tensor:
        """Return x W + b, before the activation."""
        self.ensure_built(x)
        return dense(x, self.weights["W"], self.offsets.get("b"))


class Activation(Layer):
    """An activation on its own, for where something stands between it and the dense layer."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = record_of(name).name

    def forward(self, x: Tensor, *, training: bool = False) -> Tensor:
        return activate(self.name, x)


class Dropout(Layer):
    """In training, sets a share ``rate`` of its inputs to 0 and scales the others by 1 / (1 - rate)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not 0.0 <= rate < 1.0:
            raise ConfigError(f"a dropout rate lies in [0, 1), not {rate}")
        self.rate = rate

    def forward(self, x: Tensor, *, training: bool = False) -> Tensor:
        if not training or self.rate == 0.0:
            return x
        assert self.context is not None
        k0, k1 = generator(self.context.seed, DROPOUT).integers(0, 2**32, 2)
        return dropout(x, self.rate, clock=self.context.clock, stream=self.context.index, key=(int(k0), int(k1)))


class _Norm(Layer):
    def build(self, context: Context, inputs: int) -> None:
        self.offsets["gain"] = Variable(np.ones(inputs, context.wide), context.backend, name="gain")
        self.offsets["bias"] = Variable(np.zeros(inputs, context.wide), context.backend, name="bias")


class LayerNorm(_Norm):
    """Brings each row to mean 0 and variance 1, then scales and shifts: 2 H parameters."""

    def forward(self, x: Tensor, *, training: bool = False) -> Tensor:
        return layer_norm(x, self.offsets["gain"], self.offsets["bias"])


class BatchNorm(_Norm):
    """Brings each column of a batch to mean 0 and variance 1, then scales and shifts: 2 H parameters.

    Of more than two axes all but the last are rows. Outside of training it uses running averages,
    ``average ← (1 - momentum) average + momentum batch``, the variance unbiased, as PyTorch does.
    """

    def __init__(self, momentum: float = 0.1) -> None:
        super().__init__()
        self.momentum = momentum

    def build(self, context: Context, inputs: int) -> None:
        super().build(context, inputs)
        self.state["mean"] = context.backend.zeros((inputs,), context.wide)
        self.state["variance"] = context.backend.asarray(np.ones(inputs, context.wide))

    def forward(self, x: Tensor, *, training: bool = False) -> Tensor:
        gain, bias = self.offsets["gain"], self.offsets["bias"]
        if not training:
            backend = x.backend
            mean, variance = Tensor(self.state["mean"], backend), Tensor(self.state["variance"], backend)
            y = (as_dtype(x, wide(x.dtype)) - mean) * power(variance + EPSILON, -0.5) * gain + bias
            return as_dtype(y, x.dtype)
        y, mean, variance = batch_norm(x, gain, bias)
        rows = x.size // x.shape[-1] if x.size else 0
        if rows < 2:
            return y  # one row has no variance that could be remembered
        for name, value, scale in (("mean", mean, 1.0), ("variance", variance, rows / (rows - 1))):
            average = self.state[name]
            params = {"momentum": self.momentum, "scale": scale}
            x.backend.run(MOVING_AVERAGE, "forward", (average, value), (average,), **params)
        return y
