"""The README is the start of the site, the changelog a page, and formulas become MathML."""

from __future__ import annotations

import html
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ELSEWHERE = {"index.md": "README.md", "changelog.md": "CHANGELOG.md"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that do not lie in ``docs``."""
    root = Path(config.docs_dir).parent
    for page, source in ELSEWHERE.items():
        text = (root / source).read_text(encoding="utf-8").replace("](docs/", "](")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Let what is folded away be Markdown, as it is elsewhere."""
    return markdown.replace("<details>", "<details markdown>")


def on_page_content(content: str, **_: object) -> str:
    """Write formulas as MathML, which browsers show without a script from elsewhere."""

    def formula(match: re.Match[str]) -> str:
        return convert(html.unescape(match["latex"]), display="block" if match["mark"] == "[" else "inline")

    pattern = r'<(?P<tag>span|div) class="arithmatex">\\(?P<mark>[(\[])(?P<latex>.*?)\\[)\]]</(?P=tag)>'
    return re.sub(pattern, formula, content, flags=re.DOTALL)
