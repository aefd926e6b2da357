"""Classes have the type of the target: in Python they compare with the column that was trained on."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpumlp
from gpumlp import load_ensemble, load_trained
from gpumlp.backend import get
from gpumlp.data import rows_of
from gpumlp.data.encoding.targets import ClassTarget
from gpumlp.data.state import StateReader
from gpumlp.errors import RunError
from gpumlp.export import export
from gpumlp.runs.ensemble import WeightedModels
from gpumlp.runs.model import parse_model

SHORT: dict[str, Any] = {"backend": "numpy", "model": {"hidden": [4]}, "training": {"epochs": 20, "batch_size": 8}}
ROWS = 48
SIDE = np.arange(ROWS) % 3
X = np.stack([np.cos(2.1 * SIDE), np.sin(2.1 * SIDE)], axis=1) + 0.01 * np.arange(2 * ROWS).reshape(-1, 2) % 1


def trained(y: Any, rows: Any = X) -> Any:
    return gpumlp.fit(rows, y, task="classification", optimizer={"learning_rate": 0.05}, **SHORT)


TARGETS: dict[str, tuple[Any, str]] = {
    "int": (SIDE - 1, "int64"),
    "uint8": (SIDE.astype(np.uint8), "int64"),
    "beyond int64": (SIDE.astype(np.uint64) + np.uint64(2**63), "object"),
    "bool": (SIDE > 0, "bool"),
    "whole float": (SIDE.astype(float), "float64"),
    "float": (SIDE / 4, "float64"),
    "text": (np.array(["-1", "0", "1"])[SIDE], "object"),
    "texts of truth": (["false" if each else "true" for each in SIDE], "object"),
    "list of int": ((10 * SIDE).tolist(), "int64"),
    "list of bool": ((SIDE > 1).tolist(), "bool"),
    "objects": (np.array([[0, 1.5, 2][each] for each in SIDE], object), "float64"),
}


@pytest.mark.parametrize("name", TARGETS)
def test_predictions_compare_with_the_target(name: str) -> None:
    y, dtype = TARGETS[name]
    model = trained(y)
    predicted = model.predict(X)
    assert predicted.dtype == dtype
    assert (predicted == np.asarray(y)).mean() > 0.9
    assert set(predicted.tolist()) <= {*np.asarray(y).tolist()}
    np.testing.assert_array_equal(model.classes[model.predict_proba(X).argmax(axis=1)], predicted)
    assert model.evaluate(X, y)["accuracy"] == (predicted == np.asarray(y)).mean()


def test_a_saved_model_keeps_the_type_and_one_without_it_returns_texts() -> None:
    model = trained(SIDE)
    again = parse_model(model.to_bytes(), get("numpy"))
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    assert again.predict(X).dtype == np.int64
    earlier = ClassTarget.from_state(StateReader({"classes": ["0", "1"]}, {}))
    assert earlier.values.tolist() == ["0", "1"]
    for classes, type_ in ((["a", "b"], "integer"), (["1", "1.0"], "number"), (["true", "x"], "boolean")):
        with pytest.raises(RunError, match=r"type is .*, which the classes are not"):
            ClassTarget.from_state(StateReader({"classes": classes, "type": type_}, {}))


def test_models_of_one_target_are_combined_whatever_their_types(tmp_path: Path) -> None:
    model = trained(SIDE)
    texts = replace(model.encoder, target=ClassTarget(model.encoder.classes))
    both = WeightedModels((model, replace(model, encoder=texts)), (0.5, 0.5))
    np.testing.assert_array_equal(both.predict(X), model.predict(X))
    both.save(tmp_path / "both")
    assert load_ensemble(tmp_path / "both", "numpy").predict(X).dtype == np.int64


@pytest.mark.parametrize(
    ("names", "values"),
    [
        (("0", "1"), [0, 1]),
        (("-1", "+1"), [-1, 1]),
        (("False", "True"), [False, True]),
        (("0.5", "1"), [0.5, 1.0]),
        (("1e-3", "2.0"), [0.001, 2.0]),
        (("01", "02"), ["01", "02"]),  # codes
        (("1", "1.0"), ["1", "1.0"]),
        (("no", "yes"), ["no", "yes"]),
        (("0", "x"), ["0", "x"]),
        (("false", "maybe", "true"), ["false", "maybe", "true"]),
        (("1", "9" * 60), ["1", "9" * 60]),
    ],
)
def test_classes_of_a_text_file_are_what_they_look_like(names: tuple[str, ...], values: list[Any]) -> None:
    assert ClassTarget.of(names, None).values.tolist() == values


def test_typed_sources_decide(tmp_path: Path) -> None:
    pl, pd = pytest.importorskip("polars"), pytest.importorskip("pandas")
    columns = {
        "whole": [0, 1],
        "real": [0.0, 1.0],
        "text": ["0", "1"],
        "flag": [False, True],
        "word": ["true", "false"],
    }
    wanted = {"whole": "integer", "real": "number", "text": "text", "flag": "boolean", "word": "text"}
    pl.DataFrame(columns).write_parquet(tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("whole\n0\n")
    large = pl.DataFrame({**columns, "day": [None, None]}, schema_overrides={"day": pl.Date})  # read by the engine
    files = gpumlp.data.read(tmp_path / "a.parquet", texts=("whole", "real"))
    for source in (files, *map(rows_of, (columns, pd.DataFrame(columns), pl.DataFrame(columns), large))):
        assert {name: source.type_of(name) for name in columns} == wanted
        assert {name: source.take(np.array([1])).type_of(name) for name in columns} == wanted
    assert gpumlp.data.read(tmp_path / "a.csv").type_of("whole") is None
    nullable = pd.DataFrame({"a": pd.array([1, None, 2], "Int64"), "b": pd.Categorical([3, 4, 3])})
    assert [rows_of(nullable).type_of(name) for name in "ab"] == ["integer", "integer"]


def test_a_script_returns_what_the_model_does(tmp_path: Path) -> None:
    rows = {"a": X[:, 0], "b": X[:, 1]}
    trained(SIDE > 0, rows).save(tmp_path / "model")
    model = load_trained(tmp_path / "model", "numpy")
    (tmp_path / "a.csv").write_text("a,b\n1,0\n-0.5,0.9\n")
    export(tmp_path / "model", tmp_path / "m.py", data=tmp_path / "a.csv")
    script = runpy.run_path(str(tmp_path / "m.py"))
    assert script["predict"]([{"a": 1.0, "b": 0.0}, {"a": -0.5, "b": 0.9}]) == model.predict(rows)[:2].tolist()
