"""A reader of a script's output who has had enough, as in ``| head -1``: no reason for a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable


def until_reader_leaves(main: Callable[[], None]) -> None:
    """Run the ``main`` of a script; end with exit code 1 and without a word when nobody reads what it prints.

    What is still to be flushed at the end goes nowhere (https://docs.python.org/3/library/signal.html#note-on-sigpipe).
    """
    try:
        try:
            main()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
