"""docs/graphs.md says what is so: its Python runs, its picture is what the Python prints, its options exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gpumlp.cli import main

PAGE = Path(__file__).parent.parent / "docs" / "graphs.md"
TEXT = PAGE.read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


def output_of(block: str, capsys: pytest.CaptureFixture[str]) -> str:
    exec(compile(block, str(PAGE), "exec"), {"__name__": "docs"})
    return capsys.readouterr().out


def test_the_drawing_is_the_one_that_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """By hand: z = 2, h = 2, f = 5, l = 1; dl/df = 2, dV = 4, dh = 6, dW = 12, dx = 3."""
    drawn = output_of(blocks("python")[0], capsys)
    assert drawn.strip() == blocks("mermaid")[0].strip()
    for leaf, value, gradient in (("x", 2, 3), ("W", 0.5, 12), ("b", 1, 6), ("V", 3, 4), ("c", "−1", 2)):
        assert re.search(rf'"{leaf}<br/>{value}<br/>∇ {gradient}"', drawn)


def test_static_and_dynamic_are_bit_equal(capsys: pytest.CaptureFixture[str]) -> None:
    out = output_of(blocks("python")[1], capsys)
    assert re.search(r"^calls: (\d+)$", out, re.MULTILINE)
    assert "bit-equal: True" in out
    assert re.search(r"^dynamic \d+ µs, static \d+ µs$", out, re.MULTILINE)


def test_every_option_named_exists() -> None:
    options = {name for option in main.commands["graph"].params for name in option.opts}
    lines = [line for block in blocks("console") for line in block.splitlines() if line.startswith("$ gpumlp graph")]
    assert set(re.findall(r"(?<![\w-])--?[a-z]+(?![\w-])", "\n".join(lines))) <= options
    assert set(re.findall(r"`(--[a-z]+)`", TEXT)) <= options
