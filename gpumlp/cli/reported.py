"""The verb ``report``: write what is known of a run as an HTML page."""

from __future__ import annotations

from pathlib import Path

from gpumlp.cli.display import remarks, tell
from gpumlp.errors import ConfigError
from gpumlp.runs import load_run, reports
from gpumlp.runs.folder import REPORT


def report(run: Path, output: Path | None, data: Path | None, force: bool) -> None:
    """Write the report on a run."""
    output = output or load_run(run, unfinished=True).folder / REPORT
    if not output.name.lower().endswith((".html", ".htm")):
        message = f"a report is an HTML file, not {output.name!r}"
        raise ConfigError(message, where="--output", hint="the name must end in .html")
    remarks(reports.report(run, output, data=data, force=force))
    tell(str(output))
