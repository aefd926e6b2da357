"""What a machine and its libraries really do: rates of copies and matrix products, costs of launches and graphs.

Each fact stands alone: one that cannot be had is told by what was raised, and the next one is asked for. Medians, on
random data. A host has the first two groups only.
"""

from __future__ import annotations

import contextlib
import importlib
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from gpumlp.backend import Backend, CupyBackend
from gpumlp.backend.cuda.cublaslt import Epilogue
from gpumlp.bench.clock import Clock
from gpumlp.bench.copies import Copies
from gpumlp.bench.machine import on_device

TINY = 'extern "C" __global__ void tiny(float* x, int n) { if (threadIdx.x < n) x[threadIdx.x] += 1.f; }'
MAXIMUM = (
    'extern "C" __global__ void maximum(float* x) { float y; '
    'asm("max.NaN.f32 %0, %1, 0f00000000;" : "=f"(y) : "f"(x[threadIdx.x])); x[threadIdx.x] = y; }'
)
WGMMA = (
    'extern "C" __global__ void fence(float* d) { asm volatile("wgmma.fence.sync.aligned;\\n'
    'wgmma.commit_group.sync.aligned;\\nwgmma.wait_group.sync.aligned 0;\\n"); d[threadIdx.x] = 1; }'
)
OFFERED = ((1024, 784, 1024), (1024, 1024, 10), (256, 256, 256), (64, 64, 64))
"""Products, as rows, what is summed over, and columns, that cuBLASLt is asked about."""
PADDED = {(1024, 1024, 10): (1024, 1024, 16), (256, 1000, 256): (256, 1008, 256), (1024, 13, 256): (1024, 16, 256)}
"""Products of ten classes, of a last batch of 1000 rows and of 13 features, and of as many as 16 divides."""
KNOWN = 16
"""Algorithms that are tried for a product."""
Fact = Callable[[], Any]


def examine(backend: Backend, *, small: bool = False) -> Iterator[tuple[str, Any]]:
    """Yield each fact by its name, with its unit in it; ``small`` asks for little of each."""
    clock = Clock(backend, 0.02 if small else 0.2)
    asked = [*_copies(backend, clock, small), *_products(backend, clock, small)]
    if on_device(backend):
        asked += [*_launches(backend.xp), *_offers(backend), *_hopper(backend.xp)]
    for name, fact in asked:
        try:
            with backend.quiet():
                yield name, fact()
        except Exception as error:
            yield name, f"{type(error).__name__}: {str(error)[:300]}"


def _copies(backend: Backend, clock: Clock, small: bool) -> Iterator[tuple[str, Fact]]:
    copies = Copies(backend, clock)

    def rate(megabytes: int) -> dict[str, float | str]:
        best = copies.at(megabytes << 20)
        return {"warm": round(best.warm / 1e9, 1), "cold": round(best.cold / 1e9, 1), "by": best.cold_by}

    for megabytes in (1,) if small else (1, 4, 16, 64, 256, 1024) if on_device(backend) else (1, 16, 64):
        yield f"copy of {megabytes} MiB, GB/s", partial(rate, megabytes)


def _products(backend: Backend, clock: Clock, small: bool) -> Iterator[tuple[str, Fact]]:
    xp = backend.xp
    shapes = [(64, 64, 64)] if small else [(1024, 784, 1024), (1024, 1024, 1024), (256, 256, 256), (4096, 256, 256)]
    if on_device(backend):
        shapes.append((8192, 8192, 8192))

    def rate(shape: tuple[int, int, int], dtype: str, tf32: bool) -> dict[str, float]:
        m, k, n = shape
        rng = np.random.default_rng(0)
        a, b = (backend.asarray(rng.standard_normal(size, np.float32).astype(dtype)) for size in ((m, k), (k, n)))
        out = backend.empty((m, n), dtype)
        with _tf32(xp) if tf32 else contextlib.nullcontext():
            seconds = clock.warm(partial(xp.matmul, a, b, out=out)).median
        return {"µs": round(1e6 * seconds, 2), "TFLOP/s": round(2 * m * k * n / seconds / 1e12, 3)}

    ways = [("float32", "float32", False)]
    if on_device(backend):
        ways += [("tf32", "float32", True), ("float16", "float16", False)]
    for name, dtype, tf32 in ways:
        for shape in shapes:
            yield f"{name} product {shape[0]} x {shape[1]} x {shape[2]}", partial(rate, shape, dtype, tf32)


@contextlib.contextmanager
def _tf32(cp: Any) -> Iterator[None]:
    """Let CuPy's products of float32 round their operands to TF32."""
    linalg = cp._core._routines_linalg
    linalg.set_compute_type(cp.float32, linalg.COMPUTE_TYPE_TF32)
    try:
        yield
    finally:
        linalg.set_compute_type(cp.float32, linalg.COMPUTE_TYPE_DEFAULT)


def _launches(cp: Any) -> Iterator[tuple[str, Fact]]:
    """What launching costs, and what a captured graph of launches costs and may hold."""
    tiny = cp.RawKernel(TINY, "tiny")
    x, y, a = cp.zeros(256, cp.float32), cp.zeros(256, cp.float32), cp.zeros((256, 256), cp.float32)
    b = cp.zeros_like(a)

    def launch() -> None:
        tiny((1,), (256,), (x, np.int32(256)))

    def on_host(call: Callable[[], object], count: int = 2000) -> float:
        call()
        cp.cuda.Device().synchronize()
        started = time.perf_counter()
        for _ in range(count):
            call()
        taken = time.perf_counter() - started
        cp.cuda.Device().synchronize()
        return round(1e6 * taken / count, 3)

    def graph(nodes: int, call: Callable[[], object] = launch) -> tuple[Any, Any]:
        stream = cp.cuda.Stream(non_blocking=True)
        with stream:
            call()
            stream.synchronize()
            stream.begin_capture()
            try:
                for _ in range(nodes):
                    call()
            except BaseException:
                with contextlib.suppress(Exception):  # or the device would wait for the end of it
                    stream.end_capture()
                raise
            return stream.end_capture(), stream

    def replay(nodes: int) -> float:
        captured, stream = graph(nodes)
        taken = []
        for _ in range(30):
            start, stop = cp.cuda.Event(), cp.cuda.Event()
            start.record(stream)
            captured.launch(stream)
            stop.record(stream)
            stop.synchronize()
            taken.append(1e3 * cp.cuda.get_elapsed_time(start, stop))
        return float(round(statistics.median(taken), 3))

    def launch_graph() -> float:
        captured, stream = graph(17)
        return on_host(lambda: captured.launch(stream), 500)

    def fork() -> str:
        one, two = cp.cuda.Stream(non_blocking=True), cp.cuda.Stream(non_blocking=True)
        there, back = cp.cuda.Event(disable_timing=True), cp.cuda.Event(disable_timing=True)
        with one:
            one.begin_capture()
            launch()
            there.record(one)
            two.wait_event(there)
            with two:
                tiny((1,), (256,), (y, np.int32(256)))
                back.record(two)
            one.wait_event(back)
            captured = one.end_capture()
            captured.launch(one)
            one.synchronize()
        return "works"

    def maximum() -> list[str]:
        values = cp.asarray(np.array([np.nan, -1.0, 2.0, -0.0], np.float32))
        cp.RawKernel(MAXIMUM, "maximum")((1,), (4,), (values,))
        return [str(value) for value in cp.asnumpy(values)]

    yield "launch of a kernel, µs of the host", partial(on_host, launch)
    yield "CuPy's add, µs of the host", partial(on_host, lambda: cp.add(x, 1, out=y))
    yield "CuPy's matmul, µs of the host", partial(on_host, lambda: cp.matmul(a, a, out=b))
    for nodes in (1, 10, 100, 700):
        yield f"graph of {nodes} kernels, µs", partial(replay, nodes)
    yield "gap between kernels of a graph, µs", lambda: round((replay(700) - replay(100)) / 600, 3)
    yield "launch of a graph of 17 kernels, µs of the host", launch_graph
    yield "capture of CuPy's matmul", lambda: str(graph(1, lambda: cp.matmul(a, a, out=b))[0])
    yield "capture of a forked stream", fork
    yield "max.NaN.f32 of NaN, -1, 2, -0", maximum


def _hopper(cp: Any) -> Iterator[tuple[str, Fact]]:
    """Whether Hopper's own instructions can be had. Last: after a kernel that fails a process can do nothing more."""

    def wgmma() -> bool:
        target = cp.zeros(128, cp.float32)
        cp.RawModule(code=WGMMA, options=("-arch=sm_90a",)).get_function("fence")((1,), (128,), (target,))
        return bool((target == 1).all())

    yield "sm_90a with wgmma compiles and runs", wgmma


def _offers(backend: Any) -> Iterator[tuple[str, Fact]]:
    """What cuBLASLt has an algorithm for, how fast it is, and whether NaN comes through its ReLU.

    ``backend.lt`` may be of one precision: TF32 is asked of a backend of its own.
    """
    narrow = bfloat16()

    def bound(given: Any, shape: tuple[int, int, int], dtypes: tuple[Any, Any], epilogue: Epilogue) -> Any:
        if given.lt is None:
            raise RuntimeError("there is no cuBLASLt")
        m, k, n = shape
        rng = np.random.default_rng(0)
        a, b = (given.asarray(rng.standard_normal(size).astype(dtypes[0])) for size in ((m, k), (k, n)))
        vector = given.zeros((n,), dtypes[1]) if epilogue.has_vector else None
        return given.lt.product(a, b, given.zeros((m, n), dtypes[1]), epilogue, vector)

    def offers(given: Any, dtypes: tuple[Any, Any], epilogue: Epilogue) -> dict[str, str]:
        found = {}
        for shape in OFFERED:
            product = bound(given, shape, dtypes, epilogue)
            told = "no" if product is None else f"{1e6 * Clock(given, 0.02).warm(product).median:.2f} µs"
            found[" x ".join(map(str, shape))] = told
        return found

    def padded(given: Any, dtypes: tuple[Any, Any]) -> dict[str, str]:
        """What would be gained if sides were filled up with zeros to a multiple of 16, and by GPUMLP_PADDING=1."""
        found, pads = {}, given.lt.pads
        for shapes in PADDED.items():
            products = []
            for shape, by_copies in ((shapes[0], False), (shapes[1], False), (shapes[0], True)):
                given.lt.pads = by_copies
                products.append(bound(given, shape, dtypes, Epilogue.DEFAULT))
            given.lt.pads = pads
            taken = [None if each is None else 1e6 * Clock(given, 0.02).warm(each).median for each in products]
            told = ["no" if each is None else f"{each:.2f} µs" for each in taken]
            found[" x ".join(map(str, shapes[0]))] = (
                f"{told[0]}, filled up {told[1]}, through padded copies {told[2]}"
            )
        return found

    def choice(given: Any, dtypes: tuple[Any, Any], epilogue: Epilogue) -> dict[str, str]:
        """How long the algorithm takes that the library advises, and the fastest of all that it knows."""
        found = {}
        for shape in OFFERED:
            if product := bound(given, shape, dtypes, epilogue):
                clock = Clock(given, 0.02)
                taken = [1e6 * clock.warm(each).median for each in product.others(KNOWN)]
                best = min(range(len(taken)), key=taken.__getitem__)
                told = f"{taken[0]:.2f} µs, the best {taken[best]:.2f} (number {best + 1} of {len(taken)})"
                found[" x ".join(map(str, shape))] = told
        return found

    def specials(given: Any, dtypes: tuple[Any, Any], epilogue: Epilogue) -> dict[str, str]:
        """What becomes of NaN, -0, inf and -inf as a bias of zeros: by rights NaN, 0, inf, 0."""
        found = {}
        for shape in OFFERED:
            product = bound(given, shape, dtypes, epilogue)
            if product is None:
                continue
            given.write(product.a, np.zeros(product.a.shape))
            bias = np.resize(np.array([np.nan, -0.0, np.inf, -np.inf]), product.vector.shape)
            given.write(product.vector, bias)
            with given.quiet():
                product()
            out = given.to_host(product.out).astype(np.float64)
            same = bool(np.array_equal(out, np.broadcast_to(np.maximum(bias, 0), out.shape), equal_nan=True))
            found[" x ".join(map(str, shape))] = f"{out[0, :4].tolist()}, {'as NumPy' if same else 'NOT as NumPy'}"
        return found

    types: dict[str, tuple[Any, Any]] = {"float32": (np.float32, np.float32), "float64": (np.float64, np.float64)}
    types["tf32"] = types["float32"]
    if narrow is not None:
        types |= {"bf16": (narrow, narrow), "bf16 into float32": (narrow, np.float32)}
    for name, dtypes in types.items():
        given = CupyBackend(backend.device.id, tf32=True) if name == "tf32" else backend
        for epilogue in Epilogue:
            yield f"cuBLASLt {epilogue.name} of {name}", partial(offers, given, dtypes, epilogue)
        relu = f"cuBLASLt {Epilogue.RELU_BIAS.name} of {name}: NaN, -0, inf, -inf"
        yield relu, partial(specials, given, dtypes, Epilogue.RELU_BIAS)
        yield f"padding to 16 of {name}", partial(padded, given, dtypes)
        if name in ("tf32", "bf16"):
            for epilogue in (Epilogue.RELU_BIAS, Epilogue.BGRADA):
                asked = f"cuBLASLt {epilogue.name} of {name}: the algorithm advised"
                yield asked, partial(choice, given, dtypes, epilogue)
        if dtypes[0] == dtypes[1]:
            square = given.zeros((40, 40), dtypes[0])
            yield f"cuBLASLt keeps nan, of {name}", partial(given.trials.keeps_nan, square, square, square[0])


def bfloat16() -> Any:
    """Return ml_dtypes' bfloat16, or None where that is not installed."""
    try:
        return np.dtype(importlib.import_module("ml_dtypes").bfloat16)
    except ImportError:
        return None
