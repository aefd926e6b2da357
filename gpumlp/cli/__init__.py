"""The command line: parse, call, print, exit code."""

from gpumlp.cli.interrupt import importing

with importing():
    from gpumlp.cli.main import main

__all__ = ["main"]
