"""What a network computes, as a graph of NumPy functions: found by running it once on arrays that note what is done.

So no layer and no activation is written down here again. What their formulas are made of has a form in NumPy anyway,
and in ONNX where :mod:`gpumlp.export.graph` has one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpumlp.autodiff import Tensor, stack
from gpumlp.autodiff.tensor import wrap
from gpumlp.backend import Backend
from gpumlp.errors import GpumlpError, RunError
from gpumlp.nn import Ensemble, Sequential
from gpumlp.nn.members import mean_of_members
from gpumlp.ops.record import Array, Op
from gpumlp.ops.special import Derivative, Formula

EXAMPLE_ROWS = 2
_serial = itertools.count()


@dataclass(frozen=True, eq=False)
class Constant:
    """A number, or an array that does not depend on the rows; ``name`` where the network knows it by one."""

    value: Any
    name: str | None = None


@dataclass(frozen=True, eq=False)
class Application:
    """A value that depends on the rows: a NumPy function (``function`` is its name) of others, or the input.

    Parameters
    ----------
    shape
        With the number of rows of the example.
    expansion
        The same value by functions of NumPy, where ``function`` is one of :mod:`gpumlp.ops.special`.
    """

    function: str
    operands: tuple[Application | Constant, ...]
    params: Mapping[str, Any]
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    expansion: Application | None = None
    serial: int = field(default_factory=lambda: next(_serial))


INPUT = "input"
_OF_OTHERS = (INPUT, "slice", "reshape", "transpose")  # whose memory is that of another array


class UnwritableError(Exception):
    """A computation does what no exported file could repeat. Its text names the function."""


class Traced(np.ndarray[Any, np.dtype[Any]]):
    """An array with the node that it is the example of."""

    node: Application | None

    def __array_finalize__(self, source: object) -> None:
        self.node = None  # a view made by anything but the methods below is not known

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **params: Any) -> Any:
        if method != "__call__":
            raise UnwritableError(f"{ufunc.__name__}.{method}")
        (out,) = params.pop("out", (None,))
        result = _applied(ufunc.__name__, ufunc, inputs, params)
        if out is None:
            return result
        before = node_of(out)
        if before.function in _OF_OTHERS or (result.shape, result.dtype) != (out.shape, out.dtype):
            raise UnwritableError(f"{ufunc.__name__} into an array")
        out.view(np.ndarray)[...] = result.view(np.ndarray)
        out.node = result.node  # from here on it stands for the new values
        return out

    def __array_function__(self, function: Any, types: Any, inputs: Any, params: Any) -> Any:
        if function is np.size:
            return self.size
        if function is np.concatenate:
            return _applied("concatenate", _concatenated, inputs[0], params)
        if function is np.reshape:
            return inputs[0].reshape(*inputs[1:])
        if function is np.transpose:
            return inputs[0].transpose(*inputs[1:])
        return _applied(function.__name__, function, inputs, params)

    def __getitem__(self, index: Any) -> Any:
        indices = index if isinstance(index, tuple) else (index,)
        indices = indices[:-1] if indices and indices[-1] is Ellipsis else indices
        if not all(each is None or (isinstance(each, slice) and each.step is None) for each in indices):
            raise UnwritableError(f"the index {index!r}")
        whole = tuple(None if each is None else (each.start, each.stop) for each in indices)
        return _applied("slice", lambda x, index: x[_slices(index)], (self,), {"index": whole})

    @property
    def T(self) -> Any:  # noqa: N802
        return self.transpose(tuple(reversed(range(self.ndim))))

    def reshape(self, *shape: Any, **params: Any) -> Any:
        """Return the values in another shape, whose first axis counts rows: as many as there will be."""
        _, *rest = self.view(np.ndarray).reshape(*shape).shape
        return _applied("reshape", lambda x, shape: np.reshape(x, shape), (self,), {"shape": (-1, *rest)})

    def transpose(self, *axes: Any) -> Any:
        """Return the array with its axes in another order."""
        order = axes[0] if isinstance(axes[0], tuple) else axes
        return _applied("transpose", np.transpose, (self,), {"axes": order})

    def astype(self, dtype: Any, *args: Any, **params: Any) -> Any:
        if np.dtype(dtype) == self.dtype:
            return self
        return _applied("astype", lambda x, dtype: x.astype(dtype), (self,), {"dtype": np.dtype(dtype)})


def traced(value: NDArray[Any], node: Application) -> Traced:
    """Return an array that notes what is done to it."""
    array = value.view(Traced)
    array.node = node
    return array


def as_input(value: NDArray[Any]) -> Traced:
    """Return an array as what a graph begins with."""
    return traced(value, Application(INPUT, (), {}, value.dtype, value.shape))


def node_of(value: Any) -> Application:
    """Return the node of a traced array. Raises UnwritableError where it is lost."""
    if not isinstance(value, Traced) or value.node is None:
        raise UnwritableError("a result that does not depend on its input, or a view of it")
    return value.node


def _applied(name: str, function: Callable[..., Any], inputs: Sequence[Any], params: Mapping[str, Any]) -> Traced:
    """Return what a function makes of arrays, some of them traced, and note it."""
    params = {key: value for key, value in params.items() if value is not None}
    if "out" in params or "where" in params:
        raise UnwritableError(f"{name} into an array")
    operands = tuple(node_of(each) if isinstance(each, Traced) else Constant(each) for each in inputs)
    value = np.asarray(
        function(*(each.view(np.ndarray) if isinstance(each, Traced) else each for each in inputs), **params)
    )
    return traced(value, Application(name, operands, params, value.dtype, value.shape))


def _slices(index: Sequence[tuple[int | None, int | None] | None]) -> tuple[slice | None, ...]:
    return tuple(None if each is None else slice(*each) for each in index)


def _concatenated(*parts: Any, axis: int) -> Any:
    return np.concatenate(parts, axis=axis)


class _Module:
    """NumPy, but for the functions of :mod:`gpumlp.ops.special`, which are noted as a whole, too."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def smooth(self, formula: Formula, derivative: Derivative, x: Any) -> Any:
        """Return the value of a function that has a name."""
        y = formula(self, x)
        if not isinstance(x, Traced):
            return y
        node = Application(formula.__name__, (node_of(x),), {}, y.dtype, y.shape, expansion=node_of(y))
        return traced(y.view(np.ndarray), node)


class Tracer(Backend):
    """The reference backend, which lets traced arrays through: what is computed from them is new, and not copied."""

    name = "export"

    def run(
        self, op: Op, direction: str, inputs: Sequence[Array], outputs: Any = None, **params: Any
    ) -> tuple[Array, ...]:
        if not any(isinstance(each, Traced) for each in inputs):
            return super().run(op, direction, inputs, outputs, **params)
        with self.quiet():
            return tuple(op.directions[direction].formula(_Module(), *inputs, **params))

    def compute(
        self, name: str, function: Callable[..., Array], *inputs: Any, out: Any = None, **params: Any
    ) -> Array:
        parts = itertools.chain.from_iterable(each if isinstance(each, list | tuple) else (each,) for each in inputs)
        if not any(isinstance(each, Traced) for each in parts):
            return super().compute(name, function, *inputs, out=out, **params)
        with self.quiet():
            return function(*inputs, out=None, **params)


@dataclass(frozen=True, eq=False)
class Computation:
    """What a network computes: from its input to the last linear values, and to the predictions that these stand for.

    Parameters
    ----------
    named
        Parameters and running averages by name.
    """

    input: Application
    linear: Application
    answer: Application
    named: Mapping[str, NDArray[Any]]

    @cached_property
    def names(self) -> Mapping[Address, str]:
        """The names by where the arrays lie in memory."""
        return {address_of(array): name for name, array in self.named.items()}


def trace_network(network: Sequential | Ensemble) -> Computation:
    """Return what a network computes that was built on a :class:`Tracer`.

    Raises
    ------
    RunError
        If a layer does what cannot be written down; the message names it.
    """
    tracer, dtype = network.context.backend, network.context.dtype
    example = np.linspace(-1.0, 1.0, EXAMPLE_ROWS * network.widths[0]).reshape(EXAMPLE_ROWS, -1)
    start = as_input(example.astype(dtype))
    names = {id(layer): name for name, layer in network.layers().items()}
    outputs = [_trace_layers(member, wrap(start, tracer), names) for member in network.networks]
    try:
        x = mean_of_members(network.link, stack(outputs, axis=1))
        answer = node_of(network.answer(x).array)
    except (UnwritableError, GpumlpError) as error:
        raise RunError(f"the activation {network.link} cannot be exported: it uses {error}") from None
    arrays = {name: array for member in network.networks for name, array in _arrays_of(member, names).items()}
    return Computation(node_of(start), node_of(x.array), answer, arrays)


def _trace_layers(network: Sequential, x: Tensor, names: Mapping[int, str]) -> Tensor:
    """Return the last linear values of one network."""
    outputs = network.outputs(x)
    for layer in network.chain:
        try:
            x = next(outputs)
            node_of(x.array)
        except (UnwritableError, GpumlpError) as error:
            kind = type(layer).__name__
            raise RunError(f"the layer {names[id(layer)]} ({kind}) cannot be exported: it uses {error}") from None
    return x


def _arrays_of(network: Sequential, names: Mapping[int, str]) -> dict[str, NDArray[Any]]:
    """Return parameters and running averages of one network, by the names of the layers in the whole."""
    arrays: dict[str, NDArray[Any]] = {}
    for layer in network.layers().values():
        trained = {key: variable.array for group in (layer.weights, layer.offsets) for key, variable in group.items()}
        arrays |= {f"{names[id(layer)]}.{key}": array for key, array in (trained | layer.state).items()}
    return arrays


def trace_function(function: Callable[[Any], Any], width: int) -> tuple[Application, Application]:
    """Return input and result of a function of (N, width) float64 to the same."""
    start = as_input(np.linspace(-1.0, 1.0, EXAMPLE_ROWS * width).reshape(EXAMPLE_ROWS, width))
    return node_of(start), node_of(function(start))


def reachable(results: Iterable[Application]) -> list[Application]:
    """Return the nodes that results are computed from, themselves among them, each after its operands."""
    nodes: dict[int, Application] = {}
    waiting = list(results)
    while waiting:
        node = waiting.pop()
        if node.serial not in nodes:
            nodes[node.serial] = node
            waiting += [each for each in (*node.operands, node.expansion) if isinstance(each, Application)]
    return [nodes[serial] for serial in sorted(nodes)]


def expanded(results: Iterable[Application], unexpanded: Collection[str] = ()) -> tuple[Application, ...]:
    """Return results computed by functions of NumPy alone, and by special functions of the names ``unexpanded``."""
    results = tuple(results)
    new: dict[Application, Application] = {}
    for node in reachable(results):
        if node.expansion is not None and node.function not in unexpanded:
            new[node] = new[node.expansion]
            continue
        operands = tuple(new[each] if isinstance(each, Application) else each for each in node.operands)
        same = operands == node.operands and node.expansion is None
        new[node] = node if same else replace(node, operands=operands, expansion=None)
    return tuple(new[node] for node in results)


Address = tuple[Any, ...]


def address_of(value: Any) -> Address:
    """Return where an array lies in memory, as what: the same for all views of the whole of it."""
    array = np.asarray(value)
    return array.__array_interface__["data"][0], array.shape, array.dtype.str
