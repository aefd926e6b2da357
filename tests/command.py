"""The command line, run in this process."""

from __future__ import annotations

from click.testing import CliRunner, Result

from gpumlp.cli import main


def run(*arguments: object, stdin: str | None = None, code: int = 0) -> Result:
    """Run the command and check its exit code."""
    result = CliRunner().invoke(main, list(map(str, arguments)), input=stdin)
    assert result.exit_code == code, f"{result.stdout}\n{result.stderr}\n{result.exception!r}"
    return result
