"""Several networks that share their hidden layers, as one network: factors, heads, and the mean of what they predict.

    Sequential([MemberScale(32), Dense(512, "relu"), Dense(512, "relu"), MemberHeads(3, "softmax")])

The first layer makes a row for each member of every row; the last one returns the values of each member in training,
(N, k, K), and those of their mean in prediction, (N, K).

Source: Gorishniy et al. 2024, "TabM: Advancing tabular deep learning with parameter-efficient ensembling",
arXiv:2410.24210.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gpumlp.autodiff import Tensor, activate, exp, log, log1p, max, mean, member_dense, member_scale, minimum, sum
from gpumlp.autodiff.functions import abs
from gpumlp.autodiff.tensor import as_dtype
from gpumlp.errors import ConfigError, ShapeError
from gpumlp.nn.layer import Declared, Equation, Layer, Values
from gpumlp.nn.layers import STANDARD, Dense
from gpumlp.ops import record_of
from gpumlp.ops.hyper import whole

SHARES = {
    "none": "nothing: networks of their own",
    "hidden": "the hidden layers, with factors of the inputs and a last layer of each (TabM-mini)",
    "weights": "the weights of the hidden layers, with factors, biases and a last layer of each (TabM)",
}
"""What members have in common, by name."""

MEMBERS_AXIS = 1
"""The axis of linear values (N, k, K) that counts the members."""


def _log_mean_exp(z: Tensor) -> Tensor:
    """Return log(mean exp z) over the members, which neither overflows nor underflows."""
    top = max(z, axis=MEMBERS_AXIS, keepdims=True)
    return top + log(mean(exp(z - top), axis=MEMBERS_AXIS, keepdims=True))


def _mean(z: Tensor) -> Tensor:
    return mean(z, axis=MEMBERS_AXIS)


def _mean_softmax(z: Tensor) -> Tensor:
    """Return log p, p the mean of softmax(z): these linear values have the probabilities p."""
    shifted = z - max(z, axis=-1, keepdims=True)
    return _log_mean_exp(shifted - log(sum(exp(shifted), axis=-1, keepdims=True)))


def _mean_sigmoid(z: Tensor) -> Tensor:
    """Return log p - log(1 - p), p the mean of sigmoid(z). Both logarithms come from z: 1 - p may round to 0."""
    rest = log1p(exp(-abs(z)))
    return _log_mean_exp(minimum(z, 0.0) - rest) - _log_mean_exp(minimum(-z, 0.0) - rest)


MEANS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": _mean,
    "sigmoid": _mean_sigmoid,
    "softmax": _mean_softmax,
}
"""Linear values whose prediction is the mean of the members' predictions, by output activation."""


def mean_of_members(link: str, linear: Tensor) -> Tensor:
    """Return the linear values (N, K) whose predictions are the mean of those of several networks.

    Parameters
    ----------
    link
        The output activation, a key of ``MEANS``.
    linear
        Linear values of each network, (N, k, K).

    Raises
    ------
    ConfigError
        If there is no mean for this output activation.
    """
    if link not in MEANS:
        raise ConfigError(f"the predictions of several networks that end in {link} have no mean")
    mean = linear if linear.shape[MEMBERS_AXIS] == 1 else MEANS[link](linear)
    return mean.reshape(len(linear), linear.shape[-1])


FirstFactors = Callable[[np.random.Generator, tuple[int, int]], Values]
"""Returns factors of members, (k, p), from a generator and this shape."""


def random_signs(rng: np.random.Generator, shape: tuple[int, int]) -> Values:
    """Return 1 and -1, each as likely."""
    return np.where(rng.random(shape) < 0.5, -1.0, 1.0)


def random_normals(rng: np.random.Generator, shape: tuple[int, int]) -> Values:
    """Return normal factors."""
    return rng.standard_normal(shape)


def by_column(draw: FirstFactors, layers: Sequence[Layer], columns: Sequence[int]) -> FirstFactors:
    """Return what draws one factor for all values of a column of a table, of each member.

    Parameters
    ----------
    draw
        Returns a factor for each column.
    layers
        The layers between the inputs and the factors.
    columns
        The column of each input of the network; (): one for each input.
    """

    def initial(rng: np.random.Generator, shape: tuple[int, int]) -> Values:
        inputs = layers[0].inputs if layers else shape[1]
        of_values = np.asarray(columns or range(inputs), np.int64)
        for layer in layers:
            of_values = layer.columns(of_values)
        different, numbers = np.unique(of_values, return_inverse=True)
        return draw(rng, (shape[0], len(different)))[:, numbers]

    return initial


def ones(rng: np.random.Generator, shape: tuple[int, int]) -> Values:
    """Return 1 everywhere."""
    return np.ones(shape)


class MemberScale(Layer):
    """Multiplies the values of each of k members by factors of its own, (k, p), and may add biases: a row for each.

    Parameters
    ----------
    count
        Number of members, k.
    bias
        Whether biases (k, p) are added, which start at 0.
    first
        Whether the input has one row for all members, (N, p), and not a row of each, (N k, p).
    initial
        Returns the first factors from a generator and their shape.
    """

    def __init__(
        self,
        count: int,
        *,
        bias: bool = False,
        first: bool = True,
        initial: FirstFactors = random_signs,
    ) -> None:
        super().__init__()
        self.count, self.bias, self.first = whole("the number of members", count), bias, first
        self.initial = initial
        self.rows_of_each = self.count if first else 1

    def declare(self, inputs: int) -> Mapping[str, Declared]:
        shape = self.count, inputs
        factors = Declared(shape, "weight", lambda rng: self.initial(rng, shape))
        if not self.bias:
            return {"factors": factors}
        bias = Declared(shape, "offset", lambda rng: np.zeros(shape))
        return {"factors": factors, "bias": bias}

    def forward(self, x: Tensor, *, training: bool = False) -> Tensor:
        if not self.first:
            if len(x.array) % self.count:
                raise ShapeError(f"{len(x.array)} rows are not those of {self.count} members")
            x = x.reshape(-1, self.count, x.shape[-1])
        return member_scale(x, self.weights["factors"], self.offsets.get("bias"))

    def equation(self, value: str, place: str) -> Equation:
        end = f"_{place}" if place else ""
        symbol, factors, bias = f"{'s' if self.bias else 'm'}{end}", f"{'S' if self.bias else 'R'}{end}", f"b{end}"
        arrays = {"factors": (factors, f"Σ ∇{symbol} ⊙ {value}, over the rows of each member")}
        if self.bias:
            arrays["bias"] = bias, f"Σ ∇{symbol}, over the rows of each member"
        slope = f"Σ ∇{symbol} ⊙ {factors}, over the members" if self.first else f"∇{symbol} ⊙ {factors}"
        return Equation(symbol, f"{value} ⊙ {factors}{f' + {bias}' * self.bias}", slope, arrays)

    @property
    def detail(self) -> str:
        return f"{self.count} members"


class MemberHeads(Layer):
    """z_m = h_m W_m + b_m, with a W (p, K) and a b (K,) of each of k members.

    In training the output is that of each member, (N, k, K), in prediction that of their mean, (N, K).

    Parameters
    ----------
    count
        Number of members, k, each with a row of its own in the input (N k, p).
    units
        Outputs of each member, K.
    activation
        The output activation, a key of ``MEANS``.
    initializer, parametrization, of_two
        As those of :class:`~gpumlp.nn.Dense`; the initializer ``data`` draws, as no rows are looked at for heads.
    """

    numbered = True

    def __init__(
        self,
        count: int,
        units: int,
        activation: str = "identity",
        *,
        initializer: str = "auto",
        parametrization: str = STANDARD,
        of_two: bool = False,
    ) -> None:
        super().__init__()
        self.count, self.units = whole("the number of members", count), whole("units of a layer", units)
        self.link = record_of(activation).name
        self.one = Dense(units, activation, initializer=initializer, parametrization=parametrization, of_two=of_two)

    def declare(self, inputs: int) -> Mapping[str, Declared]:
        arrays = self.one.declare(inputs)
        return {name: self._of_each(array) for name, array in arrays.items()}

    def _of_each(self, array: Declared) -> Declared:
        """Return the arrays of all members as one, from that of one member."""

        def initial(rng: np.random.Generator) -> Values:
            return np.stack([array.initial(rng) for _ in range(self.count)])

        return replace(array, shape=(self.count, *array.shape), initial=initial, matrix=False, called={})

    def width(self, inputs: int) -> int:
        return self.units

    def forward(self, x: Tensor, *, training: bool = False) -> Tensor:
        return activate(self.link, self.linear(x, training=training))

    def linear(self, x: Any, *, training: bool = False) -> Tensor:
        """Return the values before the output activation: of each member in training, else of their mean."""
        z = member_dense(self.taken(x), self.weights["W"], self.offsets["b"])
        assert self.context is not None
        return z if training else mean_of_members(self.link, as_dtype(z, self.context.wide))

    def equation(self, value: str, place: str) -> Equation:
        z, W, b = f"z_{place}", f"W_{place}", f"b_{place}"
        slope = f"g_m = the gradient of {value}_m {W}_m + {b}_m of member m"
        arrays = {"W": (W, f"{value}_mᵀ g_m, {slope}"), "b": (b, "g_m")}
        return Equation(z, f"the mean prediction, of {value}_m {W}_m + {b}_m for each m", f"g_m {W}_mᵀ", arrays)

    @property
    def detail(self) -> str:
        return f"{self.count} members, {self.link}"
