"""The page of a report: sections, tables and a style sheet in one HTML file that loads nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpumlp.report.charts import text
from gpumlp.store.formats import write_bytes

STYLE = """
:root { color-scheme: light dark; --ink: #1d2329; --dim: #5b6672; --page: #fff; --panel: #f5f7f9; --rule: #d8dee4;
  --0: #0b62a8; --1: #c4450c; --2: #117a54; --3: #8a4a8f; --4: #96700a; --5: #0c7c86; --6: #b0305c; --7: #555d66; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ec; --dim: #9aa5b1; --page: #14181c; --panel: #1d2329;
  --rule: #39424b; --0: #66b2ee; --1: #ff9c66; --2: #5fcf9f; --3: #d7a1dc; --4: #e3bd52; --5: #63c9d3; --6: #f08fb1;
  --7: #aab3bd; } }
@media print { :root { color-scheme: light; --ink: #000; --dim: #444; --page: #fff; --panel: #fff; --rule: #bbb;
  --0: #0b62a8; --1: #c4450c; --2: #117a54; --3: #8a4a8f; --4: #96700a; --5: #0c7c86; --6: #b0305c; --7: #555d66; }
  body { max-width: none; font-size: 10pt; } figure, tr { break-inside: avoid; } h2 { break-after: avoid; }
  nav { display: none; } .wide { overflow: visible; } td, th { overflow-wrap: anywhere; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1rem; color: var(--ink); background: var(--page);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0.5rem 0; }
h2 { font-size: 1.2rem; margin: 2rem 0 0.5rem; border-bottom: 1px solid var(--rule); }
h3 { font-size: 1rem; margin: 1rem 0 0.25rem; }
a { color: var(--0); } nav a { margin-right: 0.9rem; white-space: nowrap; }
p, ul { margin: 0.4rem 0; max-width: 45rem; } .dim, figcaption, caption { color: var(--dim); }
.wide { overflow-x: auto; margin: 0.5rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.9rem; }
caption { text-align: left; padding: 0.2rem 0; white-space: nowrap; }
th, td { padding: 0.2rem 0.7rem 0.2rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--rule); }
td { max-width: 28rem; } th { font-weight: 600; }
.n { text-align: right; white-space: nowrap; }
.matrix td, .matrix th { padding: 0.3rem 0.5rem; text-align: center; border: 1px solid var(--rule); }
.matrix td { background: color-mix(in srgb, var(--0) calc(var(--share) * 60%), transparent); }
.bar-cell { min-width: 6rem; width: 12rem; } .bar-cell i { display: block; height: 0.9em; background: var(--0); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 18rem), 1fr)); gap: 1rem; }
figure { margin: 0; max-width: 32rem; } figcaption { font-size: 0.9rem; }
svg { display: block; width: 100%; height: auto; font: 12px system-ui, sans-serif; } svg text { fill: var(--dim); }
.grid { stroke: var(--rule); stroke-width: 0.5; fill: none; } .axis { stroke: var(--dim); fill: none; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; } .dots { stroke-width: 4.5; stroke-linecap: round;
  fill: none; opacity: 0.55; } .dots.few { stroke-width: 9; opacity: 1; }
.bar { fill: currentColor; stroke: none; opacity: 0.75; }
.faint { stroke: var(--dim); color: var(--dim); stroke-width: 1; stroke-dasharray: 3 4; fill: none; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 0 1rem; padding: 0; margin: 0; font-size: 0.85rem; }
.legend i { display: inline-block; width: 0.9em; height: 0.9em; margin-right: 0.3em; vertical-align: -0.1em; }
pre { overflow-x: auto; background: var(--panel); padding: 0.7rem; font-size: 0.85rem; white-space: pre-wrap; }
""" + "".join(
    f".s{n} {{ stroke: var(--{n}); color: var(--{n}); }} .b{n} {{ background: var(--{n}); }}\n" for n in range(8)
)
"""Colours by the reader's choice of light or dark, light ones on paper."""

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""What a browser may load or run for the page: nothing."""


@dataclass(frozen=True)
class Section:
    """A part of the page. ``html`` is written as it is: its texts have been escaped."""

    title: str
    html: str

    @property
    def anchor(self) -> str:
        """The name that links lead to."""
        return re.sub(r"[^a-z]+", "-", self.title.lower()).strip("-")


def page(title: str, about: str, sections: Sequence[Section]) -> str:
    """Return a whole HTML page.

    Parameters
    ----------
    title
        Title of the page, a plain text.
    about
        A sentence below the title.
    sections
        In their order.
    """
    links = "".join(f'<a href="#{each.anchor}">{text(each.title)}</a>' for each in sections)
    body = "\n".join(
        f'<section id="{each.anchor}"><h2>{text(each.title)}</h2>\n{each.html}</section>' for each in sections
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{text(title)}</h1>\n<p>{text(about)}</p>\n<nav>{links}</nav>\n{body}\n</body>\n</html>\n"
    )


def write(output: Path, content: str) -> None:
    """Write a page. Raises WriteError if it cannot be written."""
    write_bytes(output, content.encode("utf-8", "backslashreplace"))  # a path may have bytes that are not text


def paragraph(content: str) -> str:
    """Return a paragraph of plain text."""
    return f"<p>{text(content)}</p>\n"


def listing(items: Iterable[str]) -> str:
    """Return a list of plain texts, the empty text for none."""
    items_html = "".join(f"<li>{text(item)}</li>" for item in items)
    return f"<ul>{items_html}</ul>\n" if items_html else ""


def code(content: str) -> str:
    """Return lines of code."""
    return "<pre>" + "\n".join(map(text, content.splitlines())) + "</pre>\n"


def table(
    heads: Sequence[str], rows: Iterable[Sequence[object]], *, caption: str = "", numeric: Sequence[int] = ()
) -> str:
    """Return a table of plain texts.

    Parameters
    ----------
    heads
        Heads of the columns.
    rows
        Cells of each row, as plain texts.
    caption
        Above the table; empty for none.
    numeric
        Places of the columns of numbers, which are set to the right.
    """

    def cells(values: Sequence[object], tag: str) -> str:
        kinds = (' class="n"' if index in numeric else "" for index in range(len(values)))
        return "".join(f"<{tag}{kind}>{text(each)}</{tag}>" for kind, each in zip(kinds, values, strict=True))

    title = f"<caption>{text(caption)}</caption>" if caption else ""
    head = "".join(
        f'<th scope="col"{" class=" + chr(34) + "n" + chr(34) if number in numeric else ""}>{text(each)}</th>'
        for number, each in enumerate(heads)
    )
    body = "".join(f"<tr>{cells(row, 'td')}</tr>\n" for row in rows)
    return f'<div class="wide"><table>{title}<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>\n'


def matrix(names: Sequence[str], counts: Sequence[Sequence[float]]) -> str:
    """Return a confusion matrix: rows are the true classes, shaded by the share of the row."""
    head = "".join(f'<th scope="col">{text(name)}</th>' for name in names)
    lines = []
    for name, row in zip(names, counts, strict=True):
        total = sum(row) or 1
        cells = "".join(f'<td style="--share:{value / total:.3f}">{value:,.6g}</td>' for value in row)
        lines.append(f'<tr><th scope="row">{text(name)}</th>{cells}</tr>\n')
    return (
        '<div class="wide"><table class="matrix"><caption>rows: true class; columns: predicted class</caption>'
        f"<thead><tr><td></td>{head}</tr></thead>\n<tbody>{''.join(lines)}</tbody></table></div>\n"
    )


def bars(heads: tuple[str, str], rows: Sequence[tuple[str, float, str]]) -> str:
    """Return a table of names, values and bars as long as these: (name, value, value as text) each."""
    longest = max((value for _, value, _ in rows), default=0.0)
    lines = []
    for name, value, shown in rows:
        width = max(0.0, 100 * value / longest) if longest > 0 else 0.0
        bar = f'<i style="width:{width:.1f}%"></i>'
        lines.append(
            f'<tr><td>{text(name)}</td><td class="n">{text(shown)}</td><td class="bar-cell">{bar}</td></tr>\n'
        )
    head = f'<th scope="col">{text(heads[0])}</th><th scope="col" class="n">{text(heads[1])}</th><td></td>'
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>{"".join(lines)}</tbody></table></div>\n'
