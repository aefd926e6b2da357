"""The pages that show output show what comes out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
PAGES = ["lecture.md"]


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_what_comes_out(page: str) -> None:
    pytest.importorskip("matplotlib", reason="the pages draw: install the extra plot")
    check = [sys.executable, str(DOCS / "page.py"), str(DOCS / page), "--check"]
    result = subprocess.run(check, capture_output=True, text=True, cwd=DOCS.parent)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("total                                   2,410", "total                                   2,999", "line"),
        ("2625 2625\n", "2625 2625\nmore\n", "lines"),
        ("2625 2625\n", "2626 2625\n", "now comes"),
        ("lecture/activations.svg)", "lecture/other.svg)", "is shown nowhere"),
    ],
)
def test_a_stale_page_is_found(tmp_path: Path, old: str, new: str, message: str) -> None:
    pytest.importorskip("matplotlib", reason="the pages draw: install the extra plot")
    text = (DOCS / "lecture.md").read_text().split("## 4.")[0]
    assert old in text
    (tmp_path / "lecture.md").write_text(text.replace(old, new))
    check = [sys.executable, str(DOCS / "page.py"), str(tmp_path / "lecture.md"), "--check"]
    result = subprocess.run(check, capture_output=True, text=True, cwd=DOCS.parent)
    assert result.returncode == 1
    assert message in result.stdout
