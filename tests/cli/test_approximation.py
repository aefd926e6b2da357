"""``gpumlp approximate``: tables, files, and bad input."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from command import run

from gpumlp.approximation import TARGETS, study, target_of
from gpumlp.approximation.plots import draw_errors
from gpumlp.backend import Backend

QUICK = ("approximate", "--steps", "20", "--restarts", "1", "--backend", "numpy")


def test_a_table_for_each_experiment_with_counts_and_floors() -> None:
    text = run(
        *QUICK, "--widths", "2,4", "--depths", "1,2", "--activation", "tanh", "--activation", "identity"
    ).stdout
    assert "\n     2            7 " in text  # (1 + 1) 2 + (2 + 1)
    assert "\n     4           13 " in text
    assert "\n     2           33 " in text  # (1 + 1) 4 + (4 + 1) 4 + (4 + 1)
    assert "p + K + 2 = 4 units" in text
    assert text.count("is affine in x, and no affine function has a largest error below 0.68") == 2
    assert "solve of the output layer" in text  # what was done is said


def test_given_one_kind_of_size_only_that_is_tried() -> None:
    kinds = [study["kind"] for study in json.loads(run(*QUICK, "--depths", "1", "--json").stdout)["studies"]]
    assert kinds == ["depth"]


def test_json_has_every_number() -> None:
    numbers = json.loads(run(*QUICK, "--target", "hill", "--widths", "3", "--json").stdout)
    assert (numbers["target"], numbers["inputs"], numbers["steps"]) == ("hill", 2, 20)
    curves = numbers["studies"][0]["curves"]
    assert [curve["activation"] for curve in curves] == ["sigmoid", "tanh", "relu", "square", "cube"]
    (fit,) = curves[0]["fits"]
    assert fit["size"] == 3
    assert fit["parameters"] == (2 + 1) * 3 + (3 + 1)
    assert 0 < fit["error"] <= fit["error_before_solve"]


@pytest.mark.parametrize("target", ["abs", "waves"])
def test_numbers_and_pictures_are_written_and_not_overwritten_unasked(tmp_path: Path, target: str) -> None:
    pytest.importorskip("matplotlib")
    folder = tmp_path / "new" / "folder"
    command = (*QUICK, "--target", target, "--widths", "2,3", "--depths", "2", "--activation", "relu")
    run(*command, "-o", str(folder))
    pictures = {"errors.png", "fits-width.png", "fits-depth.png"}
    assert {path.name for path in folder.iterdir()} == {"approximation.json", *pictures}
    assert all((folder / name).read_bytes().startswith(b"\x89PNG") for name in pictures)
    before = (folder / "errors.png").stat().st_mtime_ns
    assert "--force" in run(*command, "-o", str(folder), code=1).stderr
    assert (folder / "errors.png").stat().st_mtime_ns == before
    run(*command, "-o", str(folder), "--force")
    assert "is a file" in run(*command, "-o", str(folder / "errors.png"), code=1).stderr


def test_interrupted_it_leaves_no_folder_and_one_that_cannot_be_written_is_refused_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    began = []

    def interrupt(*_: object, **__: object) -> None:
        began.append(True)
        raise KeyboardInterrupt

    monkeypatch.setattr("gpumlp.cli.approximation.study", interrupt)
    run(*QUICK, "-o", str(tmp_path / "new" / "folder"), code=130)
    assert (began, list(tmp_path.iterdir())) == ([True], [])
    (tmp_path / "file").touch()
    for folder in (Path("/proc/self"), tmp_path / "file" / "new", tmp_path / ("x" * 300)):
        assert run(*QUICK, "-o", str(folder), code=1).stderr.startswith(f"error: {folder}")
    assert began == [True]


def test_errors_within_one_decade_lie_beside_numbers(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = study("width", target_of("sine"), Backend(), sizes=[2, 3], activations=["identity"], restarts=1, steps=2)
    errors = [error for fit in found.curves[0].fits for error in (fit.error, fit.trained)]
    assert max(errors) < 10 * min(errors)
    draw_errors([found], tmp_path / "errors.svg")
    assert len(re.findall(r"<!-- \$.*10\^\{.*\$ -->", (tmp_path / "errors.svg").read_text())) >= 2


def test_without_matplotlib_the_mend_is_told_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = run("approximate", "-o", str(tmp_path / "out"), code=1)
    assert "pip install 'gpumlp[plot]'" in result.stderr
    assert not result.stdout
    assert not (tmp_path / "out").exists()


def test_the_list_has_every_target() -> None:
    text = run("approximate", "--list").stdout
    assert all(f"\n {name}" in text or f"\n{name}" in text for name in TARGETS)
    assert all(target.formula in text for target in TARGETS.values())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--target", "sinus"), "did you mean 'sine'?"),
        (("--target", "__import__('os')"), "unknown target"),
        (("--activation", "rleu"), "did you mean 'relu'?"),
        (("--widths", "0,4"), "width 0 is out of range"),
        (("--depths", "4,-1"), "depth -1 is out of range"),
        (("--widths", "4,many"), "'4,many' is not a list of whole numbers"),
        (("--widths", ""), "is not a list of whole numbers"),
        (("--widths", "99999999999999999999"), "is out of range"),
        (("--steps", "0"), "--steps"),
        (("--backend", "nympy"), "did you mean 'numpy'?"),
    ],
)
def test_bad_input_is_one_clear_message(options: tuple[str, ...], said: str) -> None:
    result = run("approximate", *options, code=2)
    assert said in result.stderr
    assert "Traceback" not in result.stderr
