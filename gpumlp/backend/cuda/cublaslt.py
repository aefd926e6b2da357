"""cuBLASLt by ctypes: products of matrices that may be captured, with what belongs to a layer in the same launch.

CuPy refuses cuBLAS while a stream is captured, and has no cuBLASLt. Thirteen functions are all that a product takes.

cuBLASLt stores matrices by columns, NumPy by rows; the same memory is the one matrix or the other transposed. So
C = A B is computed as Cᵀ = Bᵀ Aᵀ: nothing is moved, the operands change places.

Numbers, sizes and signatures are those of ``cublasLt.h``, ``cublas_api.h`` and ``library_types.h`` of CUDA 12.9.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.util
import logging
import os
import sys
import weakref
from collections.abc import Callable, Iterator
from ctypes import POINTER, byref, c_double, c_float, c_int, c_int32, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path
from typing import Any

from gpumlp.backend.cuda.device import INSTALL, meant
from gpumlp.backend.cuda.graph import LaunchNode
from gpumlp.backend.kernels import NARROW, address, extent
from gpumlp.errors import BackendError
from gpumlp.ops.record import Array

WORKSPACE = 32 << 20
"""Bytes that the products of a stream share, one after the other: what NVIDIA recommends for Hopper."""
MAX_ALIGNMENT = 256
"""Bytes: a larger alignment gains nothing."""

OP_N, OP_T = 0, 1  # cublasOperation_t
R_32F, R_64F, R_16BF = 0, 1, 14  # cudaDataType_t
COMPUTE_32F, COMPUTE_64F, COMPUTE_32F_FAST_TF32 = 68, 70, 77  # cublasComputeType_t
DESC_TRANSA, DESC_TRANSB, DESC_EPILOGUE, DESC_BIAS_POINTER = 3, 4, 7, 8  # cublasLtMatmulDescAttributes_t
LAYOUT_BATCH_COUNT, LAYOUT_BATCH_OFFSET = 5, 6  # cublasLtMatrixLayoutAttribute_t: int32, int64
PREF_MAX_WORKSPACE = 1  # cublasLtMatmulPreferenceAttributes_t
PREF_REDUCTION_SCHEMES = 3  # which kinds of split sums may be had; 0: none
PREF_MIN_ALIGNMENT = (5, 6, 7, 8)  # of A, B, C and D
SUCCESS, INVALID_VALUE, NOT_SUPPORTED = 0, 7, 15  # cublasStatus_t
STATUS = {
    1: "CUBLAS_STATUS_NOT_INITIALIZED",
    3: "CUBLAS_STATUS_ALLOC_FAILED",
    INVALID_VALUE: "CUBLAS_STATUS_INVALID_VALUE",
    8: "CUBLAS_STATUS_ARCH_MISMATCH",
    11: "CUBLAS_STATUS_MAPPING_ERROR",
    13: "CUBLAS_STATUS_EXECUTION_FAILED",
    14: "CUBLAS_STATUS_INTERNAL_ERROR",
    NOT_SUPPORTED: "CUBLAS_STATUS_NOT_SUPPORTED",
    16: "CUBLAS_STATUS_LICENSE_ERROR",
}

SPLIT_SUMS = 2
"""CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE. Sums that several blocks share are off unless GPUMLP_SPLIT_SUMS=1: on some
devices some are reported to lose the end, or to differ from run to run (triton-lang/triton pull request 2767)."""

PITCH = 16
"""Bytes that the rows of a matrix should begin at multiples of: others are said not to get the fastest kernels.

With GPUMLP_PADDING=1 products go through copies that lie so. Off until a device shows that it pays for the copies."""

CUDA_TYPE = {"<f4": R_32F, "<f8": R_64F, NARROW: R_16BF}
RESULTS = {(R_32F, R_32F), (R_64F, R_64F), (R_16BF, R_16BF), (R_16BF, R_32F)}
"""The types of operands and result that there is a product for."""


log = logging.getLogger(__name__)


class Epilogue(IntEnum):
    """What is done with a product before it is stored (cublasLtEpilogue_t)."""

    DEFAULT = 1
    BIAS = 4
    RELU_BIAS = 6
    BGRADA = 256
    """The vector becomes the sums of A, which is the second matrix here, over what the product sums over."""

    @property
    def has_vector(self) -> bool:
        """Whether a vector goes with it: a bias, or sums."""
        return self in (Epilogue.BIAS, Epilogue.RELU_BIAS, Epilogue.BGRADA)


class Algorithm(ctypes.Structure):
    """cublasLtMatmulAlgo_t: 64 bytes."""

    _fields_ = (("data", c_uint64 * 8),)


class Heuristic(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t: 96 bytes."""

    _fields_ = (
        ("algo", Algorithm),
        ("workspace", c_size_t),
        ("state", c_int),
        ("waves", c_float),
        ("reserved", c_int * 4),
    )


_CREATED = POINTER(c_void_p)
_SET = (c_void_p, c_int, c_void_p, c_size_t)
SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cublasLtCreate": (_CREATED,),
    "cublasLtDestroy": (c_void_p,),
    "cublasLtMatmulDescCreate": (_CREATED, c_int, c_int),
    "cublasLtMatmulDescDestroy": (c_void_p,),
    "cublasLtMatmulDescSetAttribute": _SET,
    "cublasLtMatrixLayoutCreate": (_CREATED, c_int, c_uint64, c_uint64, c_int64),
    "cublasLtMatrixLayoutDestroy": (c_void_p,),
    "cublasLtMatrixLayoutSetAttribute": _SET,
    "cublasLtMatmulPreferenceCreate": (_CREATED,),
    "cublasLtMatmulPreferenceDestroy": (c_void_p,),
    "cublasLtMatmulPreferenceSetAttribute": _SET,
    # handle, description, layouts of A, B, C and D, preference, how many are wanted; results, how many there are
    "cublasLtMatmulAlgoGetHeuristic": (*(c_void_p,) * 7, c_int, POINTER(Heuristic), POINTER(c_int)),
    # handle, description; alpha; A, B, each with its layout; beta; C, D, each with its layout; algorithm; workspace,
    # its size; stream
    "cublasLtMatmul": (*(c_void_p,) * 14, c_size_t, c_void_p),
}
"""The arguments of every function that is called here; each returns a cublasStatus_t."""


# ---- the library -------------------------------------------------------------------------------------------------


def load(major: int) -> Any:
    """Return the library for a major version of CUDA, its functions declared.

    It is looked for where CuPy's own libraries are, in NVIDIA's wheels, in the toolkit, and where the system looks.
    Raises BackendError where it is in none of these places.
    """
    for path in library_paths(major):
        try:
            return declared(ctypes.CDLL(path))
        except (OSError, AttributeError):  # not there, or too old to have every function
            continue
    raise BackendError(f"cuBLASLt for CUDA {major} cannot be loaded", where="backend cupy", hint=INSTALL)


def version(library: Any) -> str:
    """Return the version of a loaded library, as 12.9.1, and where it was found."""
    number = int(library.cublasLtGetVersion())
    return f"{number // 10000}.{number // 100 % 100}.{number % 100} from {library._name}"


def declared(library: ctypes.CDLL) -> ctypes.CDLL:
    """Tell ctypes the arguments of the functions: an address must not be taken for an int."""
    for name, arguments in SIGNATURES.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, c_int
    library.cublasLtGetVersion.argtypes, library.cublasLtGetVersion.restype = (), c_size_t
    return library


def library_paths(major: int) -> Iterator[str]:
    """Yield where the library may be, the likeliest first."""
    windows = sys.platform == "win32"
    name = f"cublasLt64_{major}.dll" if windows else f"libcublasLt.so.{major}"
    with contextlib.suppress(Exception):  # it comes with CuPy; whatever it cannot find is looked for below
        path = importlib.import_module("cuda.pathfinder").load_nvidia_dynamic_lib("cublasLt").abs_path
        if name in path:  # CuPy's, and not that of another major version beside it
            yield path
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec and spec.submodule_search_locations) or ():
        for package in ("cublas", f"cu{major}"):
            yield str(Path(folder) / package / ("bin" if windows else "lib") / name)
    if toolkit := os.environ.get("CUDA_PATH"):
        yield str(Path(toolkit) / ("bin" if windows else "lib64") / name)
    yield name


def check(function: str, status: int) -> None:
    """Raise BackendError where a function has not succeeded."""
    if status != SUCCESS:
        message = f"{function}: {STATUS.get(status, f'status {status}')}"
        hint = (
            "GPUMLP_EPILOGUES=0 has it multiply and no more, GPUMLP_CUBLASLT=0 has CuPy multiply; "
            "gpumlp doctor tests the device"
        )
        raise meant(message, "cuBLASLt") or BackendError(f"cuBLASLt failed: {message}", hint=hint)


class Owned:
    """Something that the library has made, by its address; destroyed with this object."""

    def __init__(self, library: Any, kind: str, *arguments: int) -> None:
        self._library, self._kind, handle = library, kind, c_void_p()
        check(f"cublasLt{kind}Create", getattr(library, f"cublasLt{kind}Create")(byref(handle), *arguments))
        self.address = handle.value
        # Not at exit, where CuPy and the driver may be gone already: what is left goes with the process.
        weakref.finalize(self, getattr(library, f"cublasLt{kind}Destroy"), self.address).atexit = False

    def set(self, attribute: int, value: Any) -> None:
        """Set an attribute to a number of ctypes, of exactly the size that the header gives it."""
        name = f"cublasLt{self._kind}SetAttribute"
        check(name, getattr(self._library, name)(self.address, attribute, byref(value), ctypes.sizeof(value)))


# ---- products ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MatrixLayout:
    """A matrix as cuBLASLt is told of it: stored by columns, ``ld`` elements from one to the next.

    ``op`` says whether it, or its transpose, is the transpose of the matrix by rows that it was made from.
    There are ``count`` of them, ``step`` elements from one to the next.
    """

    type: int
    rows: int
    cols: int
    ld: int
    op: int
    alignment: int
    count: int = 1
    step: int = 0


def layout(array: Array) -> MatrixLayout | None:
    """Return the layout of a matrix, or of several (count, rows, cols), or None where they do not lie so."""
    kind = CUDA_TYPE.get(array.dtype.str)
    if array.ndim == 3 and array.size:
        one, step = layout(array[0]), array.strides[0]
        if one is None or len(array) == 1:
            return one
        # What all of them share is one matrix that is repeated; nothing says that the library takes that.
        several = replace(one, count=len(array), step=step // array.itemsize)
        return replace(several, alignment=min(one.alignment, aligned(step))) if step > 0 else None
    if array.ndim != 2 or kind is None or array.size == 0:
        return None
    (rows, cols), (down, across) = array.shape, (step // array.itemsize for step in array.strides)
    alignment = aligned(address(array))
    # The step along an axis of one element means nothing.
    if (across == 1 or cols == 1) and (down >= cols or rows == 1):
        return MatrixLayout(kind, cols, rows, down if rows > 1 else cols, OP_N, alignment)
    if (down == 1 or rows == 1) and (across >= rows or cols == 1):
        return MatrixLayout(kind, rows, cols, across if cols > 1 else rows, OP_T, alignment)
    return None


def _layout(array: Array) -> MatrixLayout:
    """Return the layout of a matrix that has one."""
    of_matrix = layout(array)
    assert of_matrix is not None
    return of_matrix


def apart(out: Array, *others: Array) -> bool:
    """Return whether no byte of a matrix in one piece lies between the first and the last of the others."""
    start, end = extent(out)
    return all(last <= start or end <= first for first, last in map(extent, others))


def _whole(out: Array) -> bool:
    """Return whether results have their memory to themselves: in one piece, or those of one row side by side."""
    return bool(out.flags.c_contiguous or (out.ndim == 3 and out.transpose(1, 0, 2).flags.c_contiguous))


def _fits(vector: Array, out: Array) -> bool:
    """Return whether a vector can go with a product. To a single column some versions lose the bias.

    https://github.com/dfyz/cublaslt-bias-epilogue
    """
    alike = vector.shape == out.shape[1:] and vector.dtype == out.dtype
    return bool(alike and vector.flags.c_contiguous and vector.size > 1)


def aligned(pointer: int) -> int:
    """Return the largest power of two, up to a limit, that an address is a multiple of."""
    return min(pointer & -pointer, MAX_ALIGNMENT)


@dataclass(frozen=True)
class Shape:
    """All that an algorithm is chosen by. The operands are in cuBLASLt's order: ``left`` is the second matrix."""

    left: MatrixLayout
    right: MatrixLayout
    result: MatrixLayout
    epilogue: Epilogue
    vector: int
    """The alignment of the vector that goes with the epilogue; 0 for none."""


class Recipe:
    """How products of one shape are computed: descriptions that stay, and the algorithm that is used, or None.

    ``vector`` is the address of memory, aligned as far as any alignment counts, that the library may look at.
    """

    def __init__(self, library: Any, handle: Owned, shape: Shape, compute: int, workspace: int, vector: int) -> None:
        self.epilogue = shape.epilogue
        scale = R_64F if compute == COMPUTE_64F else R_32F
        number = c_double if scale == R_64F else c_float
        self.one, self.zero = number(1), number(0)
        self.description = Owned(library, "MatmulDesc", compute, scale)
        self.description.set(DESC_TRANSA, c_int(shape.left.op))
        self.description.set(DESC_TRANSB, c_int(shape.right.op))
        self.description.set(DESC_EPILOGUE, c_uint32(shape.epilogue))
        if shape.vector:  # what its alignment is, is asked of the address
            self.description.set(DESC_BIAS_POINTER, c_void_p(vector + shape.vector % MAX_ALIGNMENT))
        self.layouts = [
            Owned(library, "MatrixLayout", each.type, each.rows, each.cols, each.ld)
            for each in (shape.left, shape.right, shape.result)
        ]
        for descriptor, each in zip(self.layouts, (shape.left, shape.right, shape.result), strict=True):
            if each.count > 1:
                descriptor.set(LAYOUT_BATCH_COUNT, c_int32(each.count))
                descriptor.set(LAYOUT_BATCH_OFFSET, c_int64(each.step))
        preference = Owned(library, "MatmulPreference")
        preference.set(PREF_MAX_WORKSPACE, c_uint64(workspace))
        preference.set(
            PREF_REDUCTION_SCHEMES, c_uint32(SPLIT_SUMS if os.environ.get("GPUMLP_SPLIT_SUMS") == "1" else 0)
        )
        sides = (shape.left, shape.right, shape.result, shape.result)
        for attribute, side in zip(PREF_MIN_ALIGNMENT, sides, strict=True):
            preference.set(attribute, c_uint32(side.alignment))
        self._asked = library, handle, preference
        self.algorithm = next(iter(self.algorithms(1)), None)

    def algorithms(self, most: int) -> list[Algorithm]:
        """Return what the library has for this shape, at most so many, the one that it thinks the fastest first."""
        library, handle, preference = self._asked
        results, count = (Heuristic * most)(), c_int()
        left, right, result = (each.address for each in self.layouts)
        status = library.cublasLtMatmulAlgoGetHeuristic(
            handle.address,
            self.description.address,
            left,
            right,
            result,
            result,
            preference.address,
            most,
            results,
            byref(count),
        )
        if status in (INVALID_VALUE, NOT_SUPPORTED) or (status and self.epilogue != Epilogue.DEFAULT):
            return []  # without an epilogue there is another way
        check("cublasLtMatmulAlgoGetHeuristic", status)
        return [each.algo for each in results[: count.value] if each.state == SUCCESS]


class Product(LaunchNode):
    """A product bound to its arrays: ``out = a b``, then the epilogue.

    ``through`` are the arrays that it is computed in, copies of ``a``, ``b`` and ``out`` or these themselves.
    """

    multiplies = True

    def __init__(
        self,
        lt: Lt,
        recipe: Recipe,
        algorithm: Algorithm,
        a: Array,
        b: Array,
        out: Array,
        vector: Array | None,
        through: tuple[Array, Array, Array],
    ) -> None:
        self.a, self.b, self.out, self.vector = a, b, out, vector
        self._through = through
        self._lt, self._recipe, self._algorithm = lt, recipe, algorithm
        sums = recipe.epilogue == Epilogue.BGRADA
        self.writes = [out, vector] if sums else [out]
        self.reads = [a, b] if sums or vector is None else [a, b, vector]

    def others(self, most: int) -> list[Product]:
        """Return the same product by each algorithm that the library has for it, at most so many, ours first."""
        arrays = self.a, self.b, self.out, self.vector, self._through
        return [Product(self._lt, self._recipe, each, *arrays) for each in self._recipe.algorithms(most)]

    def prepare(self, stream: Any) -> None:
        self._lt.workspace(stream.ptr)

    def put(self, stream: Any = None) -> None:
        lt, recipe = self._lt, self._recipe
        stream_pointer = lt.stream if stream is None else stream.ptr
        if self.vector is not None:  # products of one shape share the description
            recipe.description.set(DESC_BIAS_POINTER, c_void_p(address(self.vector)))
        left, right, result = (each.address for each in recipe.layouts)
        a, b, within = self._through
        lt.copy(self.a, a, stream_pointer)
        lt.copy(self.b, b, stream_pointer)
        out = address(within)
        status = lt.library.cublasLtMatmul(
            lt.handle.address,
            recipe.description.address,
            byref(recipe.one),
            address(b),
            left,
            address(a),
            right,
            byref(recipe.zero),
            out,
            result,
            out,
            result,
            byref(self._algorithm),
            address(lt.workspace(stream_pointer)),
            WORKSPACE,
            stream_pointer,
        )
        check("cublasLtMatmul", status)
        lt.copy(within, self.out, stream_pointer)


class Lt:
    """The library cuBLASLt: its products on streams.

    ``stream`` is the address of the stream of products for which no other is given; each has a workspace of its own,
    made by ``empty(shape, dtype)``. ``runtime`` is CuPy's, which copies matrices.
    """

    def __init__(
        self, library: Any, stream: int, empty: Callable[[Any, Any], Array], runtime: Any, *, tf32: bool = False
    ) -> None:
        self._runtime, self.pads = runtime, os.environ.get("GPUMLP_PADDING") == "1"
        self.library, self.stream, self._empty = library, stream, empty
        self.handle = Owned(library, "")
        self._compute = {R_64F: COMPUTE_64F, R_32F: COMPUTE_32F_FAST_TF32 if tf32 else COMPUTE_32F}
        self._recipes: dict[Shape, Recipe] = {}
        self._told: set[str] = set()
        self._workspaces: dict[int, Array] = {}

    def workspace(self, stream: int) -> Array:
        """Return the workspace of a stream, by its address. It is made once, which no captured launch may do."""
        if stream not in self._workspaces:
            self._workspaces[stream] = self._empty(WORKSPACE, "u1")
        return self._workspaces[stream]

    def product(
        self,
        a: Array,
        b: Array,
        out: Array,
        epilogue: Epilogue = Epilogue.DEFAULT,
        vector: Array | None = None,
    ) -> Product | None:
        """Return the product bound to its arrays, or None where the library has none for them.

        a (m, k), b (k, n), out (m, n); the epilogue's vector (n,) is of the dtype of ``out`` and in one piece.
        Several products are one launch, without an epilogue: a (count, m, k), b (count, k, n), out (count, m, n).
        """
        assert (vector is not None) == epilogue.has_vector
        left, right, result = layout(b), layout(a), layout(out)
        if left is None or right is None or result is None or not _whole(out) or not apart(out, a, b):
            return None
        if left.type != right.type or (left.type, result.type) not in RESULTS:
            return None
        if a.shape[-1] != b.shape[-2] or out.shape[-2:] != (a.shape[-2], b.shape[-1]):
            return None
        if not a.shape[:-2] == b.shape[:-2] == out.shape[:-2]:
            return None
        if vector is not None and not (out.ndim == 2 and _fits(vector, out)):
            return None
        through = (a, b, out)
        if self.pads and out.ndim == 2:
            through = (self._padded(a, right), self._padded(b, left), self._padded(out, result))
            right, left, result = map(_layout, through)
        shape = Shape(left, right, result, epilogue, 0 if vector is None else aligned(address(vector)))
        if shape not in self._recipes:
            compute = self._compute.get(left.type, COMPUTE_32F)
            pointer = address(self.workspace(self.stream))
            self._recipes[shape] = Recipe(self.library, self.handle, shape, compute, WORKSPACE, pointer)
            if self._recipes[shape].algorithm is None and epilogue == Epilogue.DEFAULT:
                self._tell(f"cuBLASLt has no product of {a.dtype} {a.shape} and {b.shape}: CuPy's is used")
        recipe = self._recipes[shape]
        algorithm = recipe.algorithm
        return None if algorithm is None else Product(self, recipe, algorithm, a, b, out, vector, through)

    def _padded(self, array: Array, lies: MatrixLayout) -> Array:
        """Return memory for a matrix, its rows as they are stored at multiples of PITCH; itself if they lie so."""
        size = array.itemsize
        if lies.cols == 1 or (lies.ld * size % PITCH == 0 and lies.alignment >= PITCH):
            return array
        pitch = -(-lies.rows * size // PITCH) * PITCH // size
        memory = self._empty((lies.cols, pitch), array.dtype)[:, : lies.rows]
        return memory if lies.op == OP_N else memory.T

    def copy(self, source: Array, target: Array, stream: int) -> None:
        """Copy a matrix to another that is stored by rows, or by columns, as it is; nothing to itself."""
        if source is target:
            return
        one, other = _layout(source), _layout(target)
        size, kind = source.itemsize, self._runtime.memcpyDeviceToDevice
        ends = address(target), other.ld * size, address(source), one.ld * size
        self._runtime.memcpy2DAsync(*ends, one.rows * size, one.cols, kind, stream)

    def _tell(self, message: str) -> None:
        """Warn, once: there are as many recipes of a shape as there are alignments."""
        if message not in self._told:
            self._told.add(message)
            log.warning(message)
