"""The configurations that ship with gpumlp: each reaches what it promises, by the command a user would type."""

from __future__ import annotations

import json
import os
import statistics
from pathlib import Path

import pytest
from click.testing import CliRunner

from gpumlp.cli import main

ROOT = Path(__file__).parent.parent
FASHION = [
    Path(os.environ.get("GPUMLP_DATA", ROOT.parent / "shared" / "data")) / "fashion-mnist",
    Path("/usr/share/datasets/fashion-mnist"),
]


def trained(name: str, folder: Path, *options: str) -> dict[str, float]:
    """Train a shipped configuration and return the metrics on its test rows."""
    command = ["train", str(ROOT / "configs" / f"{name}.yaml"), "--run-dir", str(folder), "-q", "--json"]
    result = CliRunner().invoke(main, [*command, *options])
    assert result.exit_code == 0, result.stderr
    metrics: dict[str, float] = json.loads(result.stdout)["metrics"]["test"]
    return metrics


@pytest.mark.parametrize(("name", "accuracy"), [("digits", 0.97), ("breast_cancer", 0.96)])
def test_classification(tmp_path: Path, name: str, accuracy: float) -> None:
    found = [trained(name, tmp_path / str(seed), "--set", f"training.seed={seed}")["accuracy"] for seed in range(5)]
    assert found[0] >= accuracy  # as shipped
    assert statistics.median(found) >= accuracy  # and no luck of the seed


def test_diabetes(tmp_path: Path) -> None:
    found = trained("diabetes", tmp_path / "run")
    assert found["rmse"] < 60  # the constant prediction has 77
    assert found["r2"] > 0.35


def test_fashion_mnist(tmp_path: Path) -> None:
    folder = next((f for f in FASHION if (f / "train-images-idx3-ubyte.gz").exists()), None)
    if folder is None:
        pytest.skip("no Fashion-MNIST here: install dataset-fashion-mnist, or set GPUMLP_DATA")
    if os.environ.get("CI") is None and os.environ.get("GPUMLP_SLOW") is None:
        pytest.skip("a minute of training: set GPUMLP_SLOW=1")
    assert trained("fashion_mnist", tmp_path / "run", "--set", f"data.folder={folder}")["accuracy"] >= 0.89


def test_every_configuration_has_its_test() -> None:
    tests = Path(__file__).read_text()
    for path in (ROOT / "configs").glob("*.yaml"):
        assert path.stem in tests
