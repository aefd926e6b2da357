"""The command line: parse, call, print, exit code."""

from gpumlp.cli.interrupt import ctrl_c_ends_at_once

with ctrl_c_ends_at_once():
    from gpumlp.cli.main import main

__all__ = ["main"]
