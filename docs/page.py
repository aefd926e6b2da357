"""Run every command and every line of Python in a page, and put what they print behind them.

    python docs/page.py docs/lecture.md               write the page, its pictures and its notebook anew
    python docs/page.py docs/lecture.md --check       say where the page is not what comes out; exit code 1
    python docs/page.py docs/lecture.md --notebook    write the notebook of the page as it is

A block ```console holds `$ gpumlp ...` lines, each followed by its output. A block ```python is run, all blocks of a
page as one program, and the block ```text that follows holds what it prints. Both run in a folder of their own with
`configs` and `data` of this repository; a picture that they write to `PAGE/` (the page's name) is kept beside it.
In a check, numbers may differ by what another processor rounds otherwise.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```(console|python)\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"(?<![\w.])[-−+]?\d[\d,]*\.?\d*(?:e[-+]?\d+)?")
RELATIVE, ABSOLUTE = 0.02, 1e-5
"""How far a number with a point may be from the page's: results of training differ in the last digits between
processors. Whole numbers are counts and shapes, and are what they are."""


def run_console(text: str, folder: Path) -> str:
    """Return the block with the output that its commands have now."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("$ "):
            continue
        words = shlex.split(line[2:])
        if words[0] != "gpumlp":
            raise SystemExit(f"only gpumlp is run here, not {words[0]}")
        result = subprocess.run(
            [sys.executable, "-m", "gpumlp", *words[1:]],
            cwd=folder,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"},
        )
        if result.returncode:
            raise SystemExit(f"{line[2:]}\n{result.stderr}")
        lines += [line, *(each.rstrip() for each in result.stdout.splitlines())]
    return "\n".join(lines) + "\n"


def run_python(text: str, names: dict[str, object]) -> str:
    """Return what the lines print."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(text, "page", "exec"), names)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def rendered(page: str, folder: Path) -> str:
    """Return the page with every output as it comes out now."""
    names: dict[str, object] = {"__name__": "page"}

    def block(match: re.Match[str]) -> str:
        language, text, _ = match.groups()
        if language == "console":
            return f"```console\n{run_console(text, folder)}```\n"
        printed = run_python(text, names).strip("\n")
        return f"```python\n{text}```\n" + (f"\n```text\n{printed}\n```\n" if printed else "")

    with contextlib.chdir(folder):
        return BLOCK.sub(block, page)


START = """import os

os.chdir("..")  # from docs to the checkout
os.makedirs("lecture", exist_ok=True)"""


def notebook(page: str) -> str:
    """Return the page as a Jupyter notebook: text, commands and Python as cells, with the output of the page."""
    cells, end = [_code_cell(START, "")], 0
    for match in BLOCK.finditer(page):
        language, text, printed = match.groups()
        cells += _text_cells(page[end : match.start()])
        if language == "console":
            lines = text.splitlines()
            commands = [f"!{line[2:]}" for line in lines if line.startswith("$ ")]
            text, printed = "\n".join(commands), "\n".join(line for line in lines if not line.startswith("$ ")) + "\n"
        cells.append(_code_cell(text.rstrip("\n"), printed or ""))
        end = match.end()
    cells += _text_cells(page[end:])
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    whole = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 4}
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def _text_cells(text: str) -> list[dict[str, Any]]:
    text = text.replace("<details><summary>Answer</summary>", "*Answer.*").replace("</details>", "").strip()
    return [{"cell_type": "markdown", "metadata": {}, "source": text.splitlines(keepends=True)}] if text else []


def _code_cell(text: str, printed: str) -> dict[str, Any]:
    output = {"name": "stdout", "output_type": "stream", "text": printed.splitlines(keepends=True)}
    return {
        "cell_type": "code",
        "execution_count": None,
        "metadata": {},
        "outputs": [output] if printed else [],
        "source": text.splitlines(keepends=True),
    }


def same(ours: str, theirs: str) -> bool:
    """Tell whether two lines agree but for rounding."""
    if "relative error" in ours and "relative error" in theirs:
        return True  # nothing but rounding: the places of the largest, too
    if NUMBER.sub("#", ours).split() != NUMBER.sub("#", theirs).split():
        return False
    pairs = zip(NUMBER.findall(ours), NUMBER.findall(theirs), strict=True)
    return all(
        math.isclose(number(a), number(b), rel_tol=RELATIVE, abs_tol=ABSOLUTE) if "." in a + b else a == b
        for a, b in pairs
    )


def number(text: str) -> float:
    return float(text.replace(",", "").replace("−", "-"))


def differences(page: str, now: str) -> list[str]:
    """Return where a page is not what comes out now."""
    ours, theirs = page.splitlines(), now.splitlines()
    wrong = [
        f"line {at}: the page has\n    {a}\nnow comes\n    {b}"
        for at, (a, b) in enumerate(zip(ours, theirs, strict=False), 1)
        if not same(a, b)
    ]
    return wrong if len(ours) == len(theirs) else [*wrong, f"the page has {len(ours)} lines, now come {len(theirs)}"]


def outcome(page: str, pictures: str, folder: Path) -> tuple[str, list[Path]]:
    """Run a page in a folder; return it with its output as it is now, and its pictures, which it writes there."""
    for name in ("configs", "data"):
        (folder / name).symlink_to(ROOT / name)
    (folder / pictures).mkdir()
    return rendered(page, folder), sorted((folder / pictures).iterdir())


def stale(page: str, now: str, pictures: str, *, new: list[str], old: set[str]) -> list[str]:
    """Return where a page and its kept pictures are not what comes out now."""
    return [
        *differences(page, now),
        *(f"{pictures}/{name} is not made by the page" for name in sorted(old - {*new})),
        *(f"{pictures}/{name} is not kept" for name in new if name not in old),
        *(f"{name} is shown nowhere" for name in new if f"{pictures}/{name})" not in page),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    parser.add_argument("--notebook", action="store_true", help="write the notebook alone")
    options = parser.parse_args()
    if options.notebook:
        options.page.with_suffix(".ipynb").write_text(
            notebook(options.page.read_text(encoding="utf-8")), encoding="utf-8"
        )
        return 0
    page, pictures = options.page.read_text(encoding="utf-8"), options.page.with_suffix("")
    with tempfile.TemporaryDirectory() as scratch:
        now, new = outcome(page, pictures.name, Path(scratch))
        if options.check:
            old = {path.name for path in pictures.iterdir()} if pictures.exists() else set()
            wrong = stale(page, now, pictures.name, new=[path.name for path in new], old=old)
            print("\n".join(wrong) or f"{options.page} is what comes out")
            return 1 if wrong else 0
        options.page.write_text(now, encoding="utf-8")
        options.page.with_suffix(".ipynb").write_text(notebook(now), encoding="utf-8")
        shutil.rmtree(pictures, ignore_errors=True)
        shutil.copytree(Path(scratch) / pictures.name, pictures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
