"""The CuPy backend: the kernels' text, compiled by NVRTC for the device at hand, and launched by CuPy.

What has no kernel, or comes in a shape or dtype that its kernel does not take, runs in the reference's formula on
CuPy's arrays; products of matrices are cuBLAS's. Nothing is copied to the host unasked.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpumlp.backend import device as devices
from gpumlp.backend.base import Backend
from gpumlp.backend.device import explain, explained
from gpumlp.backend.kernels import SUMMED, Texts, arguments, shape_of, shared_text, template_types
from gpumlp.backend.launch import geometry, parts, scratch
from gpumlp.errors import BackendError
from gpumlp.ops.batches import ADVANCE
from gpumlp.ops.record import Array, Op, Scalar

# Without the second, NVRTC takes a generic lambda of a device function for a function of the host.
OPTIONS = ("-std=c++17", "--device-as-default-execution-space")


class CupyBackend(Backend):
    """Arrays and operations on one NVIDIA device, by its number.

    Raises BackendError, with the mend, where there is no CuPy, no driver, no device that answers, or no compiler.
    """

    name = "cupy"

    def __init__(self, device: int = 0, kernels: Path | None = None) -> None:
        super().__init__()
        self.xp = devices.load()
        self.device = devices.choose(self.xp, device)
        self._launcher = Launcher(self.xp, kernels)
        # One kernel and one of CuPy's own: both of their compilers are there, and the device runs what they make.
        clock = self.zeros((3,), np.int64)
        self.run(ADVANCE, "forward", (clock,), (clock,))
        if self.to_host(self.compute("add", self.xp.add, clock, clock)).tolist() != [2, 2, 0]:
            raise BackendError("the device computes wrongly", where=self._where, hint=devices.INSTEAD)

    @staticmethod
    def is_installed() -> bool:
        return devices.is_installed()

    @property
    def seconds_building(self) -> float:
        return self._launcher.seconds

    @property
    def memory(self) -> int | None:
        with self.quiet():
            return int(self.xp.cuda.runtime.memGetInfo()[1])

    @property
    def _where(self) -> str:
        return f"device {self.device.id}"

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """Return a context in which arrays are made on this device, and what CuPy raises is explained."""
        with explained(self._where), self.device:
            yield

    def asarray(self, values: Any, dtype: Any = None, *, copy: bool = False) -> Array:
        if self.owns(values):
            self._refuse_strangers("asarray", values)
        return super().asarray(values, dtype, copy=copy)

    def to_host(self, array: Array) -> np.ndarray[Any, Any]:
        self._refuse_while_capturing("a read on the host")
        with self.quiet():
            return np.array(self.xp.asnumpy(array))

    def compute(
        self, name: str, function: Callable[..., Array], *inputs: Any, out: Array | None = None, **params: Any
    ) -> Array:
        self._refuse_strangers(name, *inputs, out)
        return super().compute(name, function, *inputs, out=out, **params)

    def bind(
        self, op: Op, direction: str, inputs: Sequence[Array], outputs: Sequence[Array], params: dict[str, Any]
    ) -> Callable[[], None]:
        self._refuse_strangers(op.entry(direction), *inputs, *outputs)
        types = template_types(op.directions[direction], inputs, outputs)
        with self.quiet():
            launch = types and self._launcher.bind(op, direction, types, inputs, outputs, params)
        return launch or super().bind(op, direction, inputs, outputs, params)

    def _refuse_strangers(self, name: str, *values: Any) -> None:
        """Refuse arrays of the host or of another device: a kernel would read whatever has their address here."""
        for value in values:
            if isinstance(value, np.ndarray):
                raise BackendError(
                    f"{name} is given an array {value.shape} that lies on the host",
                    where=self._where,
                    hint="backend.asarray brings it to the device",
                )
            if self.owns(value) and value.device.id != self.device.id:
                raise BackendError(
                    f"{name} is given an array {value.shape} that lies on device {value.device.id}",
                    where=self._where,
                    hint="bring it here through the host: backend.asarray(other.to_host(array))",
                )


class Launcher:
    """The kernels of one device: found by record and types, compiled when first asked for, bound to arguments."""

    def __init__(self, xp: Any, kernels: Path | None = None) -> None:
        self.seconds = 0.0  # spent on compiling
        self._xp, self._texts = xp, Texts(kernels)
        self._functions: dict[tuple[str, tuple[str, ...]], dict[str, Any]] = {}

    def bind(
        self,
        op: Op,
        direction: str,
        types: tuple[str, ...],
        inputs: Sequence[Array],
        outputs: Sequence[Array],
        params: dict[str, Any],
    ) -> Callable[[], None] | None:
        """Return a function without arguments that launches the kernels of a direction; None where it has none."""
        stages = self._texts.stages(op, direction)
        if not stages:
            return None
        made, (rows, cols) = op.directions[direction], shape_of(op.directions[direction], inputs, outputs)
        values = arguments(made, inputs, outputs, params)
        if made.launch in SUMMED:
            pieces = parts(made.launch, rows, cols)
            values += [self._xp.empty(scratch(made.launch, cols, pieces)), pieces]
        # Nothing is left to CuPy's choice: a Python number could have another size than the kernel's parameter.
        given = tuple(value if isinstance(value, self._xp.ndarray) else number(value) for value in values)
        functions, launches = self._compiled(op, types), []
        for kernel in stages:
            shape = geometry(kernel, made.launch, rows, cols)
            launches.append((kernel, functions[kernel], shape.grid, shape.block))

        def launch() -> None:
            for kernel, function, grid, block in launches:
                try:
                    function(grid, block, given)
                except Exception as error:
                    if (known := explain(error, f"kernel {kernel}")) is None:
                        raise
                    raise known from error

        return launch

    def _compiled(self, op: Op, types: tuple[str, ...]) -> dict[str, Any]:
        """Return all kernels of a record by name, for one set of types."""
        key = op.name, types
        if key not in self._functions:
            started = time.perf_counter()
            names = {kernel: f"{kernel}<{', '.join(types)}>" for kernel in self._texts.kernels(op)}
            module = self._xp.RawModule(
                code=f"{shared_text()}\n{self._texts.text(op.name)}",
                options=OPTIONS,
                name_expressions=tuple(names.values()),
            )
            with explained(f"the kernels of {op.name}"):
                self._functions[key] = {kernel: module.get_function(name) for kernel, name in names.items()}
            self.seconds += time.perf_counter() - started
        return self._functions[key]


def number(value: Scalar) -> np.int64 | np.float64:
    """Return a number in the eight bytes that a kernel finds it in; 0 is the null pointer, too."""
    return np.float64(value) if isinstance(value, float) else np.int64(value)
