"""A trained model as ONNX, all preprocessing inside: one input for each column, texts as strings, numbers as doubles.

Doubles, since a column may hold times or ids that differ in digits that 32-bit floats do not have; the network itself
computes in the dtype that it was trained in. The format has no operator that reads a date from a text: dates are days
since 1970-01-01, NaN where one is missing.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpumlp.data import ArrayTable, Encoder, Source
from gpumlp.data.encoding.columns import ArrayInputs, TableInputs
from gpumlp.data.encoding.dates import CYCLES, Dates
from gpumlp.data.encoding.labels import LabelTargets
from gpumlp.data.encoding.numeric import NumericBlock
from gpumlp.data.encoding.targets import ClassTarget, nearest_to_median
from gpumlp.errors import RunError
from gpumlp.export.encoding import INTERPOLATE, Categories, numbers_of, trace_scaling
from gpumlp.export.trace import INPUT, Address, Application, Computation, Constant, address_of, expanded, reachable
from gpumlp.runs.model import SavedModel
from gpumlp.runs.predictor import Predictions
from gpumlp.training.calibration import Curve, Isotonic

OPSET, ML_OPSET, IR_VERSION = 17, 3, 8
"""Of 2022: what runs a newer file runs this one, too."""
LARGEST_BYTES = 2**31 - 2**20
"""What a file of this format can hold, with some room for the graph."""

SIMPLE = {
    "add": "Add",
    "subtract": "Sub",
    "multiply": "Mul",
    "divide": "Div",
    "power": "Pow",
    "negative": "Neg",
    "reciprocal": "Reciprocal",
    "absolute": "Abs",
    "sign": "Sign",
    "exp": "Exp",
    "log": "Log",
    "sqrt": "Sqrt",
    "sin": "Sin",
    "cos": "Cos",
    "rint": "Round",
    "tanh": "Tanh",
    "maximum": "Max",
    "minimum": "Min",
    "matmul": "MatMul",
    "greater": "Greater",
    "greater_equal": "GreaterOrEqual",
    "less": "Less",
    "less_equal": "LessOrEqual",
    "equal": "Equal",
    "where": "Where",
}
"""Functions of NumPy that are one operator."""


SPECIAL = ("normal_cdf",)
"""Functions of :mod:`gpumlp.ops.special` that are written as one operator, which runtimes have in 32 bits only."""


class OnnxGraph:
    """A graph that grows: operators, constants, inputs. Values are known by their names."""

    def __init__(self, onnx: Any, taken: Iterable[str]) -> None:
        self.onnx = onnx
        self.nodes: list[Any] = []
        self.constants: dict[tuple[Any, ...], Any] = {}
        self._taken = set(taken)
        self._numbers = itertools.count(1)

    def name(self, wish: str) -> str:
        """Return a name that nothing has yet."""
        name = wish
        while name in self._taken:
            name = f"{wish}_{next(self._numbers)}"
        self._taken.add(name)
        return name

    def add(self, operator: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Add an operator; return the name of its output."""
        output = output or self.name(f"{operator.lower()}_{next(self._numbers)}")
        domain = "ai.onnx.ml" if operator == "LabelEncoder" else ""
        outputs = [output, *([self.name("places")] if operator == "TopK" else [])]  # it tells where they were, too
        node = self.onnx.helper.make_node(operator, inputs, outputs, domain=domain, **attributes)
        self.nodes.append(node)
        return output

    def constant(self, value: Any, dtype: Any = None, name: str | None = None) -> str:
        """Return the name of a constant: the same for the same."""
        array = np.asarray(value, dtype)
        texts = array.dtype.kind in "OU"
        key = (str(array.tolist()) if texts else array.tobytes()), array.dtype.str, array.shape
        if key not in self.constants:
            unique_name = self.name(name or f"constant_{len(self.constants) + 1}")
            array = array.astype(object) if texts else np.ascontiguousarray(array).reshape(array.shape)
            self.constants[key] = self.onnx.numpy_helper.from_array(array, unique_name)
        return str(self.constants[key].name)

    def cast(self, value: str, dtype: Any) -> str:
        """Return a value in another dtype."""
        return self.add("Cast", value, to=self.type_of(dtype))

    def type_of(self, dtype: Any) -> int:
        """Return the number that the format has for a dtype."""
        return int(self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def load_onnx() -> Any:
    """Return the package. Raises RunError where it is not installed."""
    try:
        for part in ("helper", "numpy_helper", "checker"):
            importlib.import_module(f"onnx.{part}")
        return importlib.import_module("onnx")
    except ImportError:
        raise RunError("writing ONNX needs the package onnx", hint="pip install 'gpumlp[onnx]'") from None


def write_onnx(path: Path, model: SavedModel, computed: Computation) -> None:
    """Write a model as ONNX. Raises OSError, and RunError for what the format cannot hold or has no operator for."""
    write_mean(path, [(1.0, model, computed)])


def write_mean(path: Path, members: Sequence[tuple[float, SavedModel, Computation]]) -> None:
    """Write the weighted mean of what models predict as ONNX. Raises as :func:`write_onnx` does."""
    onnx = load_onnx()
    size = sum(array.nbytes for _, _, computed in members for array in computed.named.values())
    if size > LARGEST_BYTES:
        raise RunError("the network is too large: a file of this format holds 2 GiB", hint="export .safetensors")
    alone, encoder = len(members) == 1, members[0][1].encoder
    graph = OnnxGraph(onnx, [name for _, model, _ in members for name in model.encoder.inputs.names])
    inputs: dict[str, Any] = {}
    outputs, each = [], []
    for _, model, computed in members:
        encoding = model.encoder.inputs
        columns, x = (
            _table(graph, model.encoder, encoding) if isinstance(encoding, TableInputs) else _array(graph, encoding)
        )
        for column in columns:
            if inputs.setdefault(column.name, column) != column:
                raise RunError(f"the models take {column.name!r} for different things: a number, a date or a text")
        x = graph.cast(x, computed.input.dtype)
        if model.encoder.input_scale != 1.0:
            x = graph.add("Mul", x, graph.constant(model.encoder.input_scale, computed.input.dtype))
        linear, answer = _write(graph, {computed.input: x}, (computed.linear, computed.answer), computed.names)
        outputs = _outputs(graph, model, linear, answer, "" if alone else "part_")
        each.append([output.name for output in outputs])
    if not alone:
        outputs = _mean(graph, encoder, [weight for weight, _, _ in members], each, outputs)
    nodes = _needed(graph.nodes, {output.name for output in outputs})
    read = {name for node in nodes for name in node.input}
    constants = [each for each in graph.constants.values() if each.name in read]  # runtimes warn of any other
    whole = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "gpumlp", list(inputs.values()), outputs, constants),
        opset_imports=[onnx.helper.make_opsetid("", OPSET), onnx.helper.make_opsetid("ai.onnx.ml", ML_OPSET)],
        ir_version=IR_VERSION,
        producer_name="gpumlp",
    )
    onnx.helper.set_model_props(whole, {"target": encoder.target_name})
    onnx.checker.check_model(whole)
    path.write_bytes(whole.SerializeToString(deterministic=True))


def _needed(nodes: Sequence[Any], names: set[str]) -> list[Any]:
    """Return the operators that outputs are computed by, in their order."""
    needed = []
    for node in reversed(nodes):
        if not names.isdisjoint(node.output):
            names |= set(node.input)
            needed.append(node)
    return needed[::-1]


def run_onnx(path: Path, model: SavedModel, source: Source) -> Predictions:
    """Return what a written file predicts of raw rows: by ONNX Runtime where it is installed, else by onnx itself."""
    return run_mean(path, [model], source)


def run_mean(path: Path, models: Sequence[SavedModel], source: Source) -> Predictions:
    """Return what :func:`run_onnx` does, of a file of several models."""
    feed = {name: values for model in models for name, values in _feed(model.encoder, source).items()}
    encoder, outputs = models[0].encoder, _run(path, feed)
    if encoder.labels is not None:
        return Predictions(encoder.labels.numbers(outputs[0]), outputs[1])
    if encoder.classes is None:
        if not encoder.levels:
            return Predictions(outputs[0], None)
        return Predictions(outputs[0], None, outputs[1].reshape(len(outputs[1]), len(encoder.target_names), -1))
    chosen = np.array([encoder.classes.index(str(name)) for name in outputs[0]], np.int64)
    return Predictions(chosen, outputs[1])


def _feed(encoder: Encoder, source: Source) -> dict[str, NDArray[Any]]:
    """Return raw rows as the inputs of a file."""
    feed: dict[str, NDArray[Any]] = {}
    if isinstance(source, ArrayTable):
        name = encoder.inputs.names[0]
        block = source.block(source.choose_inputs(preferred=name))
        feed[name] = block if encoder.inputs.block is None else block.astype(np.float64)
    else:
        source = source.with_missing(encoder.dialect.missing).with_kinds(encoder.kinds)
        inputs = encoder.inputs
        dates = {each.name: each for each in inputs.dates} if isinstance(inputs, TableInputs) else {}
        for name in inputs.names:
            if name in dates:
                feed[name] = dates[name].days(source)[:, None]
            elif name in encoder.texts:
                written = source.columns[name].written()
                feed[name] = written.texts[written.codes].astype(object)[:, None]
            else:
                feed[name] = source.numbers(name)[:, None]
    return feed


def _run(path: Path, feed: Mapping[str, NDArray[Any]]) -> list[Any]:
    content = path.read_bytes()
    try:
        runtime: Any = importlib.import_module("onnxruntime")
    except ImportError:
        evaluator: Any = importlib.import_module("onnx.reference").ReferenceEvaluator(content)
        return list(evaluator.run(None, feed))
    try:
        session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
        return list(session.run(None, feed))
    except Exception as error:  # of its C++ part, which has no common class
        raise RunError(f"ONNX Runtime cannot run the file: {str(error).partition(chr(10))[0]}") from None


# ---- inputs --------------------------------------------------------------------------------------------------------


def _table(graph: OnnxGraph, encoder: Encoder, inputs: TableInputs) -> tuple[list[Any], str]:
    """Return the inputs of a table, and the name of the encoded rows, float32."""
    double, string = graph.type_of(np.float64), graph.onnx.TensorProto.STRING
    days, texts = ([each.name for each in group] for group in (inputs.dates, inputs.one_hots))
    values = [
        graph.onnx.helper.make_tensor_value_info(name, kind, ["N", 1])
        for kind, names in ((double, (*inputs.numeric, *days)), (string, texts))
        for name in names
    ]
    missing, parts = encoder.dialect.missing, []
    if inputs.block:
        block = graph.add("Concat", *inputs.numeric, axis=1)
        parts += _numbers(graph, block, inputs.block, missing.values)
    parts += [part for each in inputs.dates for part in _dates(graph, each)]
    parts += [_one_hot(graph, Categories.of(each), missing.anywhere) for each in inputs.one_hots]
    return values, graph.add("Concat", *parts, axis=1)


def _array(graph: OnnxGraph, inputs: ArrayInputs) -> tuple[list[Any], str]:
    """Return the input of an array, and the name of the encoded rows: bytes, or float32."""
    dtype = np.uint8 if inputs.block is None else np.float64
    shape = ["N", inputs.columns]
    values = [graph.onnx.helper.make_tensor_value_info(inputs.name, graph.type_of(dtype), shape)]
    if inputs.block is None:
        return values, inputs.name
    return values, graph.add("Concat", *_numbers(graph, inputs.name, inputs.block, ()), axis=1)


def _numbers(graph: OnnxGraph, block: str, fitted: NumericBlock, missing: Iterable[float]) -> list[str]:
    """Return numbers with their gaps filled and scaled, and the flags of gaps, if there are any."""
    gaps = graph.add("IsNaN", block)
    for marker in sorted(missing):
        gaps = graph.add("Or", gaps, graph.add("Equal", block, graph.constant(marker, np.float64)))
    filled = graph.add("Where", gaps, graph.constant(fitted.medians), block)
    start, scaled = trace_scaling(fitted.scaling, len(fitted.medians))
    (numbers,) = _write(graph, {start: filled}, (scaled,), {})
    parts = [graph.cast(numbers, np.float32)]
    if len(fitted.flagged):
        parts.append(graph.cast(graph.add("Gather", gaps, graph.constant(fitted.flagged), axis=1), np.float32))
    return parts


def _dates(graph: OnnxGraph, fitted: Dates) -> list[str]:
    """Return the features of a column of days since 1970-01-01."""

    def number(value: float) -> str:
        return graph.constant(value, np.float64)

    gaps = graph.add("IsNaN", fitted.name)
    there = graph.add("Where", gaps, number(fitted.center), fitted.name)
    elapsed = graph.add("Div", graph.add("Sub", there, number(fitted.center)), number(fitted.deviation))
    parts = [graph.cast(elapsed, np.float32)]
    for cycle in fitted.cycles:
        turns = graph.add("Mul", there, number(1.0 / CYCLES[cycle]))
        angle = graph.add("Mul", graph.add("Sub", turns, graph.add("Floor", turns)), number(2.0 * np.pi))
        for wave in ("Sin", "Cos"):  # of 32 bits, which is all that runtimes have: so the angle is within one turn
            value = graph.add(wave, graph.cast(angle, np.float32))
            parts.append(graph.add("Where", gaps, graph.constant(0.0, np.float32), value))
    if fitted.gaps:
        parts.append(graph.cast(gaps, np.float32))
    return parts


def _one_hot(graph: OnnxGraph, categories: Categories, missing: Iterable[str]) -> str:
    """Return the features of a column of texts, (N, width)."""
    none = categories.width  # the feature of a text that has none, left out below
    other = none if categories.other is None else categories.other
    codes = categories.codes
    if categories.truths:
        codes = {each: code for text, code in codes.items() for each in _any_case(text)}
    codes = dict.fromkeys(sorted(missing), codes.get("", other)) | codes
    numbers = graph.add(
        "LabelEncoder",
        categories.name,
        keys_strings=list(codes),
        values_int64s=list(codes.values()),
        default_int64=other,
    )
    depth, values = graph.constant(none + 1, np.int64), graph.constant([0, 1], np.float32)
    features = graph.add("Squeeze", graph.add("OneHot", numbers, depth, values), graph.constant([1], np.int64))
    ends = (graph.constant([value], np.int64) for value in (0, none, 1))
    return graph.add("Slice", features, *ends)


def _any_case(text: str) -> list[str]:
    """Return a text in every mixture of capital and small letters."""
    return ["".join(letters) for letters in itertools.product(*((c.lower(), c.upper()) for c in text))]


# ---- the network, and what comes of it -----------------------------------------------------------------------------


def _outputs(graph: OnnxGraph, model: SavedModel, linear: str, answer: str, prefix: str) -> list[Any]:
    """Return the outputs: predictions, (N,), and of classes the probability of each, (N, classes).

    Their names begin with a prefix where they are not those of the file.
    """
    make, double = graph.onnx.helper.make_tensor_value_info, graph.type_of(np.float64)
    prediction, flat = graph.name(f"{prefix}prediction"), graph.constant([-1], np.int64)
    target = model.encoder.target
    probability = graph.name(f"{prefix}probability") if model.encoder.task != "regression" else ""
    if isinstance(target, LabelTargets):
        graph.add("Sigmoid", graph.cast(linear, np.float64), output=probability)
        return _labels(graph, target, probability, prediction)
    if not isinstance(target, ClassTarget):
        wide, targets = graph.cast(answer, np.float64), numbers_of(target, model.encoder.target_name)
        levels = model.encoder.levels
        width = max(1, len(levels))
        each = [
            _restored(graph, graph.add("Gather", wide, graph.constant(columns, np.int64), axis=1), numbers)
            for columns, numbers in ((range(i * width, (i + 1) * width), one) for i, one in enumerate(targets))
        ]
        if levels:
            return _quantiles(graph, each, levels, prediction, graph.name(f"{prefix}quantiles"))
        if len(each) == 1:
            graph.add("Reshape", each[0], flat, output=prediction)
            return [make(prediction, double, ["N"])]
        graph.add("Concat", *each, axis=1, output=prediction)
        return [make(prediction, double, ["N", len(each)])]
    wide = graph.cast(linear, np.float64)
    if target.outputs == 1:
        zero = graph.add("Mul", wide, graph.constant(0.0, np.float64))
        wide = graph.add("Concat", graph.add("Neg", wide), zero, axis=1)
        half = graph.add("CastLike", graph.constant(0.5, np.float64), answer)
        chosen = graph.cast(graph.add("Reshape", graph.add("Greater", answer, half), flat), np.int64)
    else:
        chosen = graph.add("ArgMax", answer, axis=1, keepdims=0)
    graph.add("Gather", graph.constant(np.array(target.classes, object)), chosen, output=prediction)
    if (fitted := model.calibration) is None:
        graph.add("Softmax", wide, axis=1, output=probability)
    else:
        shares = graph.add("Softmax", graph.add("Mul", wide, graph.constant(fitted.sharpness, np.float64)), axis=1)
        if isinstance(fitted, Isotonic):
            shares = _curved(graph, shares, fitted.curves)
        sure = graph.add("Mul", shares, graph.constant(1.0 - fitted.mix, np.float64))
        equal = graph.constant(fitted.mix / len(target.classes), np.float64)
        graph.add("Add", sure, equal, output=probability)
    string = graph.onnx.TensorProto.STRING
    return [make(prediction, string, ["N"]), make(probability, double, ["N", len(target.classes)])]


def _curved(graph: OnnxGraph, shares: str, curves: Sequence[Curve]) -> str:
    """Return what curves make of probabilities, (N, classes), as ``Isotonic`` does."""
    two, one = len(curves) == 1, graph.constant(1.0, np.float64)
    columns = []
    for number, curve in enumerate(curves, 1 if two else 0):
        x, y = np.array(curve.inputs), np.array(curve.outputs)
        slopes = np.concatenate([[0.0], np.diff(y) / np.diff(x), [0.0]])  # of the lines before, between and behind
        starts = np.concatenate([x[:1], x]), np.concatenate([y[:1], y])
        share = graph.add("Gather", shares, graph.constant(np.array([number])), axis=1)
        above = graph.cast(graph.add("GreaterOrEqual", share, graph.constant(x[None])), np.int64)
        line = graph.add("ReduceSum", above, graph.constant(np.array([1])), keepdims=1)
        slope, x0, y0 = (graph.add("Gather", graph.constant(each), line) for each in (slopes, *starts))
        columns.append(graph.add("Add", graph.add("Mul", slope, graph.add("Sub", share, x0)), y0))
    if two:
        return graph.add("Concat", graph.add("Sub", one, columns[0]), columns[0], axis=1)
    curved = graph.add("Concat", *columns, axis=1)
    total = graph.add("ReduceSum", curved, graph.constant(np.array([1])), keepdims=1)
    some = graph.add("Greater", total, graph.constant(0.0, np.float64))
    divided = graph.add("Div", curved, graph.add("Where", some, total, one))
    return graph.add("Where", some, divided, graph.constant(1.0 / len(curves), np.float64))


def _quantiles(
    graph: OnnxGraph, each: Sequence[str], levels: Sequence[float], prediction: str, quantiles: str
) -> list[Any]:
    """Return predictions, (N,) or (N, T), and the quantiles of each target, (N, levels) or (N, T, levels), rising."""
    make, double, count = graph.onnx.helper.make_tensor_value_info, graph.type_of(np.float64), len(levels)
    stacked = graph.add(
        "Concat", *(graph.add("Unsqueeze", one, graph.constant([1], np.int64)) for one in each), axis=1
    )
    rising = graph.add("TopK", stacked, graph.constant([count], np.int64), axis=2, largest=0)
    shape: list[Any] = ["N"] if len(each) == 1 else ["N", len(each)]
    keep = graph.constant([-1, *shape[1:]], np.int64)
    point = graph.add("Gather", rising, graph.constant(nearest_to_median(levels), np.int64), axis=2)
    graph.add("Reshape", point, keep, output=prediction)
    graph.add("Reshape", rising, graph.constant([-1, *shape[1:], count], np.int64), output=quantiles)
    return [make(prediction, double, shape), make(quantiles, double, [*shape, count])]


def _labels(graph: OnnxGraph, target: LabelTargets, probability: str, prediction: str) -> list[Any]:
    """Return the class of each label and the probability of the second, (N, T) both."""
    make, count = graph.onnx.helper.make_tensor_value_info, target.outputs
    above = graph.add("Greater", probability, graph.constant(0.5, np.float64))
    first, second = (np.array([[each.classes[i] for each in target.columns]], object) for i in (0, 1))
    graph.add("Where", above, graph.constant(second, object), graph.constant(first, object), output=prediction)
    string, double = graph.onnx.TensorProto.STRING, graph.type_of(np.float64)
    return [make(prediction, string, ["N", count]), make(probability, double, ["N", count])]


def _mean(
    graph: OnnxGraph,
    encoder: Encoder,
    weights: Sequence[float],
    each: Sequence[Sequence[str]],
    outputs: Sequence[Any],
) -> list[Any]:
    """Return the outputs of a file whose models predict by their mean: ``each`` names theirs, as are ``outputs``."""

    def mean(index: int, name: str) -> str:
        parts = zip(weights, each, strict=True)
        terms = [graph.add("Mul", names[index], graph.constant(weight, np.float64)) for weight, names in parts]
        return graph.add("Sum", *terms, output=graph.name(name))

    def output(index: int, name: str) -> Any:
        copied = graph.onnx.ValueInfoProto()
        copied.CopyFrom(outputs[index])
        copied.name = name
        return copied

    target = encoder.target
    if encoder.task == "regression":
        names = ("prediction", "quantiles")[: len(outputs)]
        return [output(number, mean(number, name)) for number, name in enumerate(names)]
    prediction, probability = graph.name("prediction"), mean(1, "probability")
    if isinstance(target, LabelTargets):
        return _labels(graph, target, probability, prediction)
    chosen = graph.add("ArgMax", probability, axis=1, keepdims=0)
    graph.add("Gather", graph.constant(np.array(encoder.classes, object)), chosen, output=prediction)
    return [output(0, prediction), output(1, probability)]


def _restored(graph: OnnxGraph, values: str, fitted: Mapping[str, Any]) -> str:
    """Return outputs of the network, (N, 1), in the units of a target."""

    def number(value: float) -> str:
        return graph.constant(value, np.float64)

    def untransformed(values: str, power: float) -> str:
        if power:
            one = graph.add("Add", graph.add("Mul", values, number(power)), number(1.0))
            values = graph.add("Div", graph.add("Log", one), number(power))
        return graph.add("Sub", graph.add("Exp", values), number(1.0))

    if fitted["counts"]:
        expected = graph.add("Exp", graph.add("Min", values, number(700.0)))
        return graph.add("Mul", expected, number(fitted["deviation"]))
    values = graph.add("Add", graph.add("Mul", values, number(fitted["deviation"])), number(fitted["mean"]))
    if (transform := fitted["transform"]) is None:
        return values
    values = graph.add("Min", graph.add("Max", values, number(transform["low"])), number(transform["high"]))
    if transform["kind"] == "log":
        return graph.add("Exp", values)
    zero, power = number(0.0), transform["exponent"]
    above = untransformed(graph.add("Max", values, zero), power)
    below = untransformed(graph.add("Max", graph.add("Neg", values), zero), 2.0 - power)
    return graph.add("Where", graph.add("GreaterOrEqual", values, zero), above, graph.add("Neg", below))


def _write(
    graph: OnnxGraph, names: dict[Application, str], results: Sequence[Application], known: Mapping[Address, str]
) -> tuple[str, ...]:
    """Add what results are computed by to a graph; return their names there.

    Parameters
    ----------
    graph
        Is added to.
    names
        Names of the nodes that are there already.
    results
        What is to be computed.
    known
        Names of constants, by where they lie in memory.
    """
    results = expanded(results, SPECIAL if results[0].dtype == np.float32 else ())
    for node in reachable(results):
        if node.function == INPUT:
            continue
        write = _WRITERS.get(node.function)
        if write is None and node.function not in SIMPLE:
            raise RunError(f"ONNX has no operator for numpy.{node.function}, which this model uses")
        kinds = [
            each.dtype if isinstance(each, Application) else np.asarray(each.value).dtype
            for each in node.operands
            if isinstance(each, Application) or isinstance(each.value, np.ndarray)
        ]
        common = np.result_type(*(kind for kind in kinds if kind.kind != "b" or len(kinds) == 1))
        operands = []
        for each in node.operands:
            if isinstance(each, Constant):
                kind = np.bool_ if getattr(each.value, "dtype", None) == np.bool_ else common
                operands.append(graph.constant(each.value, kind, known.get(address_of(each.value))))
            elif each.dtype in (common, np.bool_):
                operands.append(names[each])
            else:
                operands.append(graph.cast(names[each], common))
        names[node] = write(graph, node, operands) if write else graph.add(SIMPLE[node.function], *operands)
    return tuple(names[each] for each in results)


def _reduced(operator: str) -> Callable[[OnnxGraph, Application, list[str]], str]:
    def write(graph: OnnxGraph, node: Application, operands: list[str]) -> str:
        axis, operand = node.params.get("axis"), node.operands[0]
        assert isinstance(operand, Application)
        axes = range(len(operand.shape)) if axis is None else [axis] if isinstance(axis, int) else axis
        keep = int(node.params.get("keepdims", False))
        if operator == "ReduceSum":  # of this version it alone has axes that are an input
            return graph.add(operator, *operands, graph.constant([*axes], np.int64), keepdims=keep)
        return graph.add(operator, *operands, axes=[*axes], keepdims=keep)

    return write


def _interpolate(graph: OnnxGraph, node: Application, operands: list[str]) -> str:
    """Write what ``numpy.interp`` does to each column: a search by halves, then a line from the knot below."""
    knots, scores = node.params["knots"], node.params["scores"]
    count, columns = knots.shape
    (x,) = operands
    x = graph.add("Max", x, graph.constant(knots[0]))
    steps = 2 ** np.arange(max(count - 1, 1).bit_length())[::-1]
    size = int(steps.sum()) + 1  # what no step goes beyond
    padded = np.full((columns, size), np.inf)
    padded[:, :count] = knots.T
    table = graph.constant(padded.ravel())
    segment = graph.add(
        "Add",
        graph.cast(graph.add("Mul", x, graph.constant(0.0, np.float64)), np.int64),
        graph.constant(np.arange(columns) * size, np.int64),
    )
    for step in steps.tolist():
        further = graph.add("Add", segment, graph.constant(step, np.int64))
        reached = graph.add("GreaterOrEqual", x, graph.add("Gather", table, further))
        segment = graph.add("Where", reached, further, segment)
    rises, widths = np.diff(scores, axis=0), np.diff(knots, axis=0)
    slopes = np.zeros((columns, size))
    slopes[:, : count - 1] = np.divide(rises, widths, out=np.zeros_like(rises), where=widths > 0).T
    heights = np.zeros((columns, size))
    heights[:, :count] = scores.T
    starts = np.where(np.isinf(padded), 0.0, padded)
    start, slope, height = (
        graph.add("Gather", graph.constant(a.ravel()), segment) for a in (starts, slopes, heights)
    )
    return graph.add("Add", graph.add("Mul", slope, graph.add("Sub", x, start)), height)


def _normal_cdf(graph: OnnxGraph, node: Application, operands: list[str]) -> str:
    """Write ½ (1 + erf(x / √2)), one operator in place of a series."""
    erf = graph.add("Erf", graph.add("Mul", *operands, graph.constant(0.5**0.5, node.dtype)))
    return graph.add("Mul", graph.add("Add", erf, _one(graph, node)), graph.constant(0.5, node.dtype))


def _one(graph: OnnxGraph, node: Application) -> str:
    return graph.constant(1.0, node.dtype)


def _slice(graph: OnnxGraph, node: Application, operands: list[str]) -> str:
    index, sliced = node.params["index"], operands[0]
    cuts = [(axis, *each) for axis, each in enumerate(e for e in index if e is not None) if each != (None, None)]
    if cuts:
        axes, starts, ends = zip(*cuts, strict=True)
        bounds = [start or 0 for start in starts], [_END if end is None else end for end in ends], axes
        sliced = graph.add("Slice", sliced, *(graph.constant([*each], np.int64) for each in bounds))
    new = [axis for axis, each in enumerate(index) if each is None]
    return graph.add("Unsqueeze", sliced, graph.constant(new, np.int64)) if new else sliced


_END = 2**63 - 1
_WRITERS: dict[str, Callable[[OnnxGraph, Application, list[str]], str]] = {
    "astype": lambda graph, node, operands: graph.cast(operands[0], node.dtype),
    "square": lambda graph, node, operands: graph.add("Mul", operands[0], operands[0]),
    "expm1": lambda graph, node, operands: graph.add("Sub", graph.add("Exp", *operands), _one(graph, node)),
    "log1p": lambda graph, node, operands: graph.add("Log", graph.add("Add", *operands, _one(graph, node))),
    "concatenate": lambda graph, node, operands: graph.add("Concat", *operands, axis=node.params["axis"]),
    "reshape": lambda graph, node, x: graph.add("Reshape", *x, graph.constant(node.params["shape"], np.int64)),
    "slice": _slice,
    "transpose": lambda graph, node, operands: graph.add("Transpose", *operands, perm=node.params["axes"]),
    "sum": _reduced("ReduceSum"),
    "mean": _reduced("ReduceMean"),
    "max": _reduced("ReduceMax"),
    "min": _reduced("ReduceMin"),
    INTERPOLATE: _interpolate,
    "normal_cdf": _normal_cdf,
}
"""Functions of NumPy that are several operators, or have parameters."""
