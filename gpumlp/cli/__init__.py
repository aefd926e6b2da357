"""The command line: parse, call, print, exit code."""

from gpumlp.cli.interrupt import ends_at_once

with ends_at_once():
    from gpumlp.cli.main import main

__all__ = ["main"]
