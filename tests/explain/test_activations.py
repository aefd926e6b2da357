from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from support import ACTIVATION_REFERENCES, slopes

from gpumlp.backend import Backend
from gpumlp.errors import ConfigError, RunError
from gpumlp.explain.activations import DERIVATIVE, FUNCTION, curves, draw_activations
from gpumlp.ops import ACTIVATIONS

needs_matplotlib = pytest.mark.usefixtures("matplotlib")


@pytest.fixture
def matplotlib() -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is in the extra 'plot'")


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_curves_are_the_function_and_its_derivative(backend: Backend, name: str) -> None:
    x, y, dy = curves(ACTIVATIONS[name], backend)

    def softmax(v: float) -> float:
        return float(np.exp(v) / (np.exp(v) + 2))

    reference = softmax if name == "softmax" else ACTIVATION_REFERENCES[name]
    np.testing.assert_allclose(y, [reference(v) for v in x], rtol=1e-12, atol=1e-14)
    smooth = np.abs(x) > 1e-3
    np.testing.assert_allclose(dy[smooth], slopes(reference, x[smooth]), rtol=0, atol=1e-8)
    assert 0.0 in x


@needs_matplotlib
@pytest.mark.parametrize("count", [1, 2, 3, 5, 7, 12])
def test_a_sheet_has_a_panel_for_each_name_in_both_colours(tmp_path: Path, count: int) -> None:
    names = [*ACTIVATIONS][:count]
    file = tmp_path / "sheet.svg"
    draw_activations(names, file, Backend())
    text = file.read_text()
    assert [name for name in re.findall(r"<!-- (\w+)", text) if name in ACTIVATIONS] == names
    # One curve of each colour in a panel, and one of each in the legend.
    assert len(re.findall(f"stroke: {FUNCTION}", text)) == len(re.findall(f"stroke: {DERIVATIVE}", text)) == count + 1
    assert text.count("<!-- function") == text.count("<!-- derivative") == 1


@needs_matplotlib
def test_all_are_drawn_where_none_is_named_and_none_twice(tmp_path: Path) -> None:
    draw_activations([], tmp_path / "all.svg", Backend())
    text = (tmp_path / "all.svg").read_text()
    assert all(f"<!-- {name}" in text for name in ACTIVATIONS)
    draw_activations(["relu", "relu"], tmp_path / "one.svg", Backend())
    assert (tmp_path / "one.svg").read_text().count("<!-- relu") == 1


@needs_matplotlib
def test_the_jump_of_a_derivative_is_no_line(tmp_path: Path) -> None:
    draw_activations(["relu"], tmp_path / "relu.svg", Backend())
    paths = re.findall(rf'<path d="([^"]*)"[^>]*stroke: {DERIVATIVE}', (tmp_path / "relu.svg").read_text())
    assert max(path.count("M") for path in paths) == 2  # two pieces


@needs_matplotlib
def test_png_and_its_size(tmp_path: Path) -> None:
    from matplotlib.image import imread

    draw_activations(["tanh", "gelu"], tmp_path / "two.png", Backend())
    height, width, _ = imread(tmp_path / "two.png").shape
    assert (width, height) == (960, 450)


def test_what_cannot_be_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"unknown activation 'rellu'\n.*'relu'"):
        draw_activations(["tanh", "rellu"], tmp_path / "x.png", Backend())
    with pytest.raises(ConfigError, match=r"cannot draw \.bmp"):
        draw_activations(["tanh"], tmp_path / "x.bmp", Backend())
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(RunError, match=r"pip install 'gpumlp\[plot\]'"):
        draw_activations(["tanh"], tmp_path / "x.png", Backend())
    assert list(tmp_path.iterdir()) == []
