from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gpumlp.config import Loaded, load
from gpumlp.errors import ConfigError, RunError
from gpumlp.training import plot, train

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(task: Callable[..., Loaded], tmp_path: Path) -> Path:
    return train(task(), tmp_path / "run").folder


@pytest.fixture
def matplotlib() -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is in the extra 'plot'")


@pytest.mark.usefixtures("matplotlib")
@pytest.mark.parametrize(("ending", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_a_classification(run: Path, tmp_path: Path, ending: str, magic: bytes) -> None:
    plot(run, tmp_path / f"p.{ending}")
    content = (tmp_path / f"p.{ending}").read_bytes()
    assert content.startswith(magic)
    if ending == "svg":
        for word in ("learning curves", "validation", "predicted", "test rows"):
            assert word.encode() in content  # matplotlib writes its texts as comments beside the outlines


@pytest.mark.usefixtures("matplotlib")
@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_a_picture_drawn_again_is_the_same_file(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    for date in ("1000000000", "2000000000"):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", date)  # what matplotlib takes for now
        plot(run, tmp_path / f"{date}.{ending}")
    one, other = (path.read_bytes() for path in tmp_path.glob(f"*.{ending}"))
    assert one == other


@pytest.mark.usefixtures("matplotlib")
def test_a_regression_without_validation_or_test(tmp_path: Path) -> None:
    short = ["training={epochs: 2}", "data.split={validation: 0, test: 0}"]
    folder = train(load(ROOT / "configs/diabetes.yaml", short), tmp_path / "run").folder
    plot(folder, tmp_path / "p.svg")
    assert b"true target" in (tmp_path / "p.svg").read_bytes()
    assert b"train rows" in (tmp_path / "p.svg").read_bytes()


@pytest.mark.usefixtures("matplotlib")
def test_epochs_are_whole_numbers(tmp_path: Path) -> None:
    short = ["training.epochs=20", "training.early_stopping=null"]
    plot(train(load(ROOT / "configs/iris.yaml", short), tmp_path / "run").folder, tmp_path / "p.svg")
    curves = (tmp_path / "p.svg").read_text().partition("<!-- learning curves -->")[0]
    ticks = re.findall(r"<!-- (\S+) -->", curves.partition("<!-- epoch -->")[0])
    assert len(ticks) > 2
    assert all(tick.isdigit() for tick in ticks)


def test_what_cannot_be_drawn(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"cannot draw \.gif\n.*allowed: png, svg, pdf"):
        plot(run, tmp_path / "p.gif")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(RunError, match=r"pip install 'gpumlp\[plot\]'"):
        plot(run, tmp_path / "p.png")
