"""The verb ``export``: write a run as a file for others, print how it compares."""

from __future__ import annotations

from pathlib import Path

from gpumlp import export as exporting
from gpumlp.cli.display import remarks, say, tell


def export(run: Path, output: Path, data: Path | None, force: bool) -> None:
    """Export a run."""
    compared, notes = exporting.export(run, output, data=data, force=force)
    remarks(notes)
    kind = f"{compared.part} " if data is None else ""
    rows = f"{compared.rows:,} {kind}row{'s' * (compared.rows != 1)}"
    say(f"the largest difference on {rows} is {compared.difference:.3g} (rounding explains {compared.allowed:.3g})")
    tell(str(output))
