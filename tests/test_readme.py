"""The README says what is so: its Python runs, its YAML loads, its commands exist, its sizes hold."""

from __future__ import annotations

import importlib.metadata
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from gpumlp.cli import main
from gpumlp.config import load
from gpumlp.config.presets import PRESETS
from gpumlp.config.settings import Settings

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


def test_the_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("configs", "data"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    code = blocks("python")
    assert len(code) == 3
    first, second, third = ({} for _ in code)
    for block, names in zip(code, (first, second, third), strict=True):
        exec(compile(block, "README.md", "exec"), names)
    assert first["dW"].shape == (3, 3)
    out = capsys.readouterr().out
    assert f"{(64 + 1) * 32 + (32 + 1) * 10:,}" in out
    assert float(out.splitlines()[-2]) > 0.9
    assert third["model"].encoder.task == "regression"


def test_four_lines_lead_from_a_file_to_predictions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    head, *rows = (ROOT / "data" / "iris.csv").read_text().splitlines()
    for name in ("measurements.csv", "new.csv"):
        Path(name).write_text("\n".join([head.replace("target", "species"), *rows[::3]]) + "\n")
    lines = [line[2:] for line in blocks("console")[1].splitlines()]
    assert len(lines) == 4
    for line in lines:
        command, *arguments = shlex.split(line)
        assert command == "gpumlp"
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert not ended.value.code, line
    assert "Confusion matrix" in Path("species.html").read_text()
    assert len(Path("predictions.csv").read_text().splitlines()) == 1 + len(rows[::3])


def test_the_yaml_is_a_whole_configuration(tmp_path: Path) -> None:
    (block,) = blocks("yaml")
    (tmp_path / "readme.yaml").write_text(block)
    settings = load(tmp_path / "readme.yaml").settings
    assert isinstance(settings, Settings)
    assert [hidden.units for hidden in settings.model.blocks] == [64, 32]


def test_every_command_is_in_the_table() -> None:
    told = set(re.findall(r"^\| `gpumlp (\w+)", TEXT, flags=re.MULTILINE))
    assert told == set(main.commands)


def test_every_configuration_is_in_the_table() -> None:
    told = set(re.findall(r"^\| `(\w+)` \|", TEXT, flags=re.MULTILINE))
    assert told == {path.stem for path in (ROOT / "configs").glob("*.yaml")}


def test_every_preset_is_in_the_table() -> None:
    assert set(re.findall(r"^\| `preset: (\w+)` \|", TEXT, flags=re.MULTILINE)) == set(PRESETS)


def test_the_base_installation_stays_small() -> None:
    """All packages that the base needs, as installed here, take at most 185 MB."""
    wanted, seen = ["gpumlp"], {"gpumlp"}
    size = 0
    while wanted:
        distribution = importlib.metadata.distribution(wanted.pop())
        if distribution.name != "gpumlp":
            files = (Path(str(file.locate())) for file in distribution.files or ())
            size += sum(path.stat().st_size for path in files if path.is_file())
        for requirement in distribution.requires or ():
            name = re.match(r"[\w.-]+", requirement)
            assert name is not None
            if "extra ==" not in requirement and "sys_platform" not in requirement and name[0] not in seen:
                seen.add(name[0])
                wanted.append(name[0])
    assert {"numpy", "pydantic-core", "pygments"} <= {name.lower().replace("_", "-") for name in seen}
    assert size < 185_000_000


@pytest.mark.parametrize("command", [["-c", "import gpumlp"], ["-m", "gpumlp", "--help"]])
def test_starting_imports_few_modules(command: list[str]) -> None:
    """A count instead of a time, so that a busy machine cannot fail it: NumPy alone would bring hundreds."""
    result = subprocess.run(
        [sys.executable, "-X", "importtime", *command], capture_output=True, text=True, check=True
    )
    empty = subprocess.run([sys.executable, "-X", "importtime", "-c", ""], capture_output=True, text=True, check=True)
    assert result.stderr.count("\n") - empty.stderr.count("\n") < 150
