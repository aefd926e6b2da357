"""The pages that show output show what comes out."""

from __future__ import annotations

import importlib.util
import json
import random
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from command import run

from gpumlp.config.settings import Settings
from gpumlp.nn import LOSSES
from gpumlp.optim import OPTIMIZERS, SCHEDULES

DOCS = Path(__file__).parent.parent / "docs"
PAGES = ["lecture.md"]


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_what_comes_out(page: str) -> None:
    pytest.importorskip("matplotlib", reason="the pages draw: install the extra plot")
    check = [sys.executable, str(DOCS / "page.py"), str(DOCS / page), "--check"]
    result = subprocess.run(check, capture_output=True, text=True, cwd=DOCS.parent)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture(scope="module")
def beginning(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, list[str]]:
    """Return the lecture up to its fourth section, the same with what comes out, and the names of its pictures."""
    pytest.importorskip("matplotlib", reason="the pages draw: install the extra plot")
    text = (DOCS / "lecture.md").read_text().split("## 4.")[0]
    now, pictures = script("page").outcome(text, "lecture", tmp_path_factory.mktemp("page"))
    return text, now, [path.name for path in pictures]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("", "", None),
        ("total                                   2,410", "total                                   2,999", "line"),
        ("2625 2625\n", "2625 2625\nmore\n", "lines"),
        ("2625 2625\n", "2626 2625\n", "now comes"),
        ("lecture/activations.svg)", "lecture/other.svg)", "is shown nowhere"),
    ],
)
def test_a_stale_page_is_found(
    beginning: tuple[str, str, list[str]], old: str, new: str, message: str | None
) -> None:
    text, now, names = beginning
    assert old in text
    wrong = script("page").stale(text.replace(old, new), now, "lecture", new=names, old={*names})
    assert wrong == [] if message is None else message in "\n".join(wrong)


def test_a_stale_page_ends_in_one(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("```python\nprint(1)\n```\n\n```text\n2\n```\n")
    check = [sys.executable, str(DOCS / "page.py"), str(tmp_path / "page.md"), "--check"]
    result = subprocess.run(check, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stdout == "line 6: the page has\n    2\nnow comes\n    1\n"


def test_a_picture_that_is_not_made_or_not_kept_is_found() -> None:
    stale = script("page").stale
    assert stale("(p/a.svg)", "(p/a.svg)", "p", new=["a.svg"], old={"a.svg", "b.svg"}) == [
        "p/b.svg is not made by the page"
    ]
    assert stale("(p/a.svg)", "(p/a.svg)", "p", new=["a.svg"], old=set()) == ["p/a.svg is not kept"]


def script(name: str) -> Any:
    """Return a script of the documentation as a module."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES)
def test_the_notebook_is_made_from_the_page(page: str) -> None:
    text, path = (DOCS / page).read_text(encoding="utf-8"), (DOCS / page).with_suffix(".ipynb")
    assert script("page").notebook(text) == path.read_text(encoding="utf-8")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    for each in code:
        compile("\n".join("pass" if line.startswith("!") else line for line in each.split("\n")), "cell", "exec")
    assert sum(each.startswith("!gpumlp") for each in code) == text.count("```console")


@pytest.mark.parametrize("page", PAGES)
def test_formulas_are_written_in_latex_and_prose_in_80_columns(page: str) -> None:
    mathtext = pytest.importorskip("matplotlib.mathtext", reason="it reads formulas: install the extra plot")
    parser = mathtext.MathTextParser("agg")
    text = re.sub(r"^```.*?^```$", "", (DOCS / page).read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    prose = re.sub(r"`[^`]*`", "", text)
    formulas = [a or b for a, b in re.findall(r"\$\$(.+?)\$\$|\$([^$]+?)\$", prose, flags=re.DOTALL)]
    assert len(formulas) > 50
    for formula in formulas:
        parser.parse(f"${formula.replace(chr(10), ' ')}$")
    assert "$" not in re.sub(r"\$\$.+?\$\$|\$[^$]+?\$", "", prose, flags=re.DOTALL)
    plain = [line for line in text.splitlines() if not line.startswith(("![", "$$"))]
    assert max(map(len, plain)) <= 80


def settings_page() -> Any:
    """Return a page of docs/settings.py and its text."""
    return script("settings").Page()


def test_the_page_on_accuracy_shows_the_results_that_are_kept() -> None:
    assert script("accuracy").text() == (DOCS / "accuracy.md").read_text(encoding="utf-8")


def fits(*losses: float, accuracy: float | None = None) -> dict[str, Any]:
    """Return results of a set and a variant: a fit for each seed, with the roots of its squared errors."""
    tests = [{"rmse": loss} if accuracy is None else {"accuracy": accuracy, "log_loss": loss} for loss in losses]
    return {f"{seed}": {"metrics": {"test": test}, "cpu_seconds": 1.0 + seed} for seed, test in enumerate(tests)}


def test_files_of_results_come_together_on_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page, base = script("accuracy"), {"first": ["a=1"], "less": ["a=1", "b=2"]}
    monkeypatch.setattr(page, "RESULTS", tmp_path)
    one = {"yacht": {"first": fits(1.0, 2.0), "less": fits(2.0)}, "energy": {"less": fits(3.0)}}
    two = {"yacht": {"less": fits(1.0)}, "churn": {"first": fits(0.4, accuracy=0.8), "less": fits(0.2, accuracy=0.9)}}
    for date, sets, processor in (("2026-11-30", one, "old"), ("2026-11-30-2", two, "new")):
        results = {"variants": base, "sets": sets, "cores": 2, "processor": processor}
        (tmp_path / f"x-{date}.json").write_text(json.dumps(results))
    found = page._read("x")
    seeds = found["sets"]["yacht"]
    processors = {name: {seed: run.pop("processor") for seed, run in runs.items()} for name, runs in seeds.items()}
    assert processors == {"first": {"0": "old", "1": "old"}, "less": {"0": "new"}}
    assert seeds == {"first": fits(1.0, 2.0), "less": fits(1.0)}  # the later of one seed
    lines = list(page._pieces(found, "Title", "changes `{}`,"))
    assert lines[1] == "Each line changes `a=1`,"
    assert lines[-4:] == [
        "| changed | yacht | churn | mean | time |",
        "|---|---|---|---|---|",
        "| `b=2` | +0.0 | -50.0 | -29.3 | 1.0 |",
        "\nSeeds of each figure: at least 1.",
    ]
    (tmp_path / "x-2026-12-01.json").write_text(json.dumps({"variants": {"less": ["b=3"]}, "sets": {}}))
    with pytest.raises(SystemExit, match="the variant less has other settings than in files before"):
        page._read("x")


def test_goals_are_reached_by_each_mode_on_its_own() -> None:
    reached = script("accuracy")._reached
    assert reached({}, "tabular", "0.9 / 0.2") == "(0.9 / 0.2)"
    both = {"tabular": fits(0.2, accuracy=0.85), "tabular_accuracy": fits(0.4, accuracy=0.9)}
    assert reached(both, "tabular", "0.9 / 0.2") == "**0.9000** / **0.200** (0.9 / 0.2)"
    del both["tabular_accuracy"]
    assert reached(both, "tabular", "0.86 / 0.199") == "0.8500 / 0.200 (0.86 / 0.199)"
    assert reached({"tabular": fits(1.0, 2.0)}, "tabular", "1.5") == "**1.5** (1.5)"


def test_the_reference_of_settings_is_current() -> None:
    assert settings_page().text() + "\n" == (DOCS / "settings.md").read_text(encoding="utf-8")


def test_the_reference_has_every_setting_with_an_example_that_is_valid() -> None:
    page = settings_page()
    page.text()
    minimal = {"task": "classification", "data": {"train": "a.csv", "target": "y"}}
    written = Settings.model_validate(minimal).model_dump(mode="json", exclude={"loss", "optimizer", "schedule"})
    written["training"]["early_stopping"] = {"patience": 1, "min_delta": 0.0}
    leaves = {f"{a}.{b}" for a in written for b in (written[a] if isinstance(written[a], dict) else ())}
    leaves |= {key for key in written if not isinstance(written[key], dict)}
    choices = {"loss": LOSSES, "optimizer": OPTIMIZERS, "schedule": SCHEDULES}
    leaves |= {f"{path}.{key}" for path, table in choices.items() for spec in table.values() for key in spec.hyper}
    assert leaves <= set(page.examples)
    for path, example in page.examples.items():
        section, *keys = path.split(".")
        names = choices.get(section, {"": None})
        assert any(_is_valid(minimal, section, keys, example, name) for name in names), (path, example)


def _is_valid(minimal: dict[str, Any], section: str, keys: list[str], example: object, name: str) -> bool:
    for key in reversed(keys):
        example = [example] if key == "0" else {key: example}
    given = {**minimal, section: example}
    if keys == ["query"]:
        given["data"] = {"target": "y", **given["data"]}
    elif section == "data":
        given["data"] = minimal["data"] | given["data"]
    if keys[:1] == ["hidden"] and len(keys) > 1:
        given["model"]["hidden"][0].setdefault("units", 8)
    if keys[:1] == ["columns"] and len(keys) > 1:
        given["data"]["columns"]["NAME"].setdefault("type", "number")
    if keys[:1] == ["epochs"] and len(keys) > 1:
        given["training"]["epochs"].setdefault("steps", 5000)
    if name:
        given[section]["name"] = name
        given["task"] = LOSSES[name].task if section == "loss" else given["task"]
    try:
        Settings.model_validate(given)
    except ValueError:
        return False
    return True


FOLLOWED = ("commands.md", "graphs.md", "notebooks.md", "production.md", "python.md")
"""Pages whose lines are run by a test; of those on ranks and approximation each line takes minutes, or a machine."""
AWAY = 'data=$PWD/data && cd "$(mktemp -d)" && cp "$data/wine.csv" .'


def blocks_of(page: str) -> list[tuple[str, str]]:
    """Return the language and the text of each block of a page that is to be run."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(r"^```(python|sh|console)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def follow(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run all lines of a page, those that train for fewer epochs."""
    names: dict[str, Any] = {}
    monkeypatch.chdir(folder)
    for language, text in blocks_of(page):
        if language == "python":
            block = re.sub(r'("?epochs"?(=|: ))\d+', r"\g<1>2", text)
            if "gpumlp.sklearn" not in block or importlib.util.find_spec("sklearn") is not None:
                exec(compile(block, page, "exec"), names)
            continue
        for line in text.splitlines():
            assert line.startswith("$ ")
            if line[2:] == AWAY:
                away = Path(tempfile.mkdtemp(dir=folder.parent))
                shutil.copy("data/wine.csv", away)
                monkeypatch.chdir(away)
                continue
            command, *arguments = shlex.split(line[2:], comments=True)
            assert command == "gpumlp"
            run(*(re.sub(r"epochs=\d+", "epochs=12", each) for each in arguments))
            for path in Path().glob("*.yaml"):
                path.write_text(path.read_text().replace("epochs: null", "epochs: 9"))


def test_pages_can_be_followed_in_any_order_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib", reason="the pages draw: install the extra plot")
    folder = tmp_path / "checkout"
    (folder / "configs").mkdir(parents=True)
    (folder / "data").symlink_to(DOCS.parent / "data")
    small = "task: classification\ndata: {train: ../data/iris.csv, target: target}\ntraining: {epochs: 2}\n"
    (folder / "configs" / "digits.yaml").write_text(small)
    (folder / "own.py").write_text(next(text for language, text in blocks_of("graphs.md") if language == "python"))
    order = [*FOLLOWED, *FOLLOWED]
    random.Random(0).shuffle(order)
    order.remove("commands.md")  # it leaves nothing in this folder, so once shows what twice would
    for page in order:
        before = {path.name for path in folder.iterdir()}
        follow(page, folder, monkeypatch)
        if page == "commands.md":
            assert {path.name for path in folder.iterdir()} == before
            assert {"wine.yaml", "wine.png", "wine.py", "predictions.csv"} <= {path.name for path in Path().iterdir()}


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="the site needs mkdocs-material, which is in the extra 'dev'")
    pytest.importorskip("latex2mathml", reason="the site needs latex2mathml, which is in the extra 'dev'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=DOCS.parent)
    assert result.returncode == 0, result.stderr
    pages = {path.stem for path in tmp_path.glob("site/*.html")}
    assert {path.stem for path in DOCS.glob("*.md")} | {"index", "changelog"} <= pages
    lecture = (tmp_path / "site" / "lecture.html").read_text()
    pictures = re.findall(r'<img [^>]*src="([^"]+)"', lecture)
    assert len(pictures) >= 7
    assert all((tmp_path / "site" / picture).is_file() for picture in pictures)
    text = re.sub(r"```.*?```", "", (DOCS / "lecture.md").read_text(), flags=re.DOTALL)
    formulas = re.findall(r"\$\$.+?\$\$|\$[^$]+\$", text, re.DOTALL)
    assert lecture.count("<math ") == len(formulas) > 80
    assert "arithmatex" not in lecture
