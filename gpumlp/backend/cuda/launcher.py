"""Kernels for a device: their text compiled by NVRTC through CuPy, and bound to arrays as nodes of a graph."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpumlp.backend.cuda.device import explain, explained
from gpumlp.backend.cuda.graph import Home, Launch, LaunchNode
from gpumlp.backend.geometry import ONE_BLOCK, geometry, parts, scratch
from gpumlp.backend.kernels import SUMMED, Texts, arguments, shape_of, shared_text
from gpumlp.limits import threads
from gpumlp.ops.record import Array, Op, Scalar

# Without the second, NVRTC takes a generic lambda of a device function for a function of the host.
OPTIONS = ("-std=c++17", "--device-as-default-execution-space")


class CopyNode(LaunchNode):
    """Bytes from one array to another, both in one piece."""

    def __init__(self, runtime: Any, stream: Any, source: Array, target: Array) -> None:
        self._runtime, self._stream = runtime, stream
        self.reads, self.writes = (source,), (target,)

    def put(self, stream: Any = None) -> None:
        (source,), (target,), runtime = self.reads, self.writes, self._runtime
        number = (stream or self._stream).ptr
        runtime.memcpyAsync(target.data.ptr, source.data.ptr, target.nbytes, runtime.memcpyDeviceToDevice, number)


@dataclass(frozen=True, eq=False)
class Kernel(LaunchNode):
    """A kernel with its function, its grid and its block, and all arguments, some of which it may pass over.

    Parameters
    ----------
    record, types
        The record that it is of, and the types that it is made for.
    """

    record: str
    name: str
    types: tuple[str, ...]
    function: Callable[..., None]
    grid: tuple[int, ...]
    block: tuple[int, int]
    arguments: tuple[Any, ...]
    reads: Sequence[Array]
    writes: Sequence[Array]
    home: Home

    @property
    def expression(self) -> str:
        """Its name with its types, as a compiler knows it."""
        return expression_of(self.name, self.types)

    def put(self, stream: Any = None) -> None:
        assert self.home.is_current(stream), f"{self.name} is launched outside of its backend's quiet()"
        try:
            self.function(self.grid, self.block, self.arguments)
        except Exception as error:
            if (known := explain(error, f"kernel {self.name}")) is None:
                raise
            raise known from error


@dataclass(frozen=True, eq=False)
class Kernels(Launch):
    """The kernels of a direction, one after the other."""

    kernels: Sequence[Kernel]

    @property
    def nodes(self) -> Sequence[Kernel]:
        return self.kernels


class Launcher:
    """The kernels of one device: found by record and types, compiled when first asked for, bound to arguments."""

    def __init__(self, xp: Any, home: Home, kernels: Path | None = None) -> None:
        self.seconds = 0.0  # spent on compiling
        self._xp, self._home, self.texts = xp, home, Texts(kernels)
        self._functions: dict[tuple[str, ...], dict[str, Any]] = {}
        self._begun: dict[tuple[str, ...], Future[dict[str, Any]]] = {}

    def prepare(self, kernels: Iterable[tuple[Op, tuple[str, ...]]]) -> None:
        """Begin to compile kernels in threads: the compiler lets others run. Whoever asks for one waits for its end.

        What fails is raised to who asks for it, by its name; what nobody asks for is as if it had not been begun.
        """
        pool = ThreadPoolExecutor(threads())
        for op, types in kernels:
            key = op.name, *types
            if key not in self._functions and key not in self._begun and self.texts.kernels(op):
                self._begun[key] = pool.submit(self._make_in, pool, key, *self._text_of(op, types))

    def wait(self) -> None:
        """Wait for all that is being compiled in threads: times that are taken meanwhile would be of both."""
        futures.wait(self._begun.values())

    def bind(
        self,
        op: Op,
        direction: str,
        types: tuple[str, ...],
        inputs: Sequence[Array],
        outputs: Sequence[Array],
        params: dict[str, Any],
        *,
        one_block: bool = False,
    ) -> Kernels | None:
        """Return the kernels of a direction, bound to their arguments; None where it has none.

        ``one_block`` has one block do all the work: one that makes the other calls, too, then leaves the same bits.
        """
        stages = self.texts.stages(op, direction)
        if not stages:
            return None
        definition, (rows, cols) = op.directions[direction], shape_of(op.directions[direction], inputs, outputs)
        values = arguments(definition, inputs, outputs, params)
        named = [*zip(definition.arrays, (*inputs, *outputs), strict=True)]
        if definition.launch in SUMMED:
            pieces = 1 if one_block else parts(definition.launch, rows, cols)
            named.append(("scratch", self._xp.empty(scratch(definition.launch, cols, pieces))))
            values += [named[-1][1], pieces]
        # Nothing is left to CuPy's choice: a Python number could have another size than the kernel's parameter.
        parameters = tuple(value if isinstance(value, self._xp.ndarray) else number(value) for value in values)
        functions, nodes = self._compiled(op, types), []
        for kernel, stage in stages.items():
            shape = ONE_BLOCK if one_block else geometry(stage.walk, definition.launch, rows, cols)
            touched = definition.effects(stage)
            reads, writes = ([a for name, a in named if a is not None and name in names] for names in touched)
            made_for = op.name, kernel, types, functions[kernel]
            nodes.append(Kernel(*made_for, shape.grid, shape.block, parameters, reads, writes, self._home))
        return Kernels(nodes)

    def _text_of(self, op: Op, types: tuple[str, ...]) -> tuple[Callable[[], str], dict[str, str]]:
        """Return what the kernels of a record are compiled from, and their names with the types."""
        names = {kernel: expression_of(kernel, types) for kernel in self.texts.kernels(op)}
        return lambda: f"{shared_text()}\n{self.texts.text(op.name)}", names

    def _compiled(self, op: Op, types: tuple[str, ...]) -> dict[str, Any]:
        """Return all kernels of a record by name, for one set of types."""
        key = op.name, *types
        return self._functions.get(key) or self.compiled(key, *self._text_of(op, types))

    def compiled(self, key: tuple[str, ...], text: Callable[[], str], names: Mapping[str, str]) -> dict[str, Any]:
        """Return the kernels of a text, which ``key`` stands for: ``names`` has a name and types for each."""
        if key not in self._functions:
            started = time.perf_counter()
            begun = self._begun.pop(key, None)
            self._functions[key] = self._make(key, text, names) if begun is None else begun.result()
            self.seconds += time.perf_counter() - started
        return self._functions[key]

    def _make_in(self, pool: ThreadPoolExecutor, *arguments_of_make: Any) -> dict[str, Any]:
        """Compile in a thread of a pool, whose threads end with what was submitted to it.

        The process ends when they do: from then on the pool takes nothing more, and what has not begun is left out.
        """
        pool.submit(int)  # raises RuntimeError then
        return self._make(*arguments_of_make)

    def _make(self, key: tuple[str, ...], text: Callable[[], str], names: Mapping[str, str]) -> dict[str, Any]:
        with explained(f"the kernels of {key[0]}"), self._xp.cuda.Device(self._home.device):
            module = self._xp.RawModule(code=text(), options=OPTIONS, name_expressions=tuple(names.values()))
            return {kernel: module.get_function(name) for kernel, name in names.items()}


def expression_of(kernel: str, types: Sequence[str]) -> str:
    """Return a kernel by its name and the types that it is made for."""
    return f"{kernel}<{', '.join(types)}>"


def number(value: Scalar) -> np.int64 | np.float64:
    """Return a number in the eight bytes that a kernel finds it in; 0 is the null pointer, too."""
    return np.float64(value) if isinstance(value, float) else np.int64(value)
