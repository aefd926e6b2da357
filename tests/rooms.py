"""The house as its imports make it: rooms, and which of them each file imports from."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "gpumlp"
FILES = sorted(PACKAGE.rglob("*.py"))
ROOMS = {path.stem for path in PACKAGE.glob("*.py")} | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}


@cache
def tree(path: Path) -> ast.Module:
    """Return what a file is made of."""
    return ast.parse(path.read_text())


@cache
def imports(path: Path) -> tuple[str, ...]:
    """Return the modules of gpumlp that a file imports, as dotted names."""
    found: list[str] = []
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == "gpumlp":
                found += [f"gpumlp.{alias.name}" for alias in node.names]
            elif node.module and node.module.startswith("gpumlp."):
                found.append(node.module)
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] == "gpumlp"]
    return tuple(found)


def room(module: str) -> str:
    """Return the room of a module: the name below gpumlp, or __init__ for a name of the package itself."""
    name = module.split(".")[1] if "." in module else "__init__"
    return name if name in ROOMS else "__init__"


def room_of(path: Path) -> str:
    """Return the room that a file stands in."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@cache
def rooms_below() -> dict[str, set[str]]:
    """Return for each room those that it imports from."""
    below: dict[str, set[str]] = {name: set() for name in ROOMS}
    for path in FILES:
        below[room_of(path)] |= {room(module) for module in imports(path)} - {room_of(path)}
    return below
