"""gpumlp graph: every kind of subject in every format, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result
from support import BACKENDS

from gpumlp.cli import main
from gpumlp.drawing import captured

ROOT = Path(__file__).parent.parent.parent
DIABETES = str(ROOT / "configs" / "diabetes.yaml")
CANCER = str(ROOT / "configs" / "breast_cancer.yaml")


@pytest.fixture(autouse=True)
def _few_replays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captured, "REPLAYS", 2)


def draw(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["graph", *map(str, arguments)])


def texts(path: Path) -> list[str]:
    return [e.text or "" for e in ElementTree.parse(path).getroot().iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize("ending", ["svg", "png", "dot", "mermaid"])
def test_a_configuration_is_drawn_in_every_format(tmp_path: Path, ending: str) -> None:
    if ending == "png":
        pytest.importorskip("matplotlib")
    output = tmp_path / f"drawn.{ending}"
    result = draw(DIABETES, "-o", output, "--values", "--gradients")
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(output)
    start = {"svg": b"<svg", "png": b"\x89PNG", "dot": b"digraph", "mermaid": b"flowchart"}[ending]
    assert output.read_bytes().startswith(start)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_row_is_drawn_on_every_backend(tmp_path: Path, backend: str) -> None:
    output = tmp_path / "drawn.svg"
    result = draw(CANCER, "-o", output, "--values", "--row", 3, "--backend", backend)
    assert result.exit_code == 0, result.output
    shown = texts(output)
    assert [t for t in shown if t in ("·", "+", "relu", "sigmoid", "cross-entropy", "f(x)", "loss")] == [
        *["·", "+", "relu"] * 2, "·", "+", "sigmoid", "f(x)", "cross-entropy", "loss",
    ]  # fmt: skip


def test_rows_differ_and_a_row_too_far_is_refused(tmp_path: Path) -> None:
    for row in (0, 1):
        assert draw(DIABETES, "-o", tmp_path / f"{row}.svg", "--values", "--row", row).exit_code == 0
    assert (tmp_path / "0.svg").read_text() != (tmp_path / "1.svg").read_text()
    result = draw(DIABETES, "-o", tmp_path / "x.svg", "--row", 100000)
    assert result.exit_code == 2
    assert "there is no row 100000" in result.output
    assert not (tmp_path / "x.svg").exists()


def test_a_summary_has_one_box_for_each_layer(tmp_path: Path) -> None:
    output = tmp_path / "drawn.svg"
    assert draw(CANCER, "-o", output, "--summary").exit_code == 0
    shown = texts(output)
    assert shown.count("relu(x W + b)") == 2
    assert "dense_1.W (30 × 32), dense_1.b (32)" in shown


def test_twenty_layers_are_drawn_and_two_hundred_are_refused_with_a_way_out(tmp_path: Path) -> None:
    output = tmp_path / "drawn.svg"
    deep = ["--set", f"model.hidden={[8] * 20}"]
    assert draw(DIABETES, "-o", output, *deep).exit_code == 0
    assert texts(output).count("tanh") + texts(output).count("relu") == 20
    deeper = ["--set", f"model.hidden={[8] * 200}", "--force"]
    result = draw(DIABETES, "-o", output, *deeper)
    assert result.exit_code == 2
    assert "more than can be drawn" in result.output
    assert "--summary" in result.output
    assert draw(DIABETES, "-o", output, *deeper, "--summary").exit_code == 0


def test_a_finished_run_is_drawn_with_its_trained_weights(tmp_path: Path) -> None:
    run = tmp_path / "run"
    trained = ["train", DIABETES, "--run-dir", str(run), "-q", "--set", "training.epochs=2"]
    assert CliRunner().invoke(main, trained).exit_code == 0
    for what, name in ((run, "after"), (DIABETES, "before")):
        assert draw(what, "-o", tmp_path / f"{name}.dot", "--values").exit_code == 0
    assert (tmp_path / "after.dot").read_text() != (tmp_path / "before.dot").read_text()
    result = draw(run, "-o", tmp_path / "step.dot", "--captured")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_captured_step_shows_its_calls_in_order(tmp_path: Path, backend: str) -> None:
    output = tmp_path / "step.svg"
    result = draw(DIABETES, "-o", output, "--captured", "--backend", backend)
    assert result.exit_code == 0, result.output
    assert re.search(rf"^1\d calls on {backend}: [\d.,]+ µs one by one, [\d.,]+ µs as a replay", result.stdout)
    calls = [t for t in texts(output) if t.endswith((" forward", " backward", "matmul"))]
    assert calls[0] == "gather forward"
    assert calls.count("matmul") == 5  # two forward, three back: nobody wants the gradient of the inputs
    assert calls.index("squared error forward") < calls.index("identity bias backward")
    assert sum(float(t.split(", ")[1].split()[0]) for t in texts(output) if t.endswith(" %")) == pytest.approx(
        100, abs=1
    )


def test_a_function_of_a_file_is_drawn_and_timed(tmp_path: Path) -> None:
    file = tmp_path / "lecture.py"
    file.write_text(
        "import numpy as np\nfrom gpumlp import Tensor, Variable, softmax\n"
        "x = Tensor(np.ones((10, 3)))\nW, b = Variable(np.eye(3)), Variable(np.zeros(3))\n"
        "def f(x):\n    return softmax(x @ W + b)\n"
    )
    assert draw(f"{file}:f", "-o", tmp_path / "f.svg", "--values", "--gradients").exit_code == 0
    assert {"x", "W", "b", "·", "+", "softmax", "output"} <= set(texts(tmp_path / "f.svg"))
    result = draw(f"{file}:f", "-o", tmp_path / "step.svg", "--captured")
    assert result.exit_code == 0
    assert "calls" in result.stdout
    for wrong in (["--row", "1"], ["--backend", "native"], ["--set", "a=1"]):
        refused = draw(f"{file}:f", "-o", tmp_path / "x.svg", *wrong)
        assert refused.exit_code == 2
        assert "for a configuration or a run" in refused.output
    assert draw(f"{file}:g", "-o", tmp_path / "x.svg").exit_code == 2


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    output = tmp_path / "drawn.svg"
    output.write_text("mine")
    result = draw(DIABETES, "-o", output)
    assert result.exit_code == 1
    assert "the file exists" in result.output
    assert output.read_text() == "mine"
    assert draw(DIABETES, "-o", output, "--force").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["-o", "drawn.pgn"], "did you mean 'png'? allowed: svg, png, dot, mermaid"),
        (["-o", "drawn"], "cannot draw a file without ending"),
        (["-o", "drawn.svg", "--captured", "--values"], "--captured shows calls"),
        (["-o", "drawn.svg", "--backend", "nativ"], "did you mean 'native'?"),
        (["-o", "drawn.svg", "--row", "-1"], "Invalid value for '--row'"),
    ],
)
def test_wrong_usage_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = draw(DIABETES, *arguments)
    assert result.exit_code == 2
    assert told in result.output
    assert not list(tmp_path.iterdir())


def test_help_says_that_a_file_is_run() -> None:
    assert "executes the file" in CliRunner().invoke(main, ["graph", "--help"]).output
