"""The shape of an operation: what it computes, what it keeps for backward, how it is launched.

An :class:`Op` is one fused operation. Each of its directions (``forward``, ``backward``, ...) has a pure
formula on an array module ``xp`` (NumPy, CuPy, or the taped module of :mod:`gpumlp.autodiff`), so every
backend can run it; a backend with compiled kernels looks for the entry ``<op>_<direction>`` instead.
A formula never writes into its inputs and returns one array for each declared output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from gpumlp.ops.precision import wide

Array = Any  # an array of whichever module the backend uses
Spec = tuple[tuple[int, ...], Any] | None
"""Shape and dtype of an array that does not exist yet; None for an optional output that is not wanted."""

Launch = Literal["elementwise", "rows", "columns", "total"]
"""How the kernels of an operation walk its arrays: each element alone; a row (last axis) at a time; down the columns,
which are summed up; or over rows whose sums make a few numbers."""

Walk = Literal["elementwise", "rows", "columns", "total", "finish"]
"""How one kernel does. ``finish`` makes a result of what the parts of a sum over rows have left in scratch memory."""

Scalar = int | float


@dataclass(frozen=True)
class Stage:
    """One kernel of a direction: ``ending`` follows the entry in its name.

    ``reads`` and ``writes`` name the arrays that it touches, "scratch" among them; None where it may read all inputs
    and scratch memory, and write all outputs and that.
    """

    ending: str
    walk: Walk
    reads: Sequence[str] | None = None
    writes: Sequence[str] | None = None


@dataclass(frozen=True)
class Direction:
    """One launch of an operation.

    ``formula(xp, *inputs, **params)`` returns a tuple of arrays, one for each name in ``outputs``;
    ``specs(*inputs, **params)`` gives their shapes and dtypes without computing them.
    Inputs and outputs named with a trailing ``?`` may be None.

    A kernel of the direction takes pointers to the inputs, then to the outputs (null for None), then the rows and
    columns of the array named ``over`` (by default the first input), then ``scalars(inputs, params)``: a whole number
    as int where the kernel says so, anything else as float (by default none). The dtypes of the arrays named in
    ``types`` (by default that of ``over``) are the arguments of its template; ``narrow`` kernels also take them as
    bfloat16, and the arrays named in ``wide`` are float32 then. ``accepts`` tells whether the kernel takes the shapes
    of these inputs; what it does not take, the formula does.

    Where it takes several kernels, ``stages`` are these in their order; by default there is one, which walks as
    ``launch`` says.
    """

    formula: Callable[..., tuple[Array, ...]]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    specs: Callable[..., tuple[Spec, ...]]
    launch: Launch
    over: str = ""
    types: tuple[str, ...] = ()
    narrow: bool = False
    wide: tuple[str, ...] = ()
    scalars: Callable[[Sequence[Array], Mapping[str, Any]], Sequence[Scalar]] = field(
        default=lambda inputs, params: ()
    )
    accepts: Callable[[Sequence[Array]], bool] = field(default=lambda inputs: True)
    stages: tuple[Stage, ...] = ()

    @cached_property
    def kernels(self) -> tuple[Stage, ...]:
        """The kernels of the direction, in the order in which they are launched."""
        return self.stages or (Stage("", self.launch),)

    def effects(self, stage: Stage) -> tuple[Sequence[str], Sequence[str]]:
        """Return the names of the arrays that a kernel reads, and of those that it writes."""
        count = len(self.inputs)
        reads = (*self.arrays[:count], "scratch") if stage.reads is None else stage.reads
        return reads, (*self.arrays[count:], "scratch") if stage.writes is None else stage.writes

    @cached_property
    def arrays(self) -> tuple[str, ...]:
        """The names of inputs and outputs, without the mark of what is optional."""
        return tuple(name.rstrip("?") for name in (*self.inputs, *self.outputs))

    @cached_property
    def computed(self) -> tuple[int, ...]:
        """Which inputs of a ``narrow`` direction are computed with in the dtype of the array walked over."""
        main = self.over or self.arrays[0]
        names = self.arrays[: len(self.inputs)] if self.narrow else ()
        return tuple(i for i, name in enumerate(names) if name == main or name not in self.types)


@dataclass(frozen=True)
class Op:
    """One operation of the project: its name, its meaning, and its directions."""

    name: str
    meaning: str  # the formula as a reader would write it, with its source where there is one
    directions: Mapping[str, Direction]

    def entry(self, direction: str) -> str:
        """Return the kernel entry of a direction: ``tanh`` + ``forward`` -> ``tanh_forward``."""
        return f"{self.name}_{direction}"


def like(*positions: int) -> Callable[..., tuple[Spec, ...]]:
    """Return a ``specs`` function: each output has the shape and dtype of the input at that position."""

    def specs(*inputs: Array, **_: Any) -> tuple[Spec, ...]:
        return tuple((inputs[i].shape, inputs[i].dtype) for i in positions)

    return specs


@dataclass(frozen=True)
class Activation(Op):
    """An activation: a function of one array, elementwise or (softmax) along the last axis.

    ``saves`` says what its backward reads: the ``output``, or the ``input`` where the output does not
    determine the slope. ``initializer`` names the initial weights (``gpumlp.nn.INITIALIZERS``) that keep the
    variance of signals through it. The directions with a bias fuse the addition that always comes before an
    activation and the column sum that always follows its backward.
    """

    function: Callable[[Any, Array], Array] = field(kw_only=True)
    saves: Literal["output", "input"] = field(kw_only=True)
    initializer: str = field(kw_only=True)

    @property
    def of_rows(self) -> bool:
        """Whether it works along the last axis, and not elementwise."""
        return self.directions["forward"].launch == "rows"


def activation(
    name: str,
    meaning: str,
    function: Callable[[Any, Array], Array],
    backward: Callable[[Any, Array, Array], Array],
    *,
    saves: Literal["output", "input"] = "output",
    launch: Launch = "elementwise",
    initializer: str = "he_normal",
) -> Activation:
    """Make the record of an activation from ``function(xp, x)`` and ``backward(xp, saved, dy)``."""

    def bias_forward(xp: Any, x: Array, b: Array) -> tuple[Array | None, ...]:
        z = x + b
        return function(xp, z), z if saves == "input" else None

    def bias_specs(x: Array, b: Array) -> tuple[Spec, ...]:
        spec = (x.shape, x.dtype)
        return spec, spec if saves == "input" else None

    def bias_backward(xp: Any, saved: Array, dy: Array) -> tuple[Array, ...]:
        dx = backward(xp, saved, dy)
        return dx, xp.sum(dx, axis=tuple(range(dx.ndim - 1)))

    return Activation(
        name,
        meaning,
        {
            "forward": Direction(lambda xp, x: (function(xp, x),), ("x",), ("y",), like(0), launch, narrow=True),
            "backward": Direction(
                lambda xp, saved, dy: (backward(xp, saved, dy),),
                ("saved", "dy"),
                ("dx",),
                like(1),
                launch,
                narrow=True,
            ),
            "bias_forward": Direction(bias_forward, ("x", "b"), ("y", "z?"), bias_specs, "rows", narrow=True),
            "bias_backward": Direction(
                bias_backward,
                ("saved", "dy"),
                ("dx", "db"),
                lambda saved, dy: ((dy.shape, dy.dtype), (dy.shape[-1:], wide(dy.dtype))),
                "columns",
                narrow=True,
                wide=("db",),
                stages=(
                    Stage("", "columns", ("saved", "dy"), ("dx", "scratch")),
                    Stage("_finish", "finish", ("scratch",), ("db",)),
                ),
            ),
        },
        function=function,
        saves=saves,
        initializer=initializer,
    )
