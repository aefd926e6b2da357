"""The house rules that a program can see: which way imports run, and what importing costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "gpumlp"
FLOORS = [  # a room stands one floor above the highest room that it imports from
    ["errors", "limits", "seeds"],
    ["ops", "data", "store"],
    ["backend"],
    ["autodiff", "optim", "checks"],
    ["nn", "bench", "drawing"],
    ["config", "convert", "approximation"],
    ["training"],
    ["runs"],
    ["explain", "__init__"],
    ["cli"],
    ["__main__"],
]
FLOOR = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}


def imports(path: Path) -> list[str]:
    """Return the modules of gpumlp that a file imports, as dotted names."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == "gpumlp":
                found += [f"gpumlp.{alias.name}" for alias in node.names]
            elif node.module and node.module.startswith("gpumlp."):
                found.append(node.module)
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] == "gpumlp"]
    return found


def room(module: str) -> str:
    """Return the room of a module: the name below gpumlp, or __init__ for a name of the package itself."""
    name = module.split(".")[1] if "." in module else "__init__"
    return name if name in FLOOR else "__init__"


FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    """Return the room that a file stands in."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_room_has_a_floor() -> None:
    rooms = {p.name for p in PACKAGE.iterdir() if p.is_dir() and (p / "__init__.py").exists()}
    rooms |= {p.stem for p in PACKAGE.glob("*.py")}
    assert rooms == set(FLOOR)


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
    below = {room(module) for path in FILES if room_of(path) == name for module in imports(path)} - {name}
    assert FLOOR[name] == 1 + max((FLOOR[other] for other in below), default=-1), sorted(below)


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
    """Return the top-level packages that a fresh interpreter has loaded after a statement."""
    code = f"import sys; {statement}; print(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


HEAVY = {"numpy", "cupy", "torch", "pydantic", "rich", "yaml", "safetensors"}


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert not loaded_by("import gpumlp") & HEAVY


def test_the_command_line_loads_nothing_heavy_until_a_verb_runs() -> None:
    assert not loaded_by("import gpumlp.cli") & HEAVY


def test_training_never_imports_cupy_by_itself() -> None:
    assert "cupy" not in loaded_by("import gpumlp.runs")


def test_public_names_resolve() -> None:
    import gpumlp

    for name in gpumlp.__all__:
        assert getattr(gpumlp, name) is not None
    assert gpumlp.tanh is not None  # the name of a record
    with pytest.raises(AttributeError, match="no attribute 'tahn'"):
        gpumlp.tahn  # noqa: B018
