"""A cuBLASLt in NumPy: it computes from the descriptions that it was given, and from nothing else.

The functions take what ctypes hands over. Memory is read and written by columns, as the layouts say, so that a wrong
leading dimension, transposition or size gives a wrong product, or lies outside of every array.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from backend.fake_cupy import Cupy

SUCCESS, INVALID_VALUE, NOT_SUPPORTED = 0, 7, 15
FLOAT, DOUBLE, BF16 = 0, 1, 14
SIZE = {FLOAT: 4, DOUBLE: 8, BF16: 2}
RELU, BIAS, BGRADA = 2, 4, 256
ALGORITHM, ALGORITHMS = 0xA1607, 3
DESCRIPTION = {3: 4, 4: 4, 7: 4, 8: 8}  # attribute: bytes, from cublasLt.h
LAYOUT = {5: 4, 6: 8}
PREFERENCE = {1: 8, 3: 4, 5: 4, 6: 4, 7: 4, 8: 4}
COMPUTE = {68: FLOAT, 77: FLOAT, 70: DOUBLE}  # and the type of alpha and beta


@dataclass
class Made:
    """A description, a layout or a preference: what it was made with, and what was set."""

    arguments: tuple[int, ...]
    attributes: dict[int, int] = field(default_factory=dict)


class CublasLt:
    """The library. ``offered`` are the epilogues that there is an algorithm for; ``fails`` names a function."""

    def __init__(self, cupy: Cupy) -> None:
        self.cupy = cupy
        self.offered = {1, 4, 6, BGRADA}
        self.keeps_nan = True
        self.refused: dict[int, int] = {}  # what a product with an epilogue answers
        self.unknown: dict[int, int] = {}  # what the question for its algorithm answers
        self.fails: dict[str, int] = {}
        self.made: dict[int, Made] = {}
        self.chosen: list[tuple[int, ...]] = []
        self.products: list[tuple[int, int]] = []
        self.sizes: list[tuple[int, int, int]] = []  # of the results, by columns
        self.workspaces: dict[int, set[int]] = {}  # by the number of the stream
        self._next = 1

    _name = "/usr/lib/libcublasLt.so.12"

    def cublasLtGetVersion(self) -> int:  # noqa: N802
        return 120901

    def __getattr__(self, name: str) -> Any:
        kind = name.removeprefix("cublasLt")
        for ending in ("Create", "Destroy", "SetAttribute"):
            if kind.endswith(ending):
                act = getattr(self, f"_{ending.lower()}")
                return lambda *given: self.fails.get(name) or act(kind.removesuffix(ending), *given)
        raise AttributeError(name)

    def _create(self, kind: str, place: Any, *arguments: int) -> int:
        if kind == "MatmulDesc":
            assert COMPUTE[arguments[0]] == arguments[1]
        number, self._next = self._next, self._next + 1
        self.made[number] = Made(arguments)
        place._obj.value = number
        return SUCCESS

    def _destroy(self, kind: str, number: int) -> int:
        del self.made[number]
        return SUCCESS

    def _setattribute(self, kind: str, number: int, attribute: int, value: Any, size: int) -> int:
        wanted = {"MatmulDesc": DESCRIPTION, "MatrixLayout": LAYOUT, "MatmulPreference": PREFERENCE}[kind]
        assert wanted[attribute] == size == ctypes.sizeof(value._obj)
        self.made[number].attributes[attribute] = value._obj.value or 0
        return SUCCESS

    def cublasLtMatmulAlgoGetHeuristic(  # noqa: N802
        self,
        handle: int,
        description: int,
        a: int,
        b: int,
        c: int,
        d: int,
        preference: int,
        wanted: int,
        found: Any,
        count: Any,
    ) -> int:
        if status := self.fails.get("cublasLtMatmulAlgoGetHeuristic"):
            return status
        assert handle in self.made
        assert c == d
        assert len(found) == wanted
        epilogue = self.made[description].attributes[7]
        given = self.made[preference].attributes
        assert given[1] == 32 << 20
        shapes = [self.made[each].arguments for each in (a, b, d)]
        for (kind, _, _, _), attribute in zip(shapes, (5, 6, 8), strict=True):
            assert given[attribute] % SIZE[kind] == 0
        self.chosen.append((epilogue, *(n for shape in shapes for n in shape)))
        if epilogue not in self.offered:
            return self.unknown.get(epilogue, NOT_SUPPORTED)
        count._obj.value = min(wanted, ALGORITHMS)
        for number in range(count._obj.value):
            found[number].algo.data[0], found[number].state = ALGORITHM + number, SUCCESS
        return SUCCESS

    def cublasLtMatmul(  # noqa: N802
        self,
        handle: int,
        description: int,
        alpha: Any,
        a: int,
        a_layout: int,
        b: int,
        b_layout: int,
        beta: Any,
        c: int,
        c_layout: int,
        d: int,
        d_layout: int,
        algorithm: Any,
        workspace: int,
        size: int,
        stream: int,
    ) -> int:
        if status := self.fails.get("cublasLtMatmul"):
            return status
        own, current = self.made[description], self.cupy.stream
        assert handle in self.made
        assert (c, c_layout) == (d, d_layout)
        assert ALGORITHM <= algorithm._obj.data[0] < ALGORITHM + ALGORITHMS
        assert self.cupy.streams[stream] is current, "the stream is an argument here: it must be the current one"
        number = ctypes.c_double if COMPUTE[own.arguments[0]] == DOUBLE else ctypes.c_float
        assert isinstance(alpha._obj, number)
        assert isinstance(beta._obj, number)
        assert (alpha._obj.value, beta._obj.value) == (1, 0)
        self.workspaces.setdefault(stream, set()).add(workspace)
        settings, compute = dict(own.attributes), own.arguments[0]
        if settings[7] in self.refused:
            return self.refused[settings[7]]
        layouts = [self.made[each].arguments for each in (a_layout, b_layout, d_layout)]
        batches = [self.made[each].attributes for each in (a_layout, b_layout, d_layout)]
        (many,) = {each.get(5, 1) for each in batches}
        steps = [each.get(6, 0) * SIZE[layout[0]] for each, layout in zip(batches, layouts, strict=True)]

        def work() -> None:
            self.cupy.check_alive(workspace, size)
            self.products.append((settings[7], compute))
            self.sizes.append((settings[7], layouts[2][1], layouts[2][2]))
            for number in range(many):
                one(*(place + number * step for place, step in zip((a, b, d), steps, strict=True)))

        def one(a: int, b: int, d: int) -> None:
            left, right = (
                self._read(place, shape).T if settings[op] else self._read(place, shape)
                for place, shape, op in zip((a, b), layouts, (3, 4), strict=False)
            )
            with np.errstate(all="ignore"):
                result = left @ right
                if settings[7] & BIAS:
                    kind, rows = layouts[2][:2]
                    result = result + self._read(settings[8], (kind, rows, 1, rows))
                if settings[7] & RELU:
                    result = np.maximum(result, 0) if self.keeps_nan else np.fmax(result, 0)
                self._matrix(d, layouts[2])[...] = result
                if settings[7] == BGRADA:
                    kind, rows = layouts[2][:2]
                    self._matrix(settings[8], (kind, rows, 1, rows))[...] = left.sum(axis=1, keepdims=True)

        current.use("product")
        current.give("product", work)
        return SUCCESS

    def _matrix(self, place: int, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        """Return a matrix stored by columns as an array (rows, cols) of its memory."""
        kind, rows, cols, ld = shape
        assert ld >= rows
        length = (cols - 1) * ld + rows
        self.cupy.check_alive(place, length * SIZE[kind])
        raw = (ctypes.c_char * (length * SIZE[kind])).from_address(place)
        dtype: Any = bfloat16() if kind == BF16 else {FLOAT: np.float32, DOUBLE: np.float64}[kind]
        flat: np.ndarray[Any, Any] = np.frombuffer(memoryview(raw), dtype)
        step = flat.itemsize
        return np.lib.stride_tricks.as_strided(flat, (rows, cols), (step, ld * step))

    def _read(self, place: int, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        return self._matrix(place, shape).astype(np.float64)


def bfloat16() -> Any:
    """Return ml_dtypes' bfloat16, which only some tests need."""
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)
