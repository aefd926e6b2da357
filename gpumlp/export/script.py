"""A trained model as one Python file that needs only NumPy: ``standalone.py`` with the model filled in."""

from __future__ import annotations

import base64
import pprint
import runpy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpumlp.data import ArrayTable, Frame, Source
from gpumlp.data.encoding.columns import TableInputs
from gpumlp.data.encoding.dates import CYCLES
from gpumlp.data.encoding.labels import LabelTargets
from gpumlp.data.encoding.targets import ClassTarget
from gpumlp.data.source.dialect import QUOTES
from gpumlp.errors import RunError
from gpumlp.export.encoding import INTERPOLATE, Categories, numbers_of, rewritten, trace_scaling
from gpumlp.export.trace import INPUT, Address, Application, Computation, Constant, address_of, expanded, reachable
from gpumlp.runs.model import SavedModel
from gpumlp.runs.predictor import Predictions

TEMPLATE = Path(__file__).with_name("standalone.py")
START, END = "# <model>\n", "# </model>\n"
MAX_EXPRESSION_CHARACTERS = 90
"""Characters of an expression that still becomes a part of another one."""
_INFIX = {
    "add": "+",
    "subtract": "-",
    "multiply": "*",
    "divide": "/",
    "power": "**",
    "matmul": "@",
    "greater": ">",
    "greater_equal": ">=",
    "less": "<",
    "less_equal": "<=",
    "equal": "==",
    "not_equal": "!=",
}
_SCALE = '"""Return (N, p) numbers, their gaps filled, as the network was trained on them."""'
_NETWORK = (
    '"""Return the last linear values (N, K) of encoded rows (N, p), and the predictions that they stand for."""'
)


def write_script(path: Path, model: SavedModel, computed: Computation) -> None:
    """Write a model as a Python file. Raises OSError, and RunError for what cannot be written down."""
    write_mean_script(path, [(1.0, model, computed)])


def write_mean_script(path: Path, members: Sequence[tuple[float, SavedModel, Computation]]) -> None:
    """Write the weighted mean of what models predict as a Python file. Raises as :func:`write_script` does."""
    texts: list[str] = []
    parts, alone = [], len(members) == 1
    if len({isinstance(model.encoder.inputs, TableInputs) for _, model, _ in members}) > 1:
        raise RunError("the models take rows of different kinds: columns by name, and an array")
    for number, (weight, model, computed) in enumerate(members, 1):
        suffix = "" if alone else f"_{number}"
        texts += _part(model, computed, suffix)
        parts.append(f"Part({weight!r}, MODEL{suffix}, ARRAYS{suffix}, scale{suffix}, network{suffix})")
    texts += [] if alone else ["MODEL = MODEL_1"]
    listed = "".join(f"\n    {part}," for part in parts) + "\n"
    texts.append(f"PARTS = [{parts[0] if alone else listed}]\n")
    before, _, rest = TEMPLATE.read_text(encoding="utf-8").partition(START)
    after = rest.partition(END)[2]
    text = before + "\n\n".join(texts) + "\n" + after
    path.write_bytes(text.encode("ascii", "backslashreplace"))


def _part(model: SavedModel, computed: Computation, suffix: str) -> Iterator[str]:
    """Yield the source of one model: what is known of it, its arrays, and two functions; names end in ``suffix``."""
    names = _Names(computed.names, f"ARRAYS{suffix}")
    functions = []
    encoder = model.encoder
    if block := encoder.inputs.block:
        start, scaled = trace_scaling(block.scaling, len(block.medians))
        names.arrays |= {"medians": block.medians, "flagged": block.flagged}
        functions.append(_function(f"scale{suffix}", "Any", _SCALE, start, (scaled,), names))
    else:
        functions.append(f"def scale{suffix}(x: Any) -> Any:\n    {_SCALE}\n    return x\n")
    results = computed.linear, computed.answer
    functions.append(_function(f"network{suffix}", "tuple[Any, Any]", _NETWORK, computed.input, results, names))
    fields = pprint.pformat(_fields(model, computed.input.dtype.name), width=110, sort_dicts=False)
    yield f"MODEL{suffix}: dict[str, Any] = {fields}"
    yield _arrays(names)
    yield from functions


def run_script(path: Path, model: SavedModel, source: Source) -> Predictions:
    """Return what a written file predicts of raw rows."""
    return run_mean_script(path, [model], source)


def run_mean_script(path: Path, models: Sequence[SavedModel], source: Source) -> Predictions:
    """Return what :func:`run_script` does, of a file of several models."""
    module = runpy.run_path(str(path))
    encoder = models[0].encoder
    rows: Any
    if isinstance(source, ArrayTable):
        rows = source.block(source.choose_inputs(preferred=encoder.inputs.names[0]))
    else:
        names = dict.fromkeys(name for model in models for name in model.encoder.inputs.names)
        columns = {name: _cells(source, name) for name in names}
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    predictions, more = module["_outputs"](rows)
    if encoder.labels is not None:
        return Predictions(encoder.labels.numbers(np.array(predictions, object)), more)
    if encoder.classes is None:
        shape = len(predictions), len(encoder.target_names), len(encoder.levels)
        return Predictions(np.array(predictions), None, more.reshape(shape) if encoder.levels else None)
    return Predictions(np.array([encoder.classes.index(name) for name in predictions], np.int64), more)


class _Names:
    """Names of the arrays of a file: those that the network knows, a number for all others. Each is kept once."""

    def __init__(self, known: Mapping[Address, str], table: str) -> None:
        self._known = known
        self.table = table
        self._made: dict[tuple[bytes, str, tuple[int, ...]], str] = {}
        self.arrays: dict[str, NDArray[Any]] = {}

    def of(self, value: Any) -> str:
        """Return the name of an array."""
        array = np.asarray(value)
        name = self._known.get(address_of(array))
        if name is None:
            key = array.tobytes(), array.dtype.str, array.shape
            name = self._made.setdefault(key, f"constant_{len(self._made) + 1}")
        self.arrays[name] = array
        return name

    def in_table(self, value: Any) -> str:
        """Return the expression of an array."""
        return f"{self.table}[{self.of(value)!r}]"


def _cells(frame: Frame, name: str) -> list[Any]:
    """Return a column as it is written; as numbers where these have been written anew already."""
    if name in rewritten(frame.kinds):
        numbers: list[Any] = frame.numbers(name).tolist()
        return numbers
    column = frame.columns[name].written()
    texts: list[Any] = column.texts[column.codes].tolist()
    return texts


def _fields(model: SavedModel, dtype: str) -> dict[str, Any]:
    """Return what the file is to know besides arrays: as a literal, so that anybody can read it."""
    encoder = model.encoder
    inputs, dialect, target = encoder.inputs, encoder.dialect, encoder.target
    missing = dialect.missing
    fields: dict[str, Any] = {
        "target": encoder.target_name,
        "classes": None if encoder.classes is None else list(encoder.classes),
        "values": None if encoder.class_values is None else encoder.class_values.tolist(),
        "calibration": None if model.calibration is None else model.calibration.to_state(),
        "array": not isinstance(inputs, TableInputs),
        "dtype": dtype,
        "width": encoder.width,
    }
    if isinstance(target, LabelTargets):
        columns = zip(target.names, target.columns, strict=True)
        fields["labels"] = [
            {"name": name, "classes": list(each.classes), "values": each.values.tolist()} for name, each in columns
        ]
    elif not isinstance(target, ClassTarget):
        fields["numbers"] = numbers_of(target, encoder.target_name)
        fields["levels"] = list(encoder.levels)
    if not isinstance(inputs, TableInputs):
        return fields | {"name": inputs.name, "columns": inputs.columns, "bytes": inputs.block is None}
    quote = QUOTES[dialect.quote or "double"]
    return fields | {
        "numeric": list(inputs.numeric),
        "dates": [{**each.to_state(), "cycles": [CYCLES[cycle] for cycle in each.cycles]} for each in inputs.dates],
        "categories": [asdict(Categories.of(each)) for each in inputs.one_hots],
        "plain": {name: {"thousands": k.thousands, "unit": k.unit} for name, k in rewritten(encoder.kinds).items()},
        "missing": sorted(missing.anywhere),
        "missing_among_numbers": sorted(missing.among_numbers),
        "missing_numbers": sorted(missing.values),
        "decimal": dialect.decimal or ".",
        "separator": dialect.separator or ",",
        "quote": quote,
        "header": dialect.header is not False,
        "encoding": dialect.encoding,
    }


def _arrays(names: _Names) -> str:
    lines = [f"{names.table}: dict[str, Any] = {{"]
    for name, array in names.arrays.items():
        value = array.astype(array.dtype.newbyteorder("<"))
        content = base64.encodebytes(value.tobytes()).decode("ascii")
        lines.append(f'    {name!r}: array({value.dtype.str!r}, {value.shape}, """\n{content}"""),')
    return "\n".join([*lines, "}"])


def _function(
    name: str, returns: str, docstring: str, start: Application, results: tuple[Application, ...], names: _Names
) -> str:
    """Return the source of a function of ``x``: an expression with a name for each value that is used twice."""
    results = expanded(results)
    nodes = reachable(results)
    uses: dict[Application | Constant, int] = {}
    for each in [*(operand for node in nodes for operand in node.operands), *results]:
        uses[each] = uses.get(each, 0) + 1
    texts: dict[Application, str] = {start: "x"}
    lines = [f"def {name}(x: Any) -> {returns}:", f"    {docstring}"]
    for node in nodes:
        if node.function == INPUT:
            continue
        text = _expression(node, texts, names)
        if uses[node] == 1 and node not in results and len(text) <= MAX_EXPRESSION_CHARACTERS:
            texts[node] = f"({text})" if node.function in _INFIX else text
        else:
            texts[node] = f"v{len(lines) - 1}"
            lines.append(f"    {texts[node]} = {text}")
    lines.append(f"    return {', '.join(texts[node] for node in results)}\n")
    return "\n".join(lines)


def _expression(node: Application, texts: Mapping[Application, str], names: _Names) -> str:
    parts = [texts[each] if isinstance(each, Application) else _constant(each.value, names) for each in node.operands]
    if node.function == INTERPOLATE:
        knots, scores = (f"{names.in_table(node.params[key])}.T" for key in ("knots", "scores"))
        return f"np.stack([np.interp(*each) for each in zip({parts[0]}.T, {knots}, {scores})], axis=1)"
    if node.function == "astype":
        return f"{parts[0]}.astype({node.dtype.name!r})"
    if node.function in _INFIX:
        return f"{parts[0]} {_INFIX[node.function]} {parts[1]}"
    if node.function == "reshape":  # by place, for NumPy 2.0 has another name for the shape
        return f"np.reshape({parts[0]}, {node.params['shape']})"
    if node.function == "slice":
        ends = (
            ["" if end is None else str(end) for end in each] if each else ["None"] for each in node.params["index"]
        )
        return f"{parts[0]}[{', '.join(map(':'.join, ends))}]"
    if node.function == "concatenate":
        parts = [f"({', '.join(parts)})"]
    params = [f"{key}={value!r}" for key, value in node.params.items()]
    return f"np.{node.function}({', '.join([*parts, *params])})"


def _constant(value: Any, names: _Names) -> str:
    if isinstance(value, bool | int | float):
        text = repr(value) if np.isfinite(value) else f"float('{value}')"
        return f"({text})" if text.startswith("-") else text
    return names.in_table(value)
