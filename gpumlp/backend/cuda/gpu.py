"""The CuPy backend: the kernels' text, compiled by NVRTC for the device at hand, and launched by CuPy.

What has no kernel, or comes in a shape or dtype that its kernel does not take, runs in the reference's formula on
CuPy's arrays; products of matrices are cuBLASLt's, or CuPy's where it has none. Nothing is copied to the host
unasked.

Everything runs on one stream of the backend's own, in the order in which it was asked for; only reading a value waits
for it. A captured step is a CUDA graph, interrupted by what CuPy does not capture.

``GPUMLP_GRAPHS=0``, ``GPUMLP_BRANCHES=0``, ``GPUMLP_EPILOGUES=0`` and ``GPUMLP_CUBLASLT=0`` in the environment switch
off what they name.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gpumlp.backend.base import Backend, place_of, switched_on
from gpumlp.backend.capture import Plan
from gpumlp.backend.cuda import blocks, cublaslt
from gpumlp.backend.cuda import device as devices
from gpumlp.backend.cuda.branches import LANES
from gpumlp.backend.cuda.cublaslt import Epilogue, Lt, Product
from gpumlp.backend.cuda.device import explained
from gpumlp.backend.cuda.graph import ArrayCall, Home, arrays_in, joined
from gpumlp.backend.cuda.launcher import CopyNode, Launcher
from gpumlp.backend.cuda.trials import Trials
from gpumlp.backend.kernels import address, template_types
from gpumlp.errors import BackendError
from gpumlp.ops.activations import ACTIVATIONS
from gpumlp.ops.batches import ADVANCE
from gpumlp.ops.precision import wide
from gpumlp.ops.products import MATRIX_PRODUCT
from gpumlp.ops.record import Array, Op

MAX_STEPS_PER_GRAPH = 16
"""Most steps in one graph: beside as many, a launch (some µs of the host) is little."""
FUSED = {"identity": Epilogue.BIAS, "relu": Epilogue.RELU_BIAS}
"""The activations that cuBLASLt applies in the same launch as a product and its bias."""

MAX_COPY_BYTES = 32 << 20
"""Bytes of the host that are copied to the device at once."""
MAX_LAUNCHES_AHEAD = 2
"""Launches that the host may be ahead of the device."""

log = logging.getLogger(__name__)


class CupyBackend(Backend):
    """Arrays and operations on one NVIDIA device, by its number.

    Raises BackendError, with the mend, where there is no CuPy, no driver, no device that answers, or no compiler.

    Parameters
    ----------
    tf32
        Whether products of float32 may round their operands to the 10 bits of TF32.
    graphs, branches, epilogues
        Whether a captured step becomes a CUDA graph, whether launches that do not wait for each other run side by
        side in it, and whether a product takes along what belongs to its layer; None for what the environment says,
        and for branches, where that says nothing, what takes less time when a step is captured. Graphs and their
        branches change no bit of any result.
    turn
        Counts on from the device, and begins again behind the last one.
    """

    name = "cupy"

    def __init__(
        self,
        device: int = 0,
        kernels: Path | None = None,
        *,
        tf32: bool = False,
        graphs: bool | None = None,
        branches: bool | None = None,
        epilogues: bool | None = None,
        turn: int = 0,
    ) -> None:
        super().__init__()
        self.xp = devices.load()
        self.device = devices.choose(self.xp, device, turn)
        self.tf32 = tf32
        self.graphs = switched_on("GRAPHS") if graphs is None else graphs
        self.branches = branches
        if branches is None:
            self.branches = {"0": False, "1": True}.get(os.environ.get("GPUMLP_BRANCHES", ""))
        self.epilogues = switched_on("EPILOGUES") if epilogues is None else epilogues
        self._uses_lt = switched_on("CUBLASLT")
        self.one_block = False
        with explained(self._where), self.device:
            self.stream, *self._beside = (self.xp.cuda.Stream(non_blocking=True) for _ in LANES)
            self._paces, self._pace = [self.xp.cuda.Event(disable_timing=True) for _ in range(MAX_LAUNCHES_AHEAD)], 0
        self._launcher = Launcher(self.xp, Home(self.xp, self.device, self.stream), kernels)
        self.trials = Trials(self.xp, self.quiet, self._product)
        # One kernel and one of CuPy's own: both of their compilers are there, and the device runs what they make.
        clock = self.zeros((3,), np.int64)
        self.run(ADVANCE, "forward", (clock,), (clock,))
        if self.to_host(self.compute("add", self.xp.add, clock, clock)).tolist() != [2, 2, 0]:
            raise BackendError("the device computes wrong results", where=self._where, hint=devices.INSTEAD)

    @staticmethod
    def is_installed() -> bool:
        return devices.is_installed()

    @property
    def settings(self) -> dict[str, Any]:
        return {"device": self.device.id, "tf32": self.tf32}

    def in_one_block(self) -> CupyBackend:
        """Return this backend with captured steps that one block takes alone: for several small networks at once."""
        backend = object.__new__(type(self))
        vars(backend).update(vars(self), one_block=True)
        return backend

    def side_by_side(self, plans: Sequence[Plan]) -> Callable[[int], None] | None:
        steps = self._in_blocks(plans) if self.one_block else None
        if steps is None:  # what is captured from here on has the whole device
            self.one_block = False
            return None

        def run(count: int) -> None:
            with self.quiet():
                steps(count)

        return run

    def _in_blocks(self, plans: Sequence[Plan]) -> blocks.Blocks | None:
        launcher = self._launcher
        try:
            members = blocks.kernels_of(plans)
            key, first = ("whole steps", *blocks.expressions(members[0])), members[0]
            with self.quiet():
                functions = launcher.compiled(
                    key, lambda: blocks.source(launcher.texts, first), {blocks.NAME: blocks.NAME}
                )
                return blocks.Blocks(self.xp, functions[blocks.NAME], plans, members)
        except BackendError as error:
            log.warning("small networks are trained in turn, not in a block each: %s", error.what)
            return None

    @property
    def _alone(self) -> bool:
        """Whether what is called now is a part of a step that one block takes."""
        return self.one_block and self.capturing

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
        """Return a context of this device and this stream, in which what CuPy raises is explained."""
        with explained(self._where), self.device, self.stream:
            yield

    def allocate(self, shape: tuple[int, ...], dtype: Any) -> Array:
        with self.quiet():
            return super().allocate(shape, dtype)

    def duplicate(self, array: Array) -> Array:
        return self.asarray(array, copy=True)

    @property
    def device_name(self) -> str:
        with self.quiet():
            return str(self.xp.cuda.runtime.getDeviceProperties(self.device.id)["name"].decode())

    @property
    def memory_held(self) -> int:
        """Bytes that CuPy's pool has taken from the device. It gives none back, so this is the most there was."""
        with self.quiet():
            return int(self.xp.get_default_memory_pool().total_bytes())

    @property
    def together(self) -> int:
        return MAX_STEPS_PER_GRAPH if self.graphs or self.one_block else 1

    def synchronize(self) -> None:
        with self.quiet():
            self.stream.synchronize()

    def keep_pace(self) -> None:
        """Wait for what was launched two calls before this one: a signal is then answered within two of them."""
        with explained(self._where), self.device:
            event = self._paces[self._pace % MAX_LAUNCHES_AHEAD]
            if self._pace >= MAX_LAUNCHES_AHEAD:
                event.synchronize()
            event.record(self.stream)
        self._pace += 1

    def asarray(self, values: Any, dtype: Any = None, *, copy: bool = False) -> Array:
        with self._ordered_after_caller("asarray", values):
            if isinstance(values, np.ndarray) and values.nbytes > MAX_COPY_BYTES:
                return self._in_pieces(values, np.dtype(dtype or values.dtype))
            return super().asarray(values, dtype, copy=copy)

    def _in_pieces(self, values: np.ndarray[Any, Any], dtype: Any) -> Array:
        """Bring a large array to the device piece by piece, through two pinned buffers: one is filled, one copied.

        CuPy would copy through one pinned buffer of the next power of two, and keep it for later.
        """
        array, cuda = self.empty(values.shape, dtype), self.xp.cuda
        rows = max(1, MAX_COPY_BYTES * len(values) // array.nbytes)
        with self.quiet():
            buffers = [cuda.alloc_pinned_memory(rows * (array.nbytes // len(values))) for _ in range(2)]
            copied = [cuda.Event(disable_timing=True) for _ in buffers]
            try:
                for number, start in enumerate(range(0, len(values), rows)):
                    source, event = values[start : start + rows], copied[number % 2]
                    if number >= len(buffers):
                        event.synchronize()
                    piece = np.frombuffer(buffers[number % 2], dtype, source.size).reshape(source.shape)
                    np.copyto(piece, source, casting="unsafe")
                    target, kind = array[start : start + rows], cuda.runtime.memcpyHostToDevice
                    cuda.runtime.memcpyAsync(target.data.ptr, address(piece), piece.nbytes, kind, self.stream.ptr)
                    event.record(self.stream)
            finally:  # the buffers go when the copies have been made, and no earlier
                self.stream.synchronize()
        return array

    def write(self, target: Array, values: Any) -> None:
        with self._ordered_after_caller("write", values):
            super().write(target, values)

    @contextlib.contextmanager
    def _ordered_after_caller(self, name: str, values: Any) -> Iterator[None]:
        """Order our stream after the caller's, and the caller's after our read.

        So it cannot free or overwrite the array early.
        """
        if not self.owns(values):
            yield
            return
        self._refuse_strangers(name, values)
        with explained(self._where), self.device:
            theirs = self.xp.cuda.get_current_stream()
            self.stream.wait_event(theirs.record())
        yield
        if theirs != self.stream:
            with explained(self._where), self.device:
                theirs.wait_event(self.stream.record())

    def to_host(self, array: Array) -> np.ndarray[Any, Any]:
        self._refuse_while_capturing("a read on the host")
        with self.quiet():
            return np.array(self.xp.asnumpy(array))

    def compute(
        self, name: str, function: Callable[..., Array], *inputs: Any, out: Array | None = None, **params: Any
    ) -> Array:
        self._refuse_strangers(name, *inputs, out)
        return super().compute(name, function, *inputs, out=out, **params)

    def launch_of(self, again: Callable[[], Any], reads: Any, result: Array) -> ArrayCall:
        return ArrayCall(again, [*arrays_in(reads, self.owns)], [result])

    def prepare(self, kernels: Iterable[tuple[Op, tuple[str, ...]]], *, wait: bool = False) -> None:
        self._launcher.prepare(kernels)
        if wait:
            self._launcher.wait()

    def bind(
        self, op: Op, direction: str, inputs: Sequence[Array], outputs: Sequence[Array], params: dict[str, Any]
    ) -> Callable[[], None]:
        self._refuse_strangers(op.entry(direction), *inputs, *outputs)
        types = template_types(op.directions[direction], inputs, outputs)
        with self.quiet():
            launch = types and self._launcher.bind(
                op, direction, types, inputs, outputs, params, one_block=self._alone
            )
        return launch or super().bind(op, direction, inputs, outputs, params)

    # ---- products --------------------------------------------------------------------------------

    @cached_property
    def lt(self) -> Lt | None:
        """Return cuBLASLt on this stream, or None where it is switched off or cannot be loaded; the log says why."""
        if not self._uses_lt:
            return None
        try:
            with self.quiet():
                runtime = self.xp.cuda.runtime
                library = cublaslt.load(runtime.runtimeGetVersion() // 1000)
                return Lt(library, self.stream.ptr, self.xp.empty, runtime, tf32=self.tf32)
        except BackendError as error:
            log.warning("%s: CuPy multiplies instead, in float32 and between the graphs", error.what)
            return None

    def matmul(self, a: Array, b: Array, out: Array | None = None) -> Array:
        self._refuse_strangers("matmul", a, b, out)
        if out is None and a.ndim in (2, 3) and a.shape[:-2] == b.shape[:-2]:
            out = self.allocate((*a.shape[:-1], b.shape[-1]), a.dtype)
        alike = a.dtype == b.dtype and out is not None and out.dtype in (a.dtype, wide(a.dtype))
        if self._alone and out is not None and out.ndim == 2 and alike:
            turned = tuple(not m.flags.c_contiguous for m in (a, b))
            operands = [m.T if is_turned else m for m, is_turned in zip((a, b), turned, strict=True)]
            self.run(MATRIX_PRODUCT, "forward", operands, (out,), turned=turned, dtype=out.dtype)
            return out
        if product := self._product(a, b, out):
            self._call("matmul", product, (a, b), multiplies=True)
            return product.out
        return super().matmul(a, b, out)

    def dense(self, op: Op, x: Array, W: Array, b: Array) -> tuple[Array, Array | None]:
        """As in the reference; one launch where cuBLASLt adds the bias, and applies ReLU, to the product."""
        alike = x.ndim == W.ndim == 2 and x.dtype == W.dtype == b.dtype
        self._refuse_strangers("dense", x, W, b)
        if (
            self.epilogues
            and not self._alone
            and op.name in FUSED
            and alike
            and (op.name != "relu" or self.trials.keeps_nan(x, W, b))
        ):
            out = self.allocate((x.shape[0], W.shape[1]), x.dtype)
            if product := self._product(x, W, out, FUSED[op.name], b):
                self._call(f"dense_{op.name}", product, (x, W), multiplies=True)
                return out, None
        return super().dense(op, x, W, b)

    def dense_backward(
        self,
        op: Op,
        x: Array,
        W: Array,
        saved: Array,
        dy: Array,
        wants: Sequence[Any],
        dtype: Any,
    ) -> tuple[Array | None, Array | None, Array | None]:
        """As in the reference; where cuBLASLt offers that, the product that is dW sums up db on the way."""
        want_x, want_W, want_b = wants
        if not self.epilogues or self._alone or x.ndim != 2 or want_W is False or want_b is False:
            return super().dense_backward(op, x, W, saved, dy, wants, dtype)
        dz = dy if op.name == "identity" else self.allocate(dy.shape, dy.dtype)
        dW, db = place_of(want_W), place_of(want_b)
        dW = self.allocate(W.shape, dtype) if dW is None else dW
        db = self.allocate(dz.shape[1:], dW.dtype) if db is None else db
        self._refuse_strangers("dense", x, W, dy, dW, db)
        product = self._product(x.T, dz, dW, Epilogue.BGRADA, db) if db.dtype == dW.dtype else None
        if product is None:
            return super().dense_backward(op, x, W, saved, dy, wants, dtype)
        if dz is not dy:
            self.run(op, "backward", (saved, dy), (dz,))
        dx = None if want_x is False else self.matmul(dz, W.T)
        self._call("dense_gradients", product, (x.T, dz), multiplies=True)
        return dx, dW, db

    def _product(self, a: Array, b: Array, out: Array | None, *epilogue: Any) -> Product | None:
        if out is None or self.lt is None:
            return None
        with self.quiet():
            return self.lt.product(a, b, out, *epilogue)

    def copy(self, source: Array, target: Array) -> None:
        alike = source.shape == target.shape and source.dtype == target.dtype
        if self._alone and alike:
            self.run(ACTIVATIONS["identity"], "forward", (source,), (target,))
        elif alike and source.flags.c_contiguous and target.flags.c_contiguous:
            self._call("copy", CopyNode(self.xp.cuda.runtime, self.stream, source, target), (source,))
        else:
            super().copy(source, target)

    def joined(self, launches: Sequence[Callable[[], None]]) -> Sequence[Callable[[], None]]:
        if not self.graphs or self.one_block:
            return launches
        with self.quiet():
            streams = [self.stream, *(() if self.branches is False else self._beside)]
            before_timing = self._launcher.wait if self.branches is None else None
            return joined(self.xp, streams, launches, before_timing)

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
