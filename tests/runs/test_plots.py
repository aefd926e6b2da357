from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from gpumlp.config import Loaded, load
from gpumlp.errors import ConfigError, RunError
from gpumlp.runs import plot, plots, train
from gpumlp.store.figure import letters, new_figure, save

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


class Axes:
    """Keep what a confusion matrix is drawn from."""

    def imshow(self, shares: Any, *, extent: Any, **_: Any) -> None:
        self.shares, self.extent = shares, extent

    def set(self, *, xlabel: str, ylabel: str) -> None:
        self.labels = xlabel, ylabel

    def set_xticks(self, places: Any, names: Any, **_: Any) -> None:
        self.across = dict(zip(places, names, strict=True))

    def set_yticks(self, places: Any, names: Any) -> None:
        self.upwards = dict(zip(places, names, strict=True))


def test_many_classes_are_drawn_in_groups_of_neighbours() -> None:
    """10,000 classes: 500 groups of 20, each row of the picture the shares of one true group."""
    axes, names = Axes(), tuple(map(str, range(9_990)))
    labels = np.array([0, 19, 19, 20, 9989])
    plots._confusion(axes, np.array([0, 5, 20, 39, 0]), labels, names)
    assert axes.shares.shape == (500, 500)
    assert axes.extent == (-0.5, 9999.5, 9999.5, -0.5)  # ticks are numbers of classes
    assert axes.labels == ("predicted, in groups of 20", "true, in groups of 20")
    found = {(int(i), int(j)): float(axes.shares[i, j]) for i, j in np.argwhere(axes.shares)}
    assert found == {(0, 0): pytest.approx(2 / 3), (0, 1): pytest.approx(1 / 3), (1, 1): 1.0, (499, 0): 1.0}


@pytest.mark.parametrize("count", [21, 500, 501])
def test_every_class_has_its_place_in_the_picture(count: int) -> None:
    axes, classes = Axes(), np.arange(count)
    plots._confusion(axes, classes, classes, tuple(map(str, classes)))
    assert (axes.shares == np.eye(len(axes.shares))).all()
    assert axes.extent[1] + 0.5 >= count
    assert axes.across == axes.upwards == {i: str(i) for i in axes.across}  # names, in their places
    assert 10 < len(axes.across) <= 20
    assert axes.labels == (("predicted", "true") if count <= 500 else axes.labels)


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


@pytest.mark.usefixtures("matplotlib")
@pytest.mark.parametrize("name", ["$\\frac$", "_private", "a\x1b[31m\nb", "x" * 3000, "中文"])
def test_names_from_data_are_drawn_letter_by_letter(tmp_path: Path, name: str) -> None:
    """No name is a formula (which may be broken), hides from a legend, or breaks the XML."""
    figure = new_figure(tmp_path / "p.svg", 3, 2)
    axes = figure.subplots()
    axes.plot([0, 1], label=letters(name))
    axes.set(xlabel=letters(name))
    assert len(axes.legend().get_texts()) == 1
    save(figure, tmp_path / "p.svg")
    root = ElementTree.parse(
        tmp_path / "p.svg", ElementTree.XMLParser(target=ElementTree.TreeBuilder(insert_comments=True))
    )
    drawn = [each.text or "" for each in root.iter() if each.tag is ElementTree.Comment]
    assert sum(name[:5].replace("\x1b", "\\x1b")[:4].strip() in text for text in drawn) == 2
    assert all(len(text) < 60 for text in drawn)
