"""The house rules that a program can see: which way imports run, and what importing costs."""

from __future__ import annotations

import ast
import inspect
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from rooms import FILES, PACKAGE, ROOMS, ROOT, imports, room, room_of, rooms_below, tree

FLOORS = [  # a room stands one floor above the highest room that it imports from
    ["errors", "limits", "phases", "seeds", "version"],
    ["metrics", "ops", "ranks", "store"],
    ["backend", "data"],
    ["autodiff", "optim", "checks"],
    ["nn", "bench", "drawing"],
    ["config", "convert", "approximation"],
    ["training"],
    ["report"],
    ["runs"],
    ["explain", "export", "sklearn", "sweep", "__init__"],
    ["cli"],
    ["__main__"],
]
FLOOR = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}


def test_every_room_has_a_floor() -> None:
    assert set(FLOOR) == ROOMS


def test_the_picture_is_what_the_imports_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])  # which the script extends
    script = runpy.run_path(str(ROOT / "docs" / "architecture.py"))
    assert script["drawn"](rooms_below()) == script["PICTURE"].read_text(encoding="utf-8"), (
        "run python docs/architecture.py"
    )


def test_the_page_tells_what_every_room_does() -> None:
    table = re.findall(r"^\| (`[^|]+) \|", (ROOT / "docs" / "architecture.md").read_text(), re.M)
    told = {name for cell in table for name in re.findall(r"`(\w+)`", cell)}
    assert ROOMS - told == {"__init__", "__main__"}


def test_the_walks_lead_past_what_is_there() -> None:
    """Each `path:name` of docs/architecture.md is a function, a class or a constant of that file."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    named = re.findall(r"`([\w/]+\.(?:py|cuh?|h)):(\w+)`", text)
    assert len(named) > 40
    for file, name in named:
        path = (ROOT if file.startswith("kernels/") else PACKAGE) / file
        assert re.search(rf"^\s*(?:def |class |#define |template .*)?{name}\b", path.read_text(), re.M), (file, name)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    if path == PACKAGE / "__init__.py":
        return  # names for type checkers only; the next tests show that it loads nothing
    here = room_of(path)
    for module in imports(path):
        there = room(module)
        assert there == here or FLOOR[there] < FLOOR[here], f"{path} imports {module}, which stands above it"


@pytest.mark.parametrize("name", FLOOR)
def test_a_room_stands_on_the_highest_room_that_it_imports(name: str) -> None:
    """A floor too high would allow imports that nobody needs, and hide what a room costs to have."""
    below = rooms_below()[name]
    assert FLOOR[name] == 1 + max((FLOOR[other] for other in below), default=-1), sorted(below)


SECTION = re.compile(r"^(?:Parameters|Attributes|Raises|Yields)\n-+\n((?:.+\n?)+)", re.M)
ENTRY = re.compile(r"(\w+(, \w+)*)( : \S.*)?")
"""A name, or several, and perhaps a type, as numpydoc has them; what it is follows in an indented line."""


def test_sections_of_docstrings_are_of_one_dialect() -> None:
    """Each entry is a line of its own, with a text below it; that none is missing is ruff's to see (D417)."""
    wrong = []
    for path in FILES:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                for section in SECTION.findall(ast.get_docstring(node) or ""):
                    lines = [*section.splitlines(), ""]
                    for line, below in pairwise(lines):
                        if not line.startswith(" ") and not (ENTRY.fullmatch(line) and below.startswith("    ")):
                            wrong.append((path.relative_to(ROOT).as_posix(), line))
    assert not wrong, "write the name, or the class of the error, in a line, and what it is indented below"


LOOSE = re.compile(r"^(?!(?:Parameters|Attributes|Returns|Raises|Yields)$)[\w, ]{1,40} : \S", re.M)


def test_what_parameters_mean_stands_in_their_section() -> None:
    loose = [
        (path.relative_to(ROOT).as_posix(), node.name)
        for path in FILES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        if LOOSE.search(re.split(r"^\w+\n-{3,}$", ast.get_docstring(node) or "", maxsplit=1, flags=re.M)[0])
    ]
    assert not loose, "give these a section: Parameters or Attributes, as numpydoc has them"


def public_docstrings() -> Iterator[tuple[str, Any, str]]:
    """Yield each function, class and method of the interface of Python with its docstring, or that of its base."""
    import gpumlp

    seen = set()
    for name in gpumlp.__all__:
        value = getattr(gpumlp, name)
        if inspect.ismodule(value):
            continue
        yield name, value, inspect.getdoc(value) or ""
        for method, function in inspect.getmembers(value, inspect.isfunction) if inspect.isclass(value) else ():
            if not method.startswith("_") and function not in seen:
                seen.add(function)
                yield f"{name}.{method}", function, inspect.getdoc(getattr(value, method)) or ""


def test_the_interface_of_python_documents_all_it_takes_and_returns() -> None:
    gaps = {}
    for name, value, text in public_docstrings():
        entries = "\n".join(SECTION.findall(text)).splitlines()
        known = {
            each.strip() for line in entries if ENTRY.fullmatch(line) for each in line.split(" : ")[0].split(",")
        }
        signature = inspect.signature(value)
        missing = {parameter for parameter in signature.parameters if parameter != "self"} - known
        gives = not inspect.isclass(value) and signature.return_annotation not in (None, "None")
        if gives and not re.search(r"^(Returns|Yields)\n-+$", text, re.M):
            missing.add("Returns")
        if missing or not text:
            gaps[name] = missing
    assert not gaps


def test_whatever_is_public_has_a_docstring() -> None:
    """A method has its own, or is named as a method that has: what it overrides, or a protocol's."""
    nodes = [(path, node) for path in FILES for node in ast.walk(tree(path)) if isinstance(node, ast.ClassDef)]
    methods = [
        (path, node.name, method)
        for path, node in nodes
        if not node.name.startswith("_")
        for method in node.body
        if isinstance(method, ast.FunctionDef) and not method.name.startswith("_")
    ]
    known = {method.name for _, _, method in methods if ast.get_docstring(method)}
    plain = {"shape", "dtype", "ndim", "size", "T", "name"}  # as NumPy calls them
    silent = [(path.name, owner, m.name) for path, owner, m in methods if m.name not in known | plain]
    assert not silent


RIDDLES = re.compile(
    r"\b(can be had|c[ao]mes? apart|remed(y|ies)|mend(s|ed)?|whoever|tells? whether|cannot be told|of so many|"
    r"(?<!there )is no ((finite|plain) )?(number|text|array|rule|network|name|date))\b",
    re.I,
)
"""Once said for: is available, diverged, hint, fix, the caller, shows whether, is not clear, is not a number."""


def texts_for_users() -> Iterator[tuple[str, str]]:
    """Yield pages of the documentation, and texts of the code that are not docstrings."""
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        yield page.name, page.read_text()
    for path in FILES:
        nodes = list(ast.walk(tree(path)))
        owners = [
            node for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module) and node.body
        ]
        docstrings = {id(node.body[0].value) for node in owners if isinstance(node.body[0], ast.Expr)}
        for node in nodes:
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                yield f"{path.relative_to(ROOT)}:{node.lineno}", node.value


def test_texts_for_users_have_the_usual_words() -> None:
    found = [(where, riddle.group(0)) for where, text in texts_for_users() for riddle in RIDDLES.finditer(text)]
    assert not found


MACHINES = ("host", "cuda")


@pytest.mark.parametrize(("machine", "other"), [MACHINES, MACHINES[::-1]])
def test_what_is_for_one_machine_knows_nothing_of_the_other(machine: str, other: str) -> None:
    for path in sorted((PACKAGE / "backend" / machine).glob("*.py")):
        assert not [m for m in imports(path) if m.startswith(f"gpumlp.backend.{other}")], path


@pytest.mark.parametrize("name", ["ops", "autodiff", "optim", "nn", "checks", "training", "explain"])
def test_only_the_table_of_backends_knows_their_machines(name: str) -> None:
    """What computes is passed in as a backend: nobody asks whether it is a processor or a GPU."""
    for path in (path for path in FILES if room_of(path) == name):
        assert not [m for m in imports(path) if m.startswith(tuple(f"gpumlp.backend.{m}" for m in MACHINES))], path


TUNING = re.compile(r"cuda|cublas|epilogue|lane|trial|branch|graph|mask_|_mask|relu|through|launcher", re.I)
"""What names for tuning of a GPU have in them.."""
NOT_TUNING = {"_is_mask", "_refuse_mask", "has_mask"}
SEAM = ["autodiff/tape.py", "autodiff/tensor.py", "backend/base.py", "backend/capture.py", "optim/*.py", "nn/*.py"]


@pytest.mark.parametrize("files", SEAM)
def test_tuning_for_a_gpu_is_behind_the_seam_of_its_backend(files: str) -> None:
    """The tape, tensors, what every backend offers, optimizers and layers name no part of it."""
    paths = sorted(PACKAGE.glob(files))
    assert paths
    for path in paths:
        names = {
            name
            for node in ast.walk(tree(path))
            for name in (getattr(node, field, None) for field in ("id", "attr", "arg", "name", "module"))
            if isinstance(name, str)
        }
        assert not [name for name in names - NOT_TUNING if TUNING.search(name)], path


def test_runs_ask_no_loop_for_its_class() -> None:
    """Where a loop stands, what it notes and what came of it are methods: a new kind of loop changes no run."""
    for path in (path for path in FILES if room_of(path) == "runs"):
        assert "MembersLoop" not in path.read_text(), path


EMPTY_NAMES = {
    "asked",
    "found",
    "given",
    "kept",
    "made",
    "own",
    "place",
    "places",
    "said",
    "told",
    "wanted",
    "what",
    "who",
}
"""Names that say nothing of what they hold: it is a name's match, a user's setting, a rank, a message, ..."""
NAMED_SO = {
    "gpumlp/errors.py": "what, where and hint are the parts of every error",
    "gpumlp/config/section.py": "what is wrong with a setting becomes that of its error",
    "gpumlp/nn/inputs.py": "place is a parameter of Layer.equation",
    "gpumlp/nn/layer.py": "place is a parameter of Layer.equation, and Layer.place a verb",
    "gpumlp/nn/layers.py": "place is a parameter of Layer.equation",
    "gpumlp/nn/members.py": "place is a parameter of Layer.equation",
}


def bound_names(path: Path) -> Iterator[str]:
    """Yield what a file calls its variables, parameters, fields, functions and classes."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def test_a_name_says_what_it_holds() -> None:
    files = {path.relative_to(ROOT).as_posix(): path for path in FILES}
    empty = {file: [name for name in bound_names(path) if name in EMPTY_NAMES] for file, path in files.items()}
    assert set().union(*(empty[file] for file in NAMED_SO)) == {"what", "place"}
    others = [(file, name) for file, names in empty.items() if file not in NAMED_SO for name in names]
    assert not others


TWO_MEANINGS = {
    "Sequential": "the layers, and the same with fit",
    "Activation": "a record of ops, and the layer that applies it",
    "Loss": "a record of ops, and what a model is trained by",
    "Predictor": "a model that predicts block by block, and what a report needs of one",
    "Section": "of settings, and of a report",
    "Study": "of Optuna, and of the lecture",
    "Curve": "drawn, and measured by the lecture",
}


def test_a_class_has_a_name_of_its_own() -> None:
    """One name for one thing, but for those that a reader of one room will not take for the other's.

    Sections of settings are called as the settings are.
    """
    files: dict[str, set[Path]] = {}
    for path in (path for path in FILES if not path.name.endswith("settings.py")):
        for name in re.findall(r"^class ([A-Z]\w*)", path.read_text(), re.M):
            files.setdefault(name, set()).add(path)
    twice = {name: where for name, where in files.items() if len(where) > 1 and name not in TWO_MEANINGS}
    assert not twice, "rename one of each, or add the name to TWO_MEANINGS with what it means"


def test_no_file_is_in_a_circle() -> None:
    name = {p: ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for p in FILES}
    graph = {name[p]: {m for m in imports(p) if m in name.values()} for p in FILES if p.name != "__init__.py"}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " → ".join((*trail, module))
        if module not in done:
            for other in graph.get(module, ()):
                visit(other, (*trail, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def loaded_by(statement: str) -> set[str]:
    """Return the modules that a fresh interpreter has loaded after a statement."""
    code = f"import sys; {statement}; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


HEAVY = {"numpy", "cupy", "torch", "pydantic", "rich", "yaml", "safetensors", "sklearn"}


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert not loaded_by("import gpumlp") & HEAVY


def test_the_command_line_loads_nothing_heavy_until_a_verb_runs() -> None:
    assert not loaded_by("import gpumlp.cli") & HEAVY


NOT_OF_A_SMALL_RUN = {"arro3", "cupy", "duckdb", "gpumlp.export", "gpumlp.report", "matplotlib", "numpy.ma", "rich"}


def test_training_on_a_small_file_loads_only_what_it_uses(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,y\n" + "".join(f"{i},{'no' if i % 3 else 'yes'}\n" for i in range(60)))
    (tmp_path / "a.yaml").write_text("{task: classification, data: {train: a.csv, target: y}, backend: numpy}")
    words = ["train", str(tmp_path / "a.yaml"), "--run-dir", str(tmp_path / "run"), "--set", "training.epochs=1"]
    loaded = loaded_by(f"from gpumlp.cli import main; main({[*words, '--json']}, standalone_mode=False)")
    assert "gpumlp.runs.run" in loaded
    assert not loaded & NOT_OF_A_SMALL_RUN
    assert sum(name.startswith("gpumlp") for name in loaded) <= 172  # a third of the time to start is theirs


def test_public_names_resolve() -> None:
    import gpumlp

    for name in gpumlp.__all__:
        assert getattr(gpumlp, name) is not None
    assert gpumlp.tanh is not None  # the name of a record
    with pytest.raises(AttributeError, match="no attribute 'tahn'"):
        gpumlp.tahn  # noqa: B018
