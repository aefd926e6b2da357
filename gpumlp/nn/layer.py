"""What a layer is: the arrays that it declares, what it computes, and what is said of it.

A layer is one class: the network, the count of parameters, the drawing, backpropagation, model files and conversion
ask it, and know no kind of layer. ``training=True`` switches dropout on and makes batch norm use (and remember) the
statistics of the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from gpumlp.autodiff import Tensor, Variable
from gpumlp.autodiff.tensor import DEFAULT_DTYPE, as_dtype
from gpumlp.backend import Backend
from gpumlp.errors import ConfigError, ShapeError
from gpumlp.nn.parameters import Group
from gpumlp.ops.hyper import Hyper
from gpumlp.ops.norms import MOVING_AVERAGE
from gpumlp.ops.precision import is_narrow, wide
from gpumlp.ops.record import Array
from gpumlp.seeds import WEIGHTS, generator

Values = np.ndarray[Any, np.dtype[np.float64]]
Indices = np.ndarray[Any, np.dtype[np.int64]]
FACTOR = Hyper(1.0, "factor of the learning rate or the weight decay", ge=0.0, lt=math.inf)


@dataclass
class Shard:
    """The part of a batch that a model computes with; by default it is the whole batch.

    Parameters
    ----------
    first
        The row of the batch that comes first.
    leave
        Takes a running average, the statistic of these rows and a factor of it, where the average is to wait for the
        other shards. None where these rows are all.
    """

    first: int = 0
    leave: Callable[[Array, Array, float], None] | None = None


@dataclass(frozen=True)
class Context:
    """What a layer needs to know of the model it stands in. ``index`` is its place among the layers."""

    backend: Backend
    dtype: Any  # of activations
    seed: int
    clock: Array  # int64 (3,) on the backend: see gpumlp.ops.batches
    index: int = 0
    shard: Shard = field(default_factory=Shard)  # one for all layers of a model

    def average(self, average: Array, value: Array, momentum: float, scale: float = 1.0) -> None:
        """Take a statistic of a batch into a running average: (1 - momentum) average + momentum scale value."""
        if self.shard.leave is not None:
            self.shard.leave(average, value, scale)
            return
        self.backend.run(
            MOVING_AVERAGE, "forward", (average, value), (average,), momentum=momentum, scale=float(scale)
        )

    @property
    def wide(self) -> Any:
        """The dtype of what is trained, remembered and predicted: float32 where ``dtype`` is bfloat16."""
        return wide(self.dtype)


@dataclass(frozen=True)
class Declared:
    """An array of a layer, before there is any memory for it.

    Parameters
    ----------
    shape
        Its shape.
    role
        ``weight``: trained, and decays. ``offset``: trained, and does not decay (biases, gains). ``state``:
        remembered, not trained.
    initial
        Returns its first values from a generator of the layer's own.
    matrix
        Whether it is a matrix (inputs, outputs), which other frameworks may keep transposed.
    called
        Its name in other frameworks, by theirs (:mod:`gpumlp.convert`); elsewhere it has the one it has here.
    rate, decay
        Factors of the learning rate and of the weight decay, each at least 0. A decay of None is 1 for a ``weight``
        and 0 for an ``offset``.
    """

    shape: tuple[int, ...]
    role: Literal["weight", "offset", "state"]
    initial: Callable[[np.random.Generator], Values]
    matrix: bool = False
    called: Mapping[str, str] = field(default_factory=dict)
    rate: float = 1.0
    decay: float | None = None

    @property
    def group(self) -> Group:
        """Its factors of learning rate and weight decay. Raises ConfigError where one is negative."""
        decay = float(self.role == "weight") if self.decay is None else self.decay
        return Group(FACTOR.check("rate of an array", self.rate), FACTOR.check("decay of an array", decay))

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Equation:
    """What a layer computes as it predicts, as a reader would write it: ``symbol = formula``.

    ``slope`` is the gradient of its input. ``arrays`` has the symbol and the gradient of each trained array, by name.
    """

    symbol: str
    formula: str
    slope: str
    arrays: Mapping[str, tuple[str, str]] = field(default_factory=dict)


class Layer:
    """Base of all layers. A subclass declares its arrays in ``declare`` and computes in ``forward``.

        class Scale(Layer):
            def declare(self, inputs):
                return {"gain": Declared((inputs,), "offset", lambda rng: np.ones(inputs))}

            def forward(self, x, *, training=False):
                return x * self.offsets["gain"]

    The arrays are made at the first input, since only then is the width known.
    """

    numbered = False
    """Whether it begins a hidden layer of the network: drawings name the values from here to the next one alike."""
    mixes_rows = False
    """Whether a row of its output depends on the other rows of the batch."""
    rows_of_each = 1
    """How many rows its output has for each row of its input."""
    cancels_bias = False
    """Whether its output stays the same where a number is added to a column of its input."""
    momentum: float | None = None
    """Share that a batch has of its running averages, where it keeps any in ``state``."""
    epsilon: float | None = None
    """What it adds to a variance, where it divides by the root of one."""
    reach = 0
    """In a Sequential, how many layers before it the layer stands whose input it takes, too: see :meth:`joined`."""
    takes: Literal["storage", "compute", "either"] = "storage"
    """In a network stored in bfloat16, the dtype of its input: that, float32, or either of them."""
    link = "identity"
    """The activation that it ends with, which becomes the model's link where the layer is the last one."""

    def __init__(self) -> None:
        self.context: Context | None = None
        self.built = False
        self.inputs = 0  # the width of its input, once it is known
        self.weights: dict[str, Variable] = {}  # trained, with weight decay
        self.offsets: dict[str, Variable] = {}  # trained, without: biases and gains
        self.groups: dict[str, Group] = {}  # factors of rate and decay of what is trained
        self.matrices: tuple[str, ...] = ()  # which weights are matrices (inputs, outputs)
        self.state: dict[str, Array] = {}  # remembered, not trained

    # ---- what a subclass says ----------------------------------------------------------------------------------

    def declare(self, inputs: int) -> Mapping[str, Declared]:
        """Return the arrays of the layer for rows of ``inputs`` values, by name, in the order they are kept in.

        Parameters
        ----------
        inputs
            Values of a row of the input.

        Returns
        -------
        dict of Declared
            By name.
        """
        return {}

    def with_epsilon(self, arrays: Mapping[str, Any], epsilon: float) -> dict[str, Any]:
        """Return arrays of the layer by which it predicts as one with another ``epsilon``, in float64.

        Raises ConfigError where there are none.

        Parameters
        ----------
        arrays
            Arrays of the layer by name.
        epsilon
            What the other layer adds to a variance.

        Returns
        -------
        dict of arrays
            float64, by name.
        """
        kind = type(self).__name__
        raise ConfigError(f"{kind} adds {self.epsilon:g} to the variance, not {epsilon:g}", hint="train it with 1e-5")

    def width(self, inputs: int) -> int:
        """Return how many values a row of the output has.

        Parameters
        ----------
        inputs
            Values of a row of the input.

        Returns
        -------
        int
        """
        return inputs

    def columns(self, columns: Indices) -> Indices:
        """Return which column of a table each value of the output is of.

        Parameters
        ----------
        columns
            The column of each value of the input, (inputs,) int64.

        Returns
        -------
        array
            (outputs,) int64.
        """
        return columns

    def forward(self, x: Tensor, *, training: bool = False) -> Tensor:
        """Return the layer's output for ``x`` (N, inputs).

        Parameters
        ----------
        x
            (N, inputs).
        training
            Whether a step is taken: dropout and the statistics of a batch.

        Returns
        -------
        Tensor
            (N, outputs).
        """
        raise NotImplementedError

    def with_following(self, x: Tensor, following: Sequence[Layer], *, training: bool) -> tuple[Tensor, int]:
        """Return an output, and the number of the following layers that it is already behind.

        A layer that can compute what comes after it in the same launch overrides this.

        Parameters
        ----------
        x
            (N, inputs).
        following
            The layers that come after it.
        training
            As of :meth:`forward`.

        Returns
        -------
        tuple of Tensor and int
        """
        return self(x, training=training), 0

    def joined(self, x: Tensor, earlier: Tensor) -> Tensor:
        """Return the output of a layer with a ``reach``, given its input and that of the layer it reaches back to.

        Parameters
        ----------
        x
            Output of the layer before, (N, inputs).
        earlier
            Output of the layer it reaches back to, (N, H).

        Returns
        -------
        Tensor
            (N, outputs).
        """
        raise NotImplementedError

    def linear(self, x: Any, *, training: bool = False) -> Tensor:
        """Return the output before the activation ``link``: what losses see of a last layer.

        Parameters
        ----------
        x
            (N, inputs).
        training
            As of :meth:`forward`.

        Returns
        -------
        Tensor
            (N, outputs).
        """
        return self(x, training=training)

    def equation(self, value: str, place: str) -> Equation | None:
        """Return what ``linear`` does to the input called ``value``; None where that is nothing in prediction.

        ``place`` ends the symbols of the hidden layer that it belongs to.

        Parameters
        ----------
        value
            Symbol of the input.
        place
            End of the symbols of the hidden layer that it belongs to.

        Returns
        -------
        Equation or None

        Raises
        ------
        ConfigError
            Where a layer has not said what it computes.
        """
        raise ConfigError(f"backpropagation through a {type(self).__name__} has no equation to be shown")

    @property
    def detail(self) -> str:
        """What a summary adds to the name of its class."""
        return ""

    # ---- what follows from that --------------------------------------------------------------------------------

    def __call__(self, x: Any, *, training: bool = False) -> Tensor:
        return self.forward(self.taken(x), training=training)

    def taken(self, x: Any) -> Tensor:
        """Return an input as a tensor in the dtype that the layer takes, and make the arrays if it is the first.

        A layer outside of a model has seed 0.

        Parameters
        ----------
        x
            A tensor, or numbers, (N, inputs).

        Returns
        -------
        Tensor
            (N, inputs).
        """
        backend = self.context.backend if self.context else None
        tensor: Tensor = x if isinstance(x, Tensor) else Tensor(x, backend)
        if tensor.ndim == 0:
            raise ShapeError("a layer takes (N, inputs), not a number")
        if self.context is None:
            dtype = tensor.dtype if tensor.differentiable else DEFAULT_DTYPE  # no weights are drawn as whole numbers
            self.context = Context(tensor.backend, dtype, 0, tensor.backend.zeros((3,), np.int64))
        if not tensor.differentiable or (is_narrow(self.context.dtype) and self.takes != "either"):
            tensor = as_dtype(tensor, self.context.wide if self.takes == "compute" else self.context.dtype)
        if not self.built:
            self.inputs = tensor.shape[-1]
            self.build(self.context, self.inputs)
            self.built = True
        return tensor

    def place(self, context: Context) -> None:
        """Put the layer into a model: it starts anew, with arrays made at the next input.

        Parameters
        ----------
        context
            Backend, dtype and seed of the model.
        """
        self.context, self.built = context, False
        self.weights, self.offsets, self.groups, self.state, self.matrices = {}, {}, {}, {}, ()

    def build(self, context: Context, inputs: int) -> None:
        """Make what the layer declares for rows of ``inputs`` values.

        Parameters
        ----------
        context
            Backend, dtype and seed of the model.
        inputs
            Values of a row of the input.
        """
        rng = generator(context.seed, WEIGHTS, context.index)
        for name, array in self.declare(inputs).items():
            values = array.initial(rng).astype(context.wide, copy=False)
            if array.role == "state":
                self.state[name] = context.backend.asarray(values, copy=True)
            else:
                variables = self.weights if array.role == "weight" else self.offsets
                variables[name] = Variable(values, context.backend, name=name)
                self.groups[name] = array.group
                self.matrices += (name,) * (array.matrix and array.role == "weight")

    @property
    def parameters(self) -> int:
        """How many numbers are trained."""
        return sum(v.size for v in (*self.weights.values(), *self.offsets.values()))


def count_trained(arrays: Iterable[Declared]) -> int:
    """Return how many numbers of declared arrays are trained."""
    return sum(array.size for array in arrays if array.role != "state")
