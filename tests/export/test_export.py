"""Exported files predict what the run predicts: raw rows of every kind, every layer, every scaling."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import gpumlp
from gpumlp.autodiff import Tensor
from gpumlp.backend import Backend
from gpumlp.cli import main
from gpumlp.config import Loaded, configure, load
from gpumlp.data import ArrayTable, Encoder, News, rows_of
from gpumlp.data.encoding.columns import ArrayInputs, TableInputs
from gpumlp.data.encoding.numeric import NumericBlock
from gpumlp.data.encoding.scaling import SCALINGS
from gpumlp.data.encoding.targets import ClassTarget, NumberTarget
from gpumlp.data.source.dialect import DETECT
from gpumlp.errors import ConfigError, DataError, RunError
from gpumlp.export import FORMATS, export, files
from gpumlp.export.encoding import KNOWN
from gpumlp.export.files import _rebuilt, compare
from gpumlp.export.graph import write_mean
from gpumlp.export.trace import Tracer, UnwritableError, as_input, trace_network
from gpumlp.nn import NORMS, Architecture, Hidden, Layer, mlp
from gpumlp.ops import ACTIVATIONS
from gpumlp.runs import load_ensemble, load_trained, train
from gpumlp.runs.ensemble import WeightedModels
from gpumlp.runs.model import SavedModel

try:
    import onnx
except ImportError:
    onnx = None
WITH_ONNX = pytest.mark.skipif(onnx is None, reason="onnx is not installed: install the extra onnx")
ENDINGS = [".py", pytest.param(".onnx", marks=WITH_ONNX), ".safetensors"]
WITHOUT_GPUMLP = [".py", pytest.param(".onnx", marks=WITH_ONNX)]

ALONE = """
import runpy, sys
allowed = {*sys.stdlib_module_names, "numpy", "__main__"}
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in allowed:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Nothing())
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    import atexit
    loaded = {name.split(".")[0] for name in sys.modules} - allowed
    assert not loaded or all(name.startswith(("_", "sitecustomize")) for name in loaded), loaded
"""
"""Runs a file with all modules but those of Python and NumPy out of reach."""


def alone(*arguments: object, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-c", ALONE, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, input=stdin)


# ---- raw rows ------------------------------------------------------------------------------------------------------

COLUMNS = ["size; in cm", 'it\'s "x"', "seconds", "colour", "on", "prediction", "class"]
ODD = [
    {},
    {"colour": "purple", "on": "TRUE"},  # never seen
    {"colour": "", "on": "", "size; in cm": "", "seconds": "?"},  # missing, of which some for the first time
    {"colour": "NA", 'it\'s "x"': "-999,0", "on": "True"},  # by markers; -999 however it is written
    {"colour": "-"},  # a text
    {"size; in cm": "1e2", 'it\'s "x"': "+2,5", "seconds": " 1600000001 ", "colour": " red "},
    {"colour": "rare0", "prediction": "3"},  # seen once
    {"on": "fAlSe", "colour": "grün"},
]


def cells(rng: np.random.Generator, number: int) -> dict[str, str]:
    """Return a raw row as German spreadsheets write it."""
    size = "-999" if number % 7 == 0 else f"{rng.normal(170, 10):.2f}".replace(".", ",")
    return {
        "size; in cm": size,
        'it\'s "x"': f"{rng.normal():.4f}".replace(".", ","),
        "seconds": str(1_600_000_000 + int(rng.integers(0, 600))),
        "colour": f"rare{number}" if number < 3 else ["red", "grün", "blue, dark", "NA"][number % 4],
        "on": ["True", "FALSE", "true", "False"][int(rng.integers(4))],
        "prediction": str(number % 3 + 1),
        "class": ["x", "y", "z"][number % 3],
    }


def write_rows(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, delimiter=";")
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run on rows of every kind; beside it lies new.csv with odd ones."""
    folder = tmp_path_factory.mktemp("raw")
    rng = np.random.default_rng(0)
    write_rows(folder / "rows.csv", [cells(rng, number) for number in range(120)])
    write_rows(folder / "new.csv", [cells(rng, number) | odd for number, odd in enumerate(ODD, 8)])
    (folder / "task.yaml").write_text(
        "task: classification\n"
        "data: {train: rows.csv, target: class, missing: ['-999', '?', 'NA']}\n"
        "model: {hidden: [6, 5], activation: gelu, norm: layer}\n"
        "training: {epochs: 2, batch_size: 16}\n"
    )
    train(load(folder / "task.yaml"), folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def script(run: Path) -> Path:
    """Return the run as a script."""
    export(run, run.parent / "model.py")
    return run.parent / "model.py"


def predicted(run: Path, file: Path) -> list[dict[str, str]]:
    result = CliRunner().invoke(main, ["predict", str(run), str(file), "--proba"])
    assert result.exit_code == 0, result.output
    return list(csv.DictReader(io.StringIO(result.stdout)))


def shares(rows: list[dict[str, str]]) -> np.ndarray:
    return np.array([[float(v) for key, v in row.items() if key != "prediction"] for row in rows])


def test_a_script_alone_predicts_what_the_run_does(run: Path, script: Path, tmp_path: Path) -> None:
    new = run.parent / "new.csv"
    own = predicted(run, new)
    result = alone(script, new, "--proba")
    assert result.returncode == 0, result.stderr
    theirs = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [row.keys() for row in theirs] == [row.keys() for row in own]
    assert [row["prediction"] for row in theirs] == [row["prediction"] for row in own]
    np.testing.assert_allclose(shares(theirs), shares(own), rtol=0, atol=2e-6)
    assert len({tuple(row) for row in shares(own).round(5).tolist()}) == len(ODD)  # all rows differ

    # from standard input and into a file; and without probabilities
    result = alone(script, "-", "-o", tmp_path / "out.csv", stdin=new.read_text())
    assert (result.returncode, result.stdout) == (0, "")
    assert (tmp_path / "out.csv").read_text().splitlines() == ["prediction", *(row["prediction"] for row in own)]


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("1.234,5", "row 2: column 'seconds' should be numeric, but this cell is '1.234,5'"),
        ("1_2", "should be numeric"),
        ("ten", "should be numeric"),
        ("inf", "not a finite 32-bit float"),
        ("nan", "should be numeric"),
        ("1e39", "not a finite 32-bit float"),
    ],
)
def test_a_script_refuses_what_predict_refuses(
    run: Path, script: Path, tmp_path: Path, cell: str, message: str
) -> None:
    rng = np.random.default_rng(1)
    rows = write_rows(tmp_path / "bad.csv", [cells(rng, 8), cells(rng, 9) | {"seconds": cell}])
    with pytest.raises(DataError):
        load_trained(run).predict(rows)
    module = runpy.run_path(str(script))
    with pytest.raises(ValueError, match=re.escape(message)):
        module["predict"](module["read_rows"](str(rows)))


def test_a_script_ends_with_a_message(run: Path, script: Path, tmp_path: Path) -> None:
    (tmp_path / "short.csv").write_text("a;b\n1;2\n")
    result = alone(script, tmp_path / "short.csv")
    assert (result.returncode, result.stdout) == (1, "")
    assert "row 1: there is no column 'size; in cm'" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_a_script_names_a_row_whose_prediction_is_not_finite(tmp_path: Path, task: str) -> None:
    """A class of NaN would be the first one."""
    x = np.random.default_rng(0).random((60, 2))
    y = x[:, 0] if task == "regression" else np.where(x[:, 0] > 0.5, "b", "a")
    rows = "".join(f"{a},{b},{c}\n" for (a, b), c in zip(x, y, strict=True))
    (tmp_path / "t.csv").write_text("a,b,y\n" + rows)
    data = {"train": str(tmp_path / "t.csv"), "target": "y", "scaling": "none"}
    train(configure(task=task, data=data, model={"hidden": [4]}, training={"epochs": 1}), tmp_path / "run")
    export(tmp_path / "run", tmp_path / "model.py")
    (tmp_path / "far.csv").write_text("a,b\n1,2\n-3e38,3e38\n")
    with pytest.raises(DataError, match=r"far\.csv:3: the prediction is not finite"):
        load_trained(tmp_path / "run").predict(tmp_path / "far.csv")
    result = alone(tmp_path / "model.py", tmp_path / "far.csv")
    assert (result.returncode, result.stdout) == (1, "")
    assert "row 2: the prediction is not finite, since a number is too far from the training values" in result.stderr
    (tmp_path / "twice.csv").write_text("a,b,a\n1,2,3\n")
    result = alone(tmp_path / "model.py", tmp_path / "twice.csv")
    assert (result.returncode, result.stdout) == (1, "")
    assert "line 1: two columns are called 'a'" in result.stderr


def test_a_script_takes_values_in_python(script: Path) -> None:
    module = runpy.run_path(str(script))
    as_text = {"size; in cm": "171,5", 'it\'s "x"': "", "seconds": "1600000100", "colour": "grün", "on": "true"}
    as_values = {"size; in cm": 171.5, 'it\'s "x"': None, "seconds": 1600000100, "colour": "grün", "on": True}
    both = [{**each, "prediction": three} for each, three in ((as_text, "3"), (as_values, np.float64(3)))]
    first, second = module["predict_proba"](both)
    np.testing.assert_array_equal(first, second)
    assert module["predict"]([]) == []
    with pytest.raises(ValueError, match=r"row 1: there is no column 'seconds'"):
        module["predict"]([{key: value for key, value in both[0].items() if key != "seconds"}])


def test_a_script_takes_the_values_that_a_frame_of_them_has(tmp_path: Path) -> None:
    """Each is the same number or category for the script as in the columns that the run was trained on."""
    passed = [timedelta(seconds=i % 5, milliseconds=500 * (i % 2)) for i in range(60)]
    mixed = [(True, False, "maybe")[i % 3] for i in range(60)]
    big = [(1e16, 3.0, 0.1)[i % 3] for i in range(60)]
    short = [np.float32((0.1, 0.7, 3)[i % 3]) for i in range(60)]
    rows = {"passed": passed, "span": passed, "mixed": mixed, "big": big, "short": short, "number": short}
    rows["y"] = [i % 2 for i in range(60)]
    kinds = {name: {"type": "category"} for name in ("span", "mixed", "big", "short")}
    model = gpumlp.fit(
        rows, "y", task="classification", data={"columns": kinds, "scaling": "quantile"}, training={"epochs": 2}
    )
    FORMATS[".py"].write(tmp_path / "model.py", model, trace_network(_rebuilt(model, Tracer(), np.float32).network))
    module = runpy.run_path(str(tmp_path / "model.py"))
    theirs = module["predict_proba"]([{name: values[i] for name, values in rows.items()} for i in range(60)])
    np.testing.assert_allclose(theirs, model.predict_proba(rows), atol=2e-6)


def raw_feed(run: Path, file: Path) -> dict[str, np.ndarray]:
    """Return the rows of a file as the inputs of an ONNX graph: numbers, and texts as they are written."""
    encoder = load_trained(run).encoder
    with file.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter=";"))
    gaps = {"", "?", "NA"}

    def number(text: str) -> float:
        return float("nan") if text.strip() in gaps else float(text.replace(",", "."))

    return {
        name: np.array([[row[name].strip()] for row in rows], object)
        if name in encoder.texts
        else np.array([[number(row[name])] for row in rows])  # with -999 as it is
        for name in encoder.inputs.names
    }


@WITH_ONNX
@pytest.mark.parametrize("library", ["onnxruntime", "onnx.reference"])
def test_onnx_predicts_what_the_run_does(run: Path, tmp_path: Path, library: str) -> None:
    runtime = pytest.importorskip(library)
    file, new = tmp_path / "model.onnx", run.parent / "new.csv"
    export(run, file)
    feed = raw_feed(run, new)
    if library == "onnxruntime":
        session = runtime.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"])
        assert {each.name: each.type for each in session.get_inputs()} == {
            name: "tensor(string)" if values.dtype == object else "tensor(double)" for name, values in feed.items()
        }
        names = [each.name for each in session.get_outputs()]
        found = session.run(None, feed)
    else:
        evaluator = runtime.ReferenceEvaluator(file.read_bytes())
        names, found = evaluator.output_names, evaluator.run(None, feed)
    assert names[0] != "prediction"  # which a column is called
    assert names[0].startswith("prediction")
    own = predicted(run, new)
    assert [str(name) for name in found[0]] == [row["prediction"] for row in own]
    np.testing.assert_allclose(found[1], shares(own), rtol=0, atol=2e-6)


@pytest.mark.parametrize(("thousands", "decimal"), [(",", "."), (".", ","), (",", ","), (".", ".")])
@pytest.mark.parametrize("ending", WITHOUT_GPUMLP)
def test_numbers_with_thousands_and_units(tmp_path: Path, ending: str, thousands: str, decimal: str) -> None:
    """``decimal`` is that of the other column: a table has one, but prices may have been written elsewhere."""
    rng = np.random.default_rng(14)
    swapped = str.maketrans(",.", ".,")

    def row(value: float) -> str:
        price, other = f"{value:,.2f} €", f"{rng.normal():.3f}"
        price = price.translate(swapped) if thousands == "." else price
        other = other.translate(swapped) if decimal == "," else other
        return f"{price};{other};{'ab'[int(value > 0)]}\n"

    for name, count in (("rows", 40), ("test", 20)):
        rows = [row(value) for value in rng.normal(0, 3000, count)]
        rows[3] = "n/a;1;a\n"
        (tmp_path / f"{name}.csv").write_text("".join(["price;b;y\n", *rows]))
    kind = f"{{type: number, unit: €, thousands: '{thousands}'}}"
    (tmp_path / "task.yaml").write_text(
        f"task: classification\ndata: {{train: rows.csv, target: y, columns: {{price: {kind}}}, "
        f"decimal: '{decimal}', split: {{test: test.csv}}}}\nmodel: {{hidden: [4]}}\ntraining: {{epochs: 2}}\n"
    )
    train(load(tmp_path / "task.yaml"), tmp_path / "run")
    compared, _ = export(tmp_path / "run", tmp_path / f"model{ending}")
    assert (compared.part, compared.rows) == ("test", 20)
    if ending == ".py":
        module = runpy.run_path(str(tmp_path / "model.py"))
        theirs = module["predict_proba"](module["read_rows"](str(tmp_path / "test.csv")))
        np.testing.assert_allclose(
            theirs, shares(predicted(tmp_path / "run", tmp_path / "test.csv")), rtol=0, atol=2e-6
        )


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_same_run_gives_the_same_bytes(run: Path, tmp_path: Path, ending: str) -> None:
    first, second = (tmp_path / f"{name}{ending}" for name in "ab")
    compared, notes = export(run, first)
    assert not notes
    assert (compared.part, compared.rows) == ("test", 18)
    assert 0 <= compared.difference <= compared.allowed < 1e-4
    # in another process, where sets have another order
    command = [sys.executable, "-m", "gpumlp", "export", run, "-o", second]
    done = subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": "7"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{second}\n"
    assert "the largest difference on 18 test rows is " in done.stderr
    assert first.read_bytes() == second.read_bytes()


def test_safetensors_have_names_and_metadata(run: Path, tmp_path: Path) -> None:
    from safetensors import safe_open

    export(run, tmp_path / "model.safetensors")
    model = load_trained(run)
    with safe_open(tmp_path / "model.safetensors", "numpy") as file:
        meta = json.loads(file.metadata()["gpumlp"])["meta"]
        np.testing.assert_array_equal(file.get_tensor("dense_1.W"), model.network.arrays()["dense_1.W"])
        assert len(meta["features"]) == file.get_tensor("dense_1.W").shape[0]
        assert "encoder.inputs.block.medians" in file.keys()  # noqa: SIM118  # not a dictionary
    assert meta["classes"] == ["x", "y", "z"]
    assert [layer["units"] for layer in meta["network"]["hidden"]] == [6, 5]


@pytest.mark.parametrize("ending", WITHOUT_GPUMLP)
@pytest.mark.parametrize("task", ["regression", "binary"])
def test_other_targets(tmp_path: Path, task: str, ending: str) -> None:
    rng = np.random.default_rng(2)
    rows = [(a, b, 1e6 + 500 * a if task == "regression" else int(a > 0)) for a, b in rng.normal(size=(60, 2))]
    lines = [f"{a},{b},{y}\n" for a, b, y in rows]
    lines[::9] = [f"{['-', 'none', 'nan'][i % 3]},{b},{y}\n" for i, (_, b, y) in enumerate(rows[::9])]
    (tmp_path / "rows.csv").write_text("a,b,y\n" + "".join(lines))
    kind = "regression" if task == "regression" else "classification"
    (tmp_path / "task.yaml").write_text(
        f"task: {kind}\ndata: {{train: rows.csv, target: y, split: {{test: 0, validation: 0}}}}\n"
        "model: {hidden: [4]}\ntraining: {epochs: 3}\n"
    )
    train(load(tmp_path / "task.yaml"), tmp_path / "run")
    compared, _ = export(tmp_path / "run", tmp_path / f"model{ending}")
    assert (compared.part, compared.rows) == ("train", 60)
    assert compared.allowed < (1.0 if task == "regression" else 1e-4)


# ---- every layer, activation and scaling ---------------------------------------------------------------------------


def model_of(
    hidden: list[Hidden],
    classes: int = 3,
    *,
    block: NumericBlock | None = None,
    columns: int = 4,
    dtype: Any = "float32",
) -> SavedModel:
    """Return a model of an array, untrained, but with running averages and shifts that are not those at the start."""
    inputs = ArrayInputs("x", columns, block)
    target = ClassTarget(tuple("abcdefgh"[:classes])) if classes else NumberTarget(5.0, 2.0)
    link = ("identity", "softmax", "sigmoid", "softmax")[min(classes, 3)]
    network = mlp(hidden, target.outputs, link).build(inputs.width, backend=Backend(), dtype=dtype, seed=3)
    rng = np.random.default_rng(4)
    network.load(
        {
            name: array + np.abs(rng.normal(0, 0.3, array.shape)).astype(array.dtype)
            for name, array in network.arrays().items()
        }
    )
    return SavedModel(Encoder(inputs, target, "y", None, (), DETECT), network, Architecture(tuple(hidden)))


def check(model: SavedModel, source: ArrayTable, path: Path) -> None:
    """Write a model and compare what the file predicts."""
    computed = trace_network(_rebuilt(model, Tracer(), model.network.context.wide).network)
    form = FORMATS[path.suffix]
    form.write(path, model, computed)
    compared = compare("test", model, source, form.run(path, model, source))
    ((_, own),) = model.predictions([source], News())
    scale = 1.0 if own.probabilities is not None else 1.0 + np.abs(own.values).max()
    assert compared.difference <= compared.allowed < 5e-5 * scale


def plain(columns: int = 4, scaling: str = "none", rows: np.ndarray | None = None) -> NumericBlock:
    values = np.random.default_rng(5).normal(size=(50, columns)) if rows is None else rows
    return NumericBlock.fit(values.shape[1], lambda i: values[:, i].astype(np.float64), scaling)


@pytest.mark.parametrize("ending", WITHOUT_GPUMLP)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(activation: str, ending: str, tmp_path: Path) -> None:
    x = np.random.default_rng(6).normal(0, 3, (40, 4))
    x[:3] = [[0.0], [60.0], [-60.0]]
    for link, classes in ((activation, 3), (activation, 0)):
        model = model_of([Hidden(5, link)], classes, block=plain())
        check(model, ArrayTable("rows", {"x": x}), tmp_path / f"model{ending}")


@pytest.mark.parametrize("ending", WITHOUT_GPUMLP)
@pytest.mark.parametrize("norm", ["none", *NORMS])
@pytest.mark.parametrize("classes", [0, 2, 3])
def test_every_norm(norm: str, classes: int, ending: str, tmp_path: Path) -> None:
    hidden = [Hidden(5, "tanh", dropout=0.3, norm=norm), Hidden(6, "relu"), Hidden(3, "silu", norm=norm)]
    x = np.random.default_rng(7).normal(size=(3000 if norm == "none" else 1, 4))  # more than a batch of the script
    check(model_of(hidden, classes, block=plain()), ArrayTable("rows", {"x": x}), tmp_path / f"model{ending}")


@pytest.mark.parametrize("ending", WITHOUT_GPUMLP)
@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_other_dtypes(dtype: str, ending: str, tmp_path: Path) -> None:
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    model = model_of([Hidden(5, "tanh")], block=plain(), dtype=dtype)
    source = ArrayTable("rows", {"x": np.random.default_rng(8).normal(size=(20, 4))})
    computed = trace_network(_rebuilt(model, Tracer(), model.network.context.wide).network)
    path = tmp_path / f"model{ending}"
    FORMATS[ending].write(path, model, computed)
    compared = compare("test", model, source, FORMATS[ending].run(path, model, source))
    assert compared.difference <= compared.allowed
    assert compared.allowed < (1e-12 if dtype == "float64" else 0.3)


@pytest.mark.parametrize("ending", WITHOUT_GPUMLP)
@pytest.mark.parametrize("scaling", SCALINGS)
def test_every_scaling(scaling: str, ending: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    fitted = np.column_stack(
        [
            1.6e9 + rng.integers(0, 600, 30),  # beyond what 32 bits tell apart
            rng.integers(0, 3, 30),  # ties
            np.where(rng.random(30) < 0.3, np.nan, rng.normal(size=30)),  # gaps
            np.full(30, 7.0),  # constant
        ]
    )
    block = plain(scaling=scaling, rows=fitted)
    edges = [np.nanmin(fitted, axis=0), np.nanmax(fitted, axis=0)]
    new = np.concatenate([fitted, [edges[0] - 1, edges[1] + 1, edges[0] - 1e-9, edges[1] + 0.5, np.full(4, np.nan)]])
    model = model_of([Hidden(5, "tanh")], block=block)
    check(model, ArrayTable("rows", {"x": new}), tmp_path / f"model{ending}")


@pytest.mark.parametrize("ending", WITHOUT_GPUMLP)
def test_quantiles_of_many_rows(ending: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(10)
    fitted = rng.gamma(2.0, size=(1500, 2))
    new = np.concatenate([fitted, fitted[:100] + 1e-12, rng.uniform(-1, 20, (200, 2))])
    model = model_of([Hidden(5, "tanh")], block=plain(scaling="quantile", rows=fitted), columns=2)
    check(model, ArrayTable("rows", {"x": new}), tmp_path / f"model{ending}")


@pytest.mark.parametrize("ending", WITHOUT_GPUMLP)
def test_images(ending: str, tmp_path: Path) -> None:
    images = np.random.default_rng(11).integers(0, 256, (30, 3, 4), np.uint8)
    model = model_of([Hidden(5, "relu")], columns=12)
    check(model, ArrayTable("images", {"x": images}), tmp_path / f"model{ending}")


def test_a_script_reads_files_of_arrays(tmp_path: Path) -> None:
    images = np.random.default_rng(12).integers(0, 256, (7, 3, 4), np.uint8)
    model = model_of([Hidden(5, "relu")], columns=12)
    script = tmp_path / "model.py"
    FORMATS[".py"].write(script, model, trace_network(_rebuilt(model, Tracer(), np.float32).network))
    np.save(tmp_path / "x.npy", images)
    np.savez(tmp_path / "x.npz", y=np.arange(7), x=images)
    header = bytes([0, 0, 8, 3]) + np.array(images.shape, ">i4").tobytes()
    (tmp_path / "x-ubyte").write_bytes(header + images.tobytes())
    texts = [alone(script, tmp_path / name, "--proba").stdout for name in ("x.npy", "x.npz", "x-ubyte")]
    assert len(texts[0].splitlines()) == 8
    assert texts[0] == texts[1] == texts[2]
    np.save(tmp_path / "x.npy", images.astype(np.float32))
    assert "takes bytes (uint8)" in alone(script, tmp_path / "x.npy").stderr


def test_names_are_values_and_never_code(tmp_path: Path) -> None:
    """The model of a stranger may have any names: they stand in the file as texts."""
    classes = ('"""', "'''\n# <model>\n", "\\", "é\r\n\u2028", "'); print(1) #", "x" * 300 + '"', "\\é", "{}%s")
    model = model_of([Hidden(3)], len(classes), block=plain())
    target = ClassTarget(classes)
    model = replace(model, encoder=replace(model.encoder, target=target, target_name=classes[0]))
    source = ArrayTable("rows", {"x": np.random.default_rng(15).normal(size=(50, 4))})
    check(model, source, tmp_path / "model.py")
    module = runpy.run_path(str(tmp_path / "model.py"))
    assert module["MODEL"]["classes"] == list(classes)
    assert module["MODEL"]["target"] == classes[0]


# ---- what is refused -----------------------------------------------------------------------------------------------


class Reading(Layer):
    """A layer that leaves the arrays that can be followed."""

    def forward(self, x: Tensor, *, training: bool = False) -> Tensor:
        return Tensor(x.numpy() * 2, x.backend)


class Summing(Layer):
    """A layer with a function that ONNX has under no name here."""

    def forward(self, x: Tensor, *, training: bool = False) -> Tensor:
        return Tensor.sharing(x, x.backend.compute("sinh", np.sinh, x.array))


@pytest.fixture
def odd_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NORMS, "reading", Reading)
    monkeypatch.setitem(NORMS, "summing", Summing)


@pytest.mark.usefixtures("odd_layers")
def test_a_layer_that_cannot_be_followed_is_named() -> None:
    model = model_of([Hidden(5, norm="reading")], block=plain())
    with pytest.raises(RunError, match=r"the layer reading_1 \(Reading\) cannot be exported"):
        trace_network(_rebuilt(model, Tracer(), np.float32).network)


@pytest.mark.parametrize(
    ("known", "message"), [(("numeric", "block"), "one_hots of TableInputs"), (None, "an encoding by TableInputs")]
)
def test_an_encoding_that_no_format_writes_is_named(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: tuple[str, ...] | None, message: str
) -> None:
    monkeypatch.setitem(KNOWN, TableInputs, known)
    with pytest.raises(RunError, match=f"{message} cannot be exported"):
        export(run, tmp_path / "model.py")
    assert not list(tmp_path.iterdir())


@WITH_ONNX
@pytest.mark.usefixtures("odd_layers")
def test_a_function_without_an_operator_is_named_and_a_script_needs_none(tmp_path: Path) -> None:
    model = model_of([Hidden(5, norm="summing")], block=plain())
    source = ArrayTable("rows", {"x": np.random.default_rng(13).normal(size=(9, 4))})
    check(model, source, tmp_path / "model.py")
    with pytest.raises(RunError, match=r"no operator for numpy\.sinh"):
        check(model, source, tmp_path / "model.onnx")


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("wrong", ["weights", "class"])
def test_a_file_that_predicts_otherwise_is_not_kept(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, wrong: str
) -> None:
    form = FORMATS[ending]

    def running(path: Path, model: SavedModel, source: Any) -> Any:
        found = form.run(path, model, source)
        if wrong == "class":
            return type(found)((found.values + 1) % 3, found.probabilities)
        return type(found)(found.values, found.probabilities + 1e-4)

    monkeypatch.setitem(FORMATS, ending, type(form)(form.load, form.write, running))
    file = tmp_path / f"model{ending}"
    file.write_text("before")
    with pytest.raises(RunError, match="predicts differently"):
        export(run, file, force=True)
    assert [each.name for each in tmp_path.iterdir()] == [file.name]
    assert file.read_text() == "before"


def refused(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["export", *map(str, arguments)])
    return result.exit_code, result.output


@pytest.mark.parametrize("name", ["model.pickle", "model", "model.py.gz"])
def test_an_unknown_ending_is_refused_before_any_work(tmp_path: Path, name: str) -> None:
    code, output = refused(tmp_path / "no-run", "-o", tmp_path / name)
    assert code == 2
    assert "one of: .py .onnx .safetensors" in output
    with pytest.raises(ConfigError):
        export(tmp_path, tmp_path / name)


def test_a_file_that_exists_is_kept(run: Path, tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("mine")
    code, output = refused(run, "-o", tmp_path / "model.py")
    assert code == 1
    assert "--force" in output
    assert (tmp_path / "model.py").read_text() == "mine"
    assert refused(run, "-o", tmp_path / "model.py", "--force")[0] == 0
    assert "MODEL" in (tmp_path / "model.py").read_text()


def test_a_run_that_has_not_finished(task: Callable[..., Loaded], tmp_path: Path) -> None:
    train(task(), tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    code, output = refused(tmp_path / "run", "-o", tmp_path / "model.py")
    assert code == 1
    assert "has not finished" in output
    assert "--resume" in output
    assert not (tmp_path / "model.py").exists()


def test_a_library_that_is_not_installed(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "onnx"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "onnx", None)
    code, output = refused(run, "-o", tmp_path / "model.onnx")
    assert code == 1
    assert "pip install 'gpumlp[onnx]'" in output
    assert not list(tmp_path.iterdir())
    assert refused(run, "-o", tmp_path / "model.py")[0] == 0


@WITH_ONNX
def test_a_graph_that_the_runtime_refuses(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr("gpumlp.export.graph.IR_VERSION", 10_000)
    monkeypatch.setattr("onnx.checker.check_model", lambda model: None)
    with pytest.raises(RunError, match="ONNX Runtime cannot run the file"):
        export(run, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_data_that_have_changed_are_told(task: Callable[..., Loaded], tmp_path: Path) -> None:
    train(task(), tmp_path / "run")
    points = tmp_path / "points.csv"
    lines = points.read_text().splitlines()
    points.write_text("\n".join([*itertools.islice(lines, 100)]) + "\n")
    _, notes = export(tmp_path / "run", tmp_path / "model.py")
    assert notes == ("the data have changed since this run was trained",)
    points.unlink()
    with pytest.raises(DataError):
        export(tmp_path / "run", tmp_path / "other.py")
    assert not (tmp_path / "other.py").exists()


def rows_of_many(count: int = 60) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return columns of each kind, and targets of each task."""
    rng = np.random.default_rng(4)
    columns = {
        "size": np.where(np.arange(count) % 9, rng.normal(size=count), np.nan),
        "day": np.datetime64("2020-01-01") + rng.integers(0, 900, count),
        "town": rng.choice(np.array(["Ulm", "Bonn", None], object), count),
        "extra": rng.normal(size=count),
    }
    number = rng.normal(size=count)
    targets = {
        "three": rng.choice(["a", "b", "c"], count),
        "two": number > 0,
        "number": number,
        "numbers": np.stack([number, 2 - number], axis=1),
        "labels": rng.integers(0, 2, (count, 2)),
        "quantiles": number,
    }
    return columns, targets


@pytest.mark.parametrize("ending", WITHOUT_GPUMLP)
@pytest.mark.parametrize("target", ["three", "two", "number", "numbers", "labels", "quantiles"])
def test_ensembles_in_one_file(target: str, ending: str, tmp_path: Path) -> None:
    """Their models take different columns, and nothing is in the file that no output needs."""
    columns, targets = rows_of_many()
    more: dict[str, Any] = {"training": {"epochs": 1}, "backend": "numpy"}
    if target == "quantiles":
        more["loss"] = {"name": "quantile", "levels": [0.1, 0.5, 0.9]}
    if target == "labels":
        more["task"] = "multilabel"
    fewer = {name: values for name, values in columns.items() if name != "extra"}
    models = [
        gpumlp.fit(columns, targets[target], model={"hidden": [4]}, **more),
        gpumlp.fit(fewer, targets[target], model={"hidden": [3]}, **more),
    ]
    ensemble, form = WeightedModels(tuple(models), (0.25, 0.75)), FORMATS[ending]
    traced = [trace_network(_rebuilt(each, Tracer(), np.float32).network) for each in models]
    path, source = tmp_path / f"m{ending}", rows_of(columns)
    assert form.write_mean is not None
    assert form.run_mean is not None
    form.write_mean(path, list(zip(ensemble.weights, models, traced, strict=True)))
    predicted = form.run_mean(path, models, source)
    found = compare("rows", ensemble, source, predicted)
    assert found.difference <= found.allowed < 1e-2
    assert compare("rows", models[0], source, predicted).difference > found.allowed
    if ending == ".py":
        return
    graph = onnx.load(path).graph
    assert [each.name for each in graph.input] == ["size", "extra", "day", "town"]
    assert graph.output[0].name == "prediction"
    read = {name for node in graph.node for name in node.input}
    assert {each.name for each in graph.initializer} <= read
    assert all({*node.output} & (read | {each.name for each in graph.output}) for node in graph.node)


@WITH_ONNX
def test_an_ensemble_is_exported_with_rows_to_compare_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    columns, targets = rows_of_many()
    numbers = {"size": columns["extra"], "extra": targets["number"]}
    models = [gpumlp.fit(numbers, targets["three"], training={"epochs": 1, "seed": seed}) for seed in (0, 1)]
    WeightedModels(tuple(models), (0.5, 0.5)).save("both")
    lines = ["size,extra,unused", *(f"{a},{b},x" for a, b in zip(*numbers.values(), strict=True))]
    (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
    assert "an ensemble has no rows of its own" in refused("both", "-o", "m.onnx")[1]
    code, said = refused("both", "-o", "m.safetensors", "--data", "rows.csv")
    assert code == 2
    assert "export it as .py or .onnx" in said
    (tmp_path / "less.csv").write_text("extra\n1\n2\n")
    code, said = refused("both", "-o", "m.onnx", "--data", "less.csv")
    assert code == 3
    assert "there is no column 'size'" in said
    assert not list(tmp_path.glob("m.*"))
    for ending in (".onnx", ".py"):
        compared, _ = export("both", f"m{ending}", data="rows.csv")
        assert (compared.rows, compared.part) == (60, "rows.csv")
        assert compared.difference <= compared.allowed
    done = subprocess.run([sys.executable, "m.py", "rows.csv", "--proba"], capture_output=True, text=True, check=True)
    first = load_ensemble("both").predict_proba(numbers)[0]
    np.testing.assert_allclose([float(each) for each in done.stdout.splitlines()[1].split(",")[1:]], first, atol=1e-5)


@WITH_ONNX
def test_models_that_take_a_column_for_different_things_are_refused(tmp_path: Path) -> None:
    columns, targets = rows_of_many()
    models = [
        gpumlp.fit({"x": columns[name]}, targets["three"], training={"epochs": 1}, backend="numpy")
        for name in ("extra", "town")
    ]
    traced = [trace_network(_rebuilt(each, Tracer(), np.float32).network) for each in models]
    with pytest.raises(RunError, match="the models take 'x' for different things"):
        write_mean(tmp_path / "m.onnx", list(zip((0.5, 0.5), models, traced, strict=True)))


def test_the_rows_of_a_part_of_arrays_are_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32)
    np.savez(tmp_path / "a.npz", x=x, y=(x[:, 0] > 0).astype(np.int64))
    (tmp_path / "a.yaml").write_text(
        "task: classification\ndata: {train: a.npz, target: y}\ntraining: {epochs: 1}\nbackend: numpy\n"
    )
    train(load(tmp_path / "a.yaml"), tmp_path / "run")
    for most, rows in ((10, 10), (50, 15)):
        monkeypatch.setattr(files, "MAX_ROWS", most)
        compared, _ = export(tmp_path / "run", tmp_path / "m.py", force=True)
        assert (compared.part, compared.rows) == ("test", rows)


def test_what_is_computed_in_place_is_seen_through_every_name() -> None:
    def compute(x: Any) -> Any:
        shifted = x - 1.0
        alias = shifted
        shifted *= 2.0
        np.sqrt(np.abs(shifted), out=shifted)
        return alias + shifted

    def change_input(x: Any) -> Any:
        x += 1.0
        return x

    rows = np.arange(4.0).reshape(2, 2)
    np.testing.assert_array_equal(compute(as_input(rows.copy())).view(np.ndarray), compute(rows))
    with pytest.raises(UnwritableError, match="into an array"):
        change_input(as_input(rows.copy()))
