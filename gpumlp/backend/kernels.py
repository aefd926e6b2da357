"""The kernel texts: where they lie, which kernels they define, what a kernel is made for and called with."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from gpumlp.errors import BackendError
from gpumlp.ops.losses import Loss
from gpumlp.ops.record import Array, Direction, Op, Scalar, Stage

SHARED = (
    "prelude.cuh",
    "columns.cuh",
    "activation.cuh",
    "loss.cuh",
    "elementwise_loss.cuh",
    "label_loss.cuh",
    "philox.cuh",
    "mixing.cuh",
    "update.cuh",
)
TYPES = {"<f4": "float", "<f8": "double", "<i4": "int", "<i8": "long long", "|u1": "unsigned char"}
"""The C++ type of each ``dtype.str`` that kernels take."""
NARROW = "<V2"
"""The ``dtype.str`` of ml_dtypes' bfloat16, which NumPy itself does not know: 16 bits stored, computed in float."""
WIDE = {NARROW: "<f4"}
"""What numbers are computed in where that is not what they are stored as."""
ALWAYS = {
    "sums": "<f8",
    "totals": "<f8",
    "groups": "<f8",
    "rate_squares": "<f8",
    "factors": "<f8",
    "clock": "<i8",
    "starts": "<i8",
    "shadow": NARROW,
    "mask": "|u1",
}
"""Arrays whose dtype is the same in every kernel; the others have that of the array a kernel runs over."""
FORMS = {
    "advance": ["long long"],
    "accumulate": ["double"],
    "matrix_product": ["{T}, {T}, {T}", "bf16, bf16, float"],
    "gather": [f"{{T}}, {inputs}, {targets}" for inputs in ("{T}", "unsigned char") for targets in ("int", "{T}")],
}
"""What the kernels of a record are made for, where that is not one floating type: ``{T}`` stands for each."""
SUMMED = ("columns", "total")
"""Launches that sum over rows: their kernels take scratch memory and the number of parts behind all else."""

_lent: Callable[[Array], Any] = ctypes.c_char.from_buffer


def folder() -> Path | None:
    """Return the folder of the kernel texts, or None where the installation has lost it."""
    package = Path(__file__).parent.parent
    return next((path for path in (package / "kernels", package.parent / "kernels") if path.is_dir()), None)


def required_folder() -> Path:
    """Return the folder of the kernel texts. Raises BackendError where the installation has lost it."""
    path = folder()
    if path is None:
        raise BackendError("the kernel files are missing", hint="reinstall gpumlp")
    return path


def shared_text(names: Sequence[str] = SHARED) -> str:
    """Return the texts that stand in front of every kernel's own.

    Nothing is included by a compiler, so that the hash of a text is the hash of everything in it.
    """
    return _joined(required_folder(), tuple(names))


@cache
def _joined(folder: Path, names: tuple[str, ...]) -> str:
    return "\n".join((folder / name).read_text(encoding="utf-8") for name in names)


@cache
def macros() -> dict[str, tuple[str, ...]]:
    """Return, for each macro of the shared texts that defines kernels, what follows the record in their names."""
    defined = {
        name: (first, body)
        for name, first, body in re.findall(
            r"^#define (\w+)\((\w+)[^)]*\)((?:.*\\\n)*.*)", shared_text(), flags=re.MULTILINE
        )
    }

    def endings(name: str) -> tuple[str, ...]:
        first, body = defined[name]
        if other := re.match(rf"\s*(\w+)\({first}, ", body):  # a macro that is another one with more arguments
            return endings(other[1]) if other[1] in defined else ()
        return tuple(re.findall(rf"__global__ void {first}##_(\w+)\(", body))

    return {name: suffixes for name in defined if (suffixes := endings(name))}


def kernels_of(text: str) -> list[str]:
    """Return the names of the kernels that a file defines, by itself or by a macro, in their order."""
    names: list[str] = []
    for kernel, macro, name in re.findall(
        r"__global__ void (\w+)\(|^(\w+)\((\w+), [^\n]*\)$", text, flags=re.MULTILINE
    ):
        names += [kernel] if kernel else [f"{name}_{each}" for each in macros().get(macro, ())]
    return names


class Texts:
    """The kernels of one folder, by record."""

    def __init__(self, path: Path | None = None) -> None:
        self._folder = path or required_folder()
        self._kernels = cache(self._read)

    def text(self, name: str) -> str:
        """Return the text of a record's kernels; nothing where it has none."""
        file = self._folder / f"{name}.cu"
        return file.read_text(encoding="utf-8") if file.exists() else ""

    def _read(self, name: str) -> tuple[str, ...]:
        return tuple(kernels_of(self.text(name)))

    def kernels(self, op: Op) -> tuple[str, ...]:
        """Return the kernels of a record, in the order of its text."""
        return self._kernels(op.name)

    def stages(self, op: Op, direction: str) -> dict[str, Stage]:
        """Return the kernels that are launched one after the other for a direction, by name; none without a text."""
        entry, written = op.entry(direction), self.kernels(op)
        stages = {f"{entry}{stage.ending}": stage for stage in op.directions[direction].kernels}
        return stages if all(name in written for name in stages) else {}


# ---- calling -----------------------------------------------------------------------------------------------------


def template_types(
    definition: Direction, inputs: Sequence[Array], outputs: Sequence[Array]
) -> tuple[str, ...] | None:
    """Return the C++ types that the kernels are to be made for, or None where they do not take these arrays."""
    if over(definition, inputs, outputs).size == 0 or not definition.accepts(inputs):
        return None
    dtypes = []
    for array in (*inputs, *outputs):
        if array is not None and not is_plain(array):
            return None
        dtypes.append(None if array is None else array.dtype)
    main = definition.over or definition.arrays[0]
    return _types_of(
        definition.arrays, main, definition.types or (main,), definition.wide, definition.narrow, tuple(dtypes)
    )


@lru_cache(1024)
def _types_of(
    names: tuple[str, ...],
    main: str,
    generic: tuple[str, ...],
    wide: tuple[str, ...],
    narrow: bool,
    dtypes: tuple[np.dtype[Any] | None, ...],
) -> tuple[str, ...] | None:
    """Return the types that the dtypes of named arrays ask for; ``main`` is the array that a kernel runs over."""
    known = TYPES | {NARROW: "bf16"} if narrow else TYPES
    codes_of_arrays = [(name, dtype.str) for name, dtype in zip(names, dtypes, strict=True) if dtype is not None]
    codes = dict(codes_of_arrays)
    for name, code in codes_of_arrays:
        # A batch has the dtype of what it is gathered from.
        free = name in generic or name.removeprefix("batch_") in generic
        like = WIDE.get(codes[main], codes[main]) if name in wide else codes[main]
        if not (code in known if free else code == ALWAYS.get(name, like)):
            return None
    return tuple(known[codes[name]] for name in generic)


def forms(op: Op) -> list[str]:
    """Return the template arguments that a backend may ask for, with ``{T}`` for the floating type.

    The first is the usual one.
    """
    if isinstance(op, Loss):
        classes = ["{T}, int"] if op.counts_hits else []
        return [*classes, "{T}, {T}", *(["{T}, long long"] if op.link == "softmax" else [])]
    return FORMS.get(op.name, ["{T}"])


def made_for(ops: Iterable[Op], floats: Sequence[str]) -> Iterator[tuple[Op, tuple[str, ...]]]:
    """Yield operations, each with all the types that its kernels may be asked for, of these floating ones."""
    for op in ops:
        for types in dict.fromkeys(form.format(T=each) for form in forms(op) for each in floats):
            yield op, tuple(types.split(", "))


def is_plain(array: Array) -> bool:
    """Return whether an array, on the host or the device, lies in one piece and begins at a multiple of its type."""
    flags = array.flags
    if isinstance(array, np.ndarray):
        return bool(flags.c_contiguous and flags.aligned)
    return bool(flags.c_contiguous and array.data.ptr % array.itemsize == 0)


def address(array: Array) -> int:
    """Return where an array begins in memory, on the host or the device."""
    if not isinstance(array, np.ndarray):
        return int(array.data.ptr)
    try:  # in a third of the time of what always works
        return ctypes.addressof(_lent(array))
    except (TypeError, ValueError):  # read-only, with steps, empty, or of a dtype that no buffer has
        pointer: int = array.__array_interface__["data"][0]
        return pointer


def extent(array: Array) -> tuple[int, int]:
    """Return where the memory begins that the elements of an array lie in, and where it ends."""
    first = address(array)
    if array.size == 0:
        return first, first
    steps = [(n - 1) * step for n, step in zip(array.shape, array.strides, strict=True)]
    return first + sum(s for s in steps if s < 0), first + sum(s for s in steps if s > 0) + array.itemsize


def over(definition: Direction, inputs: Sequence[Array], outputs: Sequence[Array]) -> Array:
    """Return the array that the kernels run over."""
    return (*inputs, *outputs)[definition.arrays.index(definition.over)] if definition.over else inputs[0]


def shape_of(definition: Direction, inputs: Sequence[Array], outputs: Sequence[Array]) -> tuple[int, int]:
    """Return the rows and columns that the kernels run over."""
    array = over(definition, inputs, outputs)
    cols = array.shape[-1] if array.ndim else 1
    return array.size // cols, cols


def arguments(
    definition: Direction, inputs: Sequence[Array], outputs: Sequence[Array], params: Mapping[str, Any]
) -> list[Array | Scalar]:
    """Return the arguments of the kernels: arrays (0 for one that is not given), rows and columns, then numbers."""
    arrays = [0 if array is None else array for array in (*inputs, *outputs)]
    return [*arrays, *shape_of(definition, inputs, outputs), *definition.scalars(inputs, params)]
