"""Whole runs in every precision: what they reach, what they leave behind, what is said of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from gpumlp import backend as backends
from gpumlp.config import Loaded, load
from gpumlp.data import read
from gpumlp.errors import ConfigError
from gpumlp.ops.precision import PRECISIONS
from gpumlp.runs import evaluate, load_trained, train
from gpumlp.training.build import require_memory

Task = Callable[..., Loaded]
CONFIGS = Path(__file__).parent.parent.parent / "configs"


@pytest.mark.parametrize(("name", "epochs"), [("digits", 6), ("breast_cancer", 10)])
def test_bf16_is_as_good_as_float32(name: str, epochs: int, tmp_path: Path) -> None:
    """Its accuracy on the test rows lies within what the seeds make of float32's."""
    found = {}
    for precision in ("float32", "bf16"):
        found[precision] = []
        for seed in range(3):
            settings = [f"precision={precision}", f"training.epochs={epochs}", f"training.seed={seed}"]
            result = train(load(CONFIGS / f"{name}.yaml", settings), tmp_path / f"{precision} {seed}")
            found[precision].append(result.summary["metrics"]["test"]["accuracy"])
    assert min(found["float32"]) > 0.9
    assert min(found["float32"]) <= np.median(found["bf16"]) <= max(found["float32"])


SETTINGS = ("precision=bf16", "optimizer.averaging=0.9", "model.norm=batch", "model.dropout=0.1")


def test_what_a_run_in_bf16_leaves(task: Task, tmp_path: Path) -> None:
    result = train(task(*SETTINGS), tmp_path / "run")
    described = json.loads((tmp_path / "run/model/model.json").read_text())
    assert described["network"]["dtype"] == "bfloat16"
    stored = load_file(tmp_path / "run/model/weights.safetensors")
    weights = {name: a for name, a in stored.items() if name.startswith("network/")}
    assert {a.dtype for a in weights.values()} == {np.dtype(np.float32)}
    # They are the float32 weights, and not their shadow written out.
    assert any((a.view(np.uint32) & 0xFFFF).any() for name, a in weights.items() if name.endswith(".W"))
    model = load_trained(tmp_path / "run")
    p = model.network.parameters
    np.testing.assert_array_equal(p.shadow.astype(np.float32), p.values.astype(p.shadow.dtype).astype(np.float32))
    measured, notes = evaluate(tmp_path / "run")
    assert measured == result.summary["metrics"]
    assert notes == ()
    rows, _ = model.encoder.encode(read(tmp_path / "points.csv"), targets=False)
    assert next(model.outputs(rows.features)).dtype == np.float32


@pytest.mark.parametrize("name", ["numpy", "native"])
def test_a_model_in_bf16_predicts_alike_everywhere(task: Task, tmp_path: Path, name: str) -> None:
    train(task("precision=bf16", "backend=numpy"), tmp_path / "run")
    try:
        other = load_trained(tmp_path / "run", name)
    except backends.BackendError as error:
        pytest.skip(str(error))
    one = load_trained(tmp_path / "run", "numpy").predict_proba(tmp_path / "points.csv")
    np.testing.assert_allclose(other.predict_proba(tmp_path / "points.csv"), one, atol=2.0**-6)


@pytest.mark.parametrize(
    "settings",
    [
        ("model.norm=layer", "optimizer=momentum", "schedule=plateau"),
        ("data.weights=w", "data.drop=[]", "loss.class_weight=balanced"),
        ("loss.class_weight={x: 2.0}", "loss.label_smoothing=0.1", "optimizer.clip_norm=0.5"),
        ("task=regression", "data.target=a", "data.drop=[class, w]", "loss=huber"),
        ("task=regression", "data.target=a", "data.drop=[class, w]", "loss=absolute_error", "model.activation=gelu"),
        ("preset=strong", "model.hidden=[32, 32]", "members=4"),
        ("preset=tabular", "model.hidden=[32, 32]", "training.snapshots=1"),
    ],
)
def test_every_kind_of_run_does_in_bf16_what_it_does_in_float32(
    task: Task, tmp_path: Path, settings: tuple[str, ...]
) -> None:
    found = [
        train(task(f"precision={precision}", *settings), tmp_path / precision).summary["metrics"]
        for precision in ("float32", "bf16")
    ]
    assert evaluate(tmp_path / "bf16")[0] == found[1]
    found = [metrics["train"]["loss"] for metrics in found]
    assert found[1] == pytest.approx(found[0], rel=0.05)
    assert found[1] != found[0]


def test_where_nothing_is_faster_tf32_is_float32_and_says_so_once(task: Task, tmp_path: Path) -> None:
    result = train(task("precision=tf32", "backend=numpy"), tmp_path / "tf32")
    said = [note for note in result.notes if "tf32" in note]
    assert said == ["precision tf32: numpy computes matrix products in float32, which is fastest here"]
    train(task("backend=numpy"), tmp_path / "float32")
    for name in ("model.json", "weights.safetensors"):
        assert (tmp_path / "tf32/model" / name).read_bytes() == (tmp_path / "float32/model" / name).read_bytes()


def test_without_ml_dtypes_nothing_is_begun(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(ConfigError, match=r"bfloat16 needs the package ml_dtypes"):
        train(task("precision=bf16"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_model_can_be_read_in_the_precision_it_was_trained_in(task: Task, tmp_path: Path, precision: str) -> None:
    train(task(f"precision={precision}"), tmp_path / "run")
    assert load_trained(tmp_path / "run").network.context.dtype == PRECISIONS[precision].dtype


def test_memory_is_asked_for_by_what_is_trained(task: Task) -> None:
    """Values, gradients and Adam's two: 4 numbers of 4 bytes for each of 25 parameters, by one input and output."""
    for precision, needed in (("bf16", 400), ("tf32", 400), ("float32", 400), ("float64", 800)):
        settings = task(f"precision={precision}").settings
        require_memory(settings, needed)
        with pytest.raises(ConfigError, match=rf"at least {needed:,} bytes"):
            require_memory(settings, needed - 1)
