"""Every error a user can meet: what happened, where, and what to do about it.

The command line prints ``str(error)`` and exits with ``error.exit_code``; it never shows a traceback
for one of these. Anything else that escapes is a defect in gpumlp.
"""

from __future__ import annotations

import difflib
import re
import signal
import sys
from collections.abc import Iterable, Sequence

LISTED = 40
"""Names that a message lists at most: a table may have thousands of columns."""

ALIASES = {
    "swish": "silu",
    "linear": "identity",
    "logistic": "sigmoid",
    "lrelu": "leaky_relu",
    "mse": "squared_error",
    "l2": "squared_error",
    "mean_squared_error": "squared_error",
    "mae": "absolute_error",
    "l1": "absolute_error",
    "mean_absolute_error": "absolute_error",
    "smooth_l1": "huber",
    "pinball": "quantile",
    "poisson_nll": "poisson",
    "mape": "absolute_percentage_error",
    "mean_absolute_percentage_error": "absolute_percentage_error",
    "focal_loss": "focal",
    "svm": "hinge",
    "multi_margin": "hinge",
    "categorical_hinge": "hinge",
    "ce": "cross_entropy",
    "bce": "cross_entropy",
    "nll": "cross_entropy",
    "log_loss": "cross_entropy",
    "binary_crossentropy": "cross_entropy",
    "categorical_crossentropy": "cross_entropy",
    "sparse_categorical_crossentropy": "cross_entropy",
    "nag": "nesterov",
    "sgdm": "momentum",
    "lr": "learning_rate",
    "binary": "classification",
    "multiclass": "classification",
    "classifier": "classification",
    "regressor": "regression",
    "multi_label": "multilabel",
    "reduce_on_plateau": "plateau",
    "cosine_annealing": "cosine",
    "steplr": "step",
    "he": "he_normal",
    "glorot": "glorot_uniform",
    "lecun": "lecun_normal",
    "xavier": "glorot_uniform",
    "xavier_uniform": "glorot_uniform",
    "xavier_normal": "glorot_normal",
    "kaiming": "he_uniform",
    "kaiming_uniform": "he_uniform",
    "kaiming_normal": "he_normal",
    "batchnorm": "batch",
    "batch_norm": "batch",
    "layernorm": "layer",
    "layer_norm": "layer",
    "zscore": "standard",
    "z-score": "standard",
    "standardize": "standard",
    "fp32": "float32",
    "fp64": "float64",
    "double": "float64",
    "fp16": "bf16",
    "bfloat16": "bf16",
    "cuda": "cupy",
    "gpu": "cupy",
    "cpu": "native",
}
"""Names of activations, losses and so on in other libraries, and what they are called here."""

_RUN_TOGETHER = {re.sub(r"[\W_]|(?<=.)lr$", "", name): meant for name, meant in ALIASES.items()}
_RUN_TOGETHER |= {"crossentropy": "cross_entropy", "crossentropyloss": "cross_entropy"}

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""Characters that move a cursor, colour or reorder text; newlines and tabs are not among them."""


def printable(text: str) -> str:
    """Return a text with control characters escaped, so that no name or path can change what a terminal shows."""
    return _CONTROL.sub(lambda match: repr(match[0])[1:-1], text)


QUOTED = 100
"""Characters of a cell that a message quotes at most."""


class GpumlpError(Exception):
    """Base of all errors that gpumlp raises on purpose.

    Parameters
    ----------
    what
        One sentence that says what is wrong, with the offending value in it.
    where
        The place: ``file``, ``file:line:column``, a setting such as ``optimizer.name``.
    hint
        What to do, the allowed values, or the nearest right name.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        self.what, self.where, self.hint = what, where, hint
        head = f"{where}: {what}" if where else what
        super().__init__(printable(f"{head}\n  {hint}" if hint else head))


class ConfigError(GpumlpError):
    """A setting, an option or a configuration file is wrong (exit code 2)."""

    exit_code = 2


class DataError(GpumlpError):
    """A data file is missing, damaged, or does not fit the task (exit code 3)."""

    exit_code = 3


class BackendError(GpumlpError):
    """A backend is not available, or does not support an operation."""


class CaptureError(BackendError):
    """A step did something that cannot be replayed."""


class ShapeError(GpumlpError):
    """Arrays do not fit together, or do not fit the operation."""


class TapeError(GpumlpError):
    """A gradient was asked for that no tape can give."""


class RunError(GpumlpError):
    """A run folder or a model file is missing, damaged or in the way, or a run could not go on."""


class DamageError(RunError):
    """A file of a run or of a model is missing, or not as it was written."""


class WriteError(RunError):
    """A file or folder of a run cannot be written: the disk is full, or it is not ours to write."""


class Note(str):
    """Something true and worth saying that is not an error: one sentence, and the column of the data that it is on.

    Whoever finds one returns it. The command line prints it; ``Result.notes``, ``--json`` and the run folder have it.
    """

    __slots__ = ("column",)
    column: str | None

    def __new__(cls, text: str, column: str | None = None) -> Note:
        note = super().__new__(cls, text)
        note.column = column
        return note

    def of(self, part: str) -> Note:
        """Return the note with the part of the data that it is on before it."""
        return Note(f"{part}: {self}", self.column)

    def to_json(self) -> dict[str, str | None]:
        """Return the fields for JSON."""
        return {"text": str(self), "column": self.column}


class SignalError(KeyboardInterrupt):
    """SIGINT (Ctrl-C) or SIGTERM has ended a run. What it had done is saved where it had begun.

    Like any KeyboardInterrupt this is no Exception: it is not what is caught where errors are dealt with.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def exit_code(interrupt: KeyboardInterrupt) -> int:
    """Return 128 and the number of the signal, as shells have it: 130 after Ctrl-C, 143 after SIGTERM."""
    return 128 + (interrupt.number if isinstance(interrupt, SignalError) else signal.SIGINT)


def has_mask(value: object) -> bool:
    """Return whether a value is a masked array of NumPy, whose module takes 8 ms to import and is there if one is."""
    # Another thread may be importing it, which has no masked array yet.
    return isinstance(value, getattr(sys.modules.get("numpy.ma"), "MaskedArray", ()))


def shown(text: str) -> str:
    """Return a text from a data file as messages quote it: in quotes, cut off after ``QUOTED`` characters."""
    return repr(text) if len(text) <= QUOTED else f"{text[:QUOTED]!r}... ({len(text):,} characters)"


def nearest(name: object, allowed: Iterable[str]) -> str | None:
    """Return the allowed name closest to ``name``, ignoring case, or None. Names of other libraries are known."""
    allowed = list(map(str, allowed))
    if name is None:
        return None
    plain = str(name).lower()
    for alias in (ALIASES.get(plain), _RUN_TOGETHER.get(re.sub(r"[\W_]|(?<=.)lr$", "", plain))):
        if alias in allowed:
            return alias
    by_small_letters: dict[str, str] = {}
    for each in allowed:
        by_small_letters.setdefault(each.lower(), each)
    matches = difflib.get_close_matches(str(name).lower(), by_small_letters, n=1, cutoff=0.6)
    return by_small_letters[matches[0]] if matches else None


def in_words(values: Sequence[object]) -> str:
    """Return two values or more as they stand in a sentence: ``2, 7 and 13``."""
    *first, last = map(str, values)
    return f"{', '.join(first)} and {last}"


def listed(values: Iterable[object], most: int = LISTED, separator: str = ", ") -> str:
    """Return the first values, and how many more there are: ``a, b and 3 more``."""
    texts = cut(values, most)
    return separator.join(texts) if len(texts) <= most else separator.join(texts[:-1]) + separator[-1] + texts[-1]


def cut(values: Iterable[object], most: int = LISTED) -> list[str]:
    """Return the first values as texts, and after them how many more there are, such as ``and 3 more``."""
    texts = list(map(str, values))
    hidden = len(texts) - most
    return [*texts[:most], f"and {hidden:,} more"] if hidden > 0 else texts


def choices(name: object, allowed: Iterable[str]) -> str:
    """Return a hint for a wrong name: the nearest right one first, then what is allowed (the first ``LISTED``)."""
    allowed = list(allowed)
    if not allowed:
        return "there is nothing to choose from"
    close = nearest(name, allowed)
    short = (a if len(a) <= QUOTED else a[:QUOTED] + "..." for a in map(str, allowed))
    listing = "allowed: " + listed(a if a.isprintable() and "," not in a else repr(a) for a in short)
    return f"did you mean {shown(close)}? {listing}" if close else listing
