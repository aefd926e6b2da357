"""FILE.py:FUNCTION: the file is run, arguments are found, what goes wrong is told with its line."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from gpumlp.drawing.graph import trace
from gpumlp.drawing.source import is_source, load_source
from gpumlp.errors import ConfigError, GpumlpError, RunError, ShapeError

TEXT = """\
import numpy as np
from gpumlp import Tensor, Variable, mean
from sibling import offset

x = Tensor(np.ones((4, 2)))
W = Variable(np.ones((2, 1)))

def inner(x):
    return x @ W + offset

def loss(x, y=np.zeros((4, 1)), *, unused=1):
    return mean((inner(x) - y) ** 2)

def without():
    return mean(inner(x))

def missing(nowhere):
    return nowhere

def divides(x):
    return 1 / 0

def misfits(x):
    return x @ x

def leaves(x):
    raise SystemExit

if __name__ == "__main__":
    raise AssertionError("not run as a program")
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "sibling", raising=False)
    (tmp_path / "sibling.py").write_text("offset = 2.0\n")
    path = tmp_path / "lecture.py"
    path.write_text(TEXT)
    return path


def test_arguments_are_defaults_or_names_of_the_file(file: Path) -> None:
    source = load_source(f"{file}:loss")
    x, y = source.inputs
    assert (x.shape, y.shape) == ((4, 2), (4, 1))
    graph = trace(source.function, *source.inputs)
    assert graph.nodes[-1].value == 16.0
    assert [node.label for node in graph.nodes if node.is_leaf] == ["x", "W", "y"]


def test_a_function_may_find_all_it_needs_by_itself(file: Path) -> None:
    source = load_source(f"{file}:without")
    assert source.inputs == ()
    graph = trace(source.function)
    assert [(node.kind, node.label) for node in graph.nodes if node.is_leaf] == [("input", "x"), ("parameter", "W")]
    np.testing.assert_array_equal(graph.nodes[1].gradient, np.ones((2, 1)))


@pytest.mark.parametrize(
    ("name", "error", "told"),
    [
        (":lots", ConfigError, r"no function 'lots'\n  did you mean 'loss'\? allowed: inner, loss, without"),
        ("", ConfigError, r"pass .*lecture.py:FUNCTION\n  allowed: inner"),
        (":W", ConfigError, "no function 'W'"),
        (":missing", ConfigError, "missing takes 'nowhere', which the file does not define"),
    ],
)
def test_wrong_names(file: Path, name: str, error: type[GpumlpError], told: str) -> None:
    with pytest.raises(error, match=told):
        load_source(f"{file}{name}")


@pytest.mark.parametrize(
    ("name", "error", "told"),
    [
        ("divides", RunError, r"lecture.py:21: ZeroDivisionError: division by zero$"),
        ("leaves", RunError, r"lecture.py:27: SystemExit$"),
        ("misfits", ShapeError, r"^matmul: shapes \(4, 2\), \(4, 2\) do not fit"),
    ],
)
def test_what_fails_in_the_function_is_told_with_its_line(
    file: Path, name: str, error: type[GpumlpError], told: str
) -> None:
    source = load_source(f"{file}:{name}")
    with pytest.raises(error, match=told), source.blamed():
        trace(source.function, *source.inputs)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = (\n", r"bad.py:1: not valid Python: '\(' was never closed"),
        ("\nimport nothing_of_this_name\n", r"bad.py:2: ModuleNotFoundError: No module named"),
        ("", "the file defines no functions"),
    ],
)
def test_a_file_that_does_not_run(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "bad.py"
    path.write_text(text)
    with pytest.raises(GpumlpError, match=told):
        load_source(f"{path}:f")


def test_a_missing_file() -> None:
    with pytest.raises(ConfigError, match=r"nix.py: there is no such file"):
        load_source("nix.py:f")


def test_nothing_is_left_beside_the_file(file: Path) -> None:
    load_source(f"{file}:loss")
    assert {path.name for path in file.parent.iterdir()} - {"__pycache__"} == {"lecture.py", "sibling.py"}
    assert not list(file.parent.glob("__pycache__/lecture*"))


@pytest.mark.parametrize(
    ("what", "so"),
    [("a.py:f", True), ("a.py", True), ("a.yaml", False), ("runs/a", False), ("runs/a.py.yaml", False)],
)
def test_sources_are_told_from_configurations(what: str, so: bool) -> None:
    assert is_source(what) is so
