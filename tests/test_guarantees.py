"""docs/python.md and docs/guarantees.md say what is so: the Python runs, and the tests that are named exist."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from gpumlp import evaluate, load, train

ROOT = Path(__file__).parent.parent


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / page).read_text(), flags=re.DOTALL)


def test_the_run_in_python_is_the_run_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").symlink_to(ROOT / "data")
    monkeypatch.chdir(tmp_path)
    code = [block.replace('"epochs": 30', '"epochs": 10') for block in blocks("python.md", "python")]
    assert len([line for line in code[0].splitlines() if line]) == 10
    names: dict[str, object] = {}
    for block in code:
        if "gpumlp.sklearn" in block and importlib.util.find_spec("sklearn") is None:
            continue
        exec(compile(block, "python.md", "exec"), names)
    told = capsys.readouterr().out.splitlines()
    assert float(told[0]) > 0.8
    assert len(told) == 1 + 10 + 2  # the accuracy, an epoch each, and two loops
    assert [line.split()[0] for line in told[-2:]] == ["16", "32"]
    assert told[-1].split()[1] == "completed"
    assert names["metrics"]["test"]["accuracy"] > 0.8  # type: ignore[index]
    assert len(names["labels"]) == 1797  # type: ignore[arg-type]
    (text,) = blocks("python.md", "yaml")
    (tmp_path / "digits.yaml").write_text(text)
    train(load("digits.yaml", ["training.epochs=10"]), "runs/file")
    for name in ("model.json", "weights.safetensors"):
        assert Path("runs/python/model", name).read_bytes() == Path("runs/file/model", name).read_bytes()
    metrics, _ = evaluate("runs/python", "data/digits.csv.gz")
    assert metrics["digits.csv.gz"]["accuracy"] > 0.8


def test_the_tests_that_pages_name_exist() -> None:
    named = 0
    for page in (ROOT / "docs").glob("*.md"):
        for path, test in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page.read_text()):
            assert f"def {test}(" in (ROOT / path).read_text(), f"{page.name}: {path}::{test}"
            named += 1
    assert named > 20
