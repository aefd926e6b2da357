"""What a person sees: a progress bar or plain lines on stderr, tables on stdout.

rich is imported where a bar or a table is drawn, or something is printed on a terminal; plain lines do without.
"""

from __future__ import annotations

import io
import logging
import os
import re
import sys
import textwrap
import time
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from gpumlp.errors import Note, printable
from gpumlp.metrics import title
from gpumlp.runs import Listener
from gpumlp.training.build import Parts

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

MIN_BAR_COLUMNS = 76  # narrower terminals get plain lines instead of a progress bar
FULL_NAMES_COLUMNS = 100  # from this width on the progress line has the full names of metrics
WIDTH = 100  # columns that a table may have anywhere
SECONDS_BETWEEN_LINES = 1.0  # where no bar can be drawn, so that a log stays readable


class Screen:
    """Standard output or standard error, whatever they are at the time."""

    def __init__(self, *, error: bool = False) -> None:
        self._error = error

    @cached_property
    def console(self) -> Console:
        """What draws on it."""
        from gpumlp.cli.escaped import EscapedConsole

        return EscapedConsole(stderr=self._error)

    @property
    def is_terminal(self) -> bool:
        """Whether lines are wrapped and drawn over; variables of the environment that rich knows decide, too."""
        forced = os.environ.get("FORCE_COLOR") or os.environ.get("TTY_COMPATIBLE")
        is_plain = self._file is None or not (forced or self._file.isatty())
        return not is_plain and self.console.is_terminal

    @property
    def width(self) -> int:
        """Its columns."""
        return self.console.width

    def print(self, text: str, *, style: str) -> None:
        """Print a text; there are styles on a terminal alone."""
        if self.is_terminal:
            self.console.print(text, style=style, markup=False, soft_wrap=True)
        elif self._file is not None:
            click.echo(text, self._file)

    @property
    def _file(self) -> TextIO | None:
        """The stream; None where it was closed before the process started."""
        return sys.stderr if self._error else sys.stdout


stdout = Screen()
stderr = Screen(error=True)


class EscapedOutput(io.TextIOBase):
    """Standard output on a terminal, for data: without the control characters that may be in it."""

    def write(self, text: str) -> int:
        """Write a text."""
        return sys.stdout.write(printable(text))


def duration(seconds: float) -> str:
    """Return seconds as a person reads them, with two digits where there are few: 12.3 s, 0.046 s."""
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds:.2g} s"


def tell(text: str, *, whole: bool = False, hang: int = 0) -> None:
    """Print a result on stdout; what is wrapped goes on below its column ``hang``."""
    _print(stdout, text, whole=whole, hang=hang)


def say(text: str, style: str = "", *, whole: bool = False) -> None:
    """Print a message on stderr."""
    _print(stderr, text, style, whole=whole)


def _print(screen: Screen, text: str, style: str = "", *, whole: bool, hang: int = 0) -> None:
    """Print text, on a terminal wrapped between words unless it is to stay ``whole``, as a command to be copied."""
    text = printable(text)
    if not whole and screen.is_terminal:
        text = wrapped(text, screen.width, hang)
    screen.print(text, style=style)


def wrapped(text: str, width: int, hang: int = 0) -> str:
    """Return text with lines broken between words, and commands in them whole, to be copied."""
    return "\n".join(_wrapped(line, width, hang) for line in text.split("\n"))


_COMMAND = re.compile(r"(^|: )\s*(gpumlp [a-z]+|pip install) ")


def _wrapped(line: str, width: int, hang: int) -> str:
    indent = line[: len(line) - len(line.lstrip())] + " " * hang
    if len(line) <= width or _COMMAND.search(line):
        return line
    lines = textwrap.wrap(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines)


def remark(note: object) -> None:
    """Print a note on stderr."""
    say(f"note: {note}", style="dim")


def remarks(notes: Iterable[object]) -> None:
    """Print notes on stderr."""
    for note in notes:
        remark(note)


def warn(text: str) -> None:
    """Print a warning on stderr."""
    say(f"warning: {text}", style="yellow")


class RowCounter:
    """Counts rows on stderr, where that is a terminal and the work takes more than a second."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._rows = 0
        self._progress: Progress | None = None

    def __enter__(self) -> RowCounter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def advance(self, rows: int) -> None:
        """Count rows that are done."""
        self._rows += rows
        if self._progress is None and stderr.is_terminal and time.monotonic() - self._started > 1:
            from rich.progress import Progress, TextColumn, TimeElapsedColumn

            columns = TextColumn("{task.completed:,} rows"), TimeElapsedColumn()
            self._progress = Progress(*columns, console=stderr.console, transient=True)
            self._progress.add_task("", total=None)
            self._progress.start()
        if self._progress is not None:
            self._progress.update(self._progress.task_ids[0], completed=self._rows)


class Steps:
    """Shows how many steps of long work are done, and an estimate of the time left, on stderr if it is a terminal."""

    def __init__(self, name: str, total: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = TextColumn(name), MofNCompleteColumn(), BarColumn(), TextColumn("left"), TimeRemainingColumn()
        self._progress = Progress(*columns, console=stderr.console, transient=True, disable=not stderr.is_terminal)
        self._progress.add_task("", total=total)

    def __enter__(self) -> Steps:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def advance(self) -> None:
        """Count a step as done."""
        self._progress.advance(self._progress.task_ids[0])


class Notices(logging.Handler):
    """Says on stderr what the library logs from ``level`` on, each thing once."""

    def __init__(self, level: int = logging.INFO) -> None:
        super().__init__(level)
        self._said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Print what the library logs as a note."""
        text = record.getMessage()
        if text not in self._said:
            self._said.add(text)
            if record.levelno < logging.WARNING:
                remark(text)
            else:
                warn(text)


def number(value: float | None) -> str:
    """Return a number with four decimals, of thousands in full (51,360), and a dash for NaN and None."""
    if value is None or value != value:
        return "–"
    if 1e-3 <= abs(value) < 1e3 or value == 0:
        return f"{value:.4f}"
    return f"{value:,.0f}" if 1e3 <= abs(value) < 1e15 else f"{value:.4g}"


def print_table(table: Table) -> None:
    """Print a table on stdout, wide enough for every number: better a terminal wraps lines than that digits go."""
    from gpumlp.cli.escaped import EscapedConsole

    EscapedConsole(width=max(stdout.width, WIDTH)).print(table)


def print_metrics(metrics: Mapping[str, Mapping[str, float | None]]) -> None:
    """Print a table of metrics on stdout: one row for each, one column for each part of the data."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for part in metrics:
        table.add_column(part, justify="right", style="bold" if part == "test" else "")
    for name in next(iter(metrics.values()), ()):
        table.add_row(title(name), *(number(values.get(name)) for values in metrics.values()))
    print_table(table)


def epoch_line(row: Mapping[str, Any], metric: str = "loss", *, short: bool = False) -> str:
    """Return the training loss, the validation loss and one more metric of an epoch in one line.

    Parameters
    ----------
    row
        Row of metrics.jsonl.
    metric
        What the best epoch is chosen by: it is shown, or else accuracy or RMSE.
    short
        Whether to shorten names for a narrow terminal.
    """
    shown = [f"loss {number(row['train_loss'])}"]
    for name in ("loss", *(("accuracy", "rmse") if metric == "loss" else (metric,))):
        if (key := f"validation_{name}") in row:
            shown.append(f"{'val' if short else 'validation'} {title(name)} {number(row[key])}")
    return "  ".join(shown)


class Announcer(Listener):
    """Says on stderr how training goes: a live bar on a terminal, plain lines elsewhere."""

    def __init__(self) -> None:
        self.live = stderr.is_terminal and stderr.width >= MIN_BAR_COLUMNS
        self._short = self.live and stderr.width < FULL_NAMES_COLUMNS
        self.progress = self._bar() if self.live else None
        self._metric = "loss"
        self._said, self._unsaid, self._epoch, self._epochs = -SECONDS_BETWEEN_LINES, "", 0, 0

    def _bar(self) -> Progress:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        rest = 74 if self._short else 88  # columns of all but the bar, with 1,000 epochs
        bar = Progress(
            TextColumn("epoch"),
            MofNCompleteColumn(),
            BarColumn(max(2, min(40, stderr.width - rest))),
            TextColumn("{task.fields[line]}"),
            TimeRemainingColumn(),
            console=stderr.console,
        )
        bar.add_task("", total=None, line="")
        return bar

    def note(self, note: Note) -> None:
        remark(note)

    def prepared(self, parts: Parts, folder: Path) -> None:
        data, trainer = parts.data, parts.trainer
        sizes = [f"{len(part):,} {'training rows' if name == 'train' else name}" for name, part in data.parts.items()]
        widths = " → ".join(
            str(w) for w in (data.encoder.width, *(h.units for h in parts.architecture.hidden), data.encoder.outputs)
        )
        network = f"{len(parts.members)} networks" if len(parts.members) > 1 else "network"
        if parts.architecture.heads > 1:
            network = f"{parts.architecture.heads} members that share {parts.architecture.share}"
        say(f"{', '.join(sizes)}; {network} {widths}, {parts.model.size:,} parameters")
        self._epoch, self._epochs, self._metric = trainer.epoch, trainer.epochs, parts.metric
        if self.progress is not None:
            self._update(total=trainer.epochs, completed=trainer.epoch)
            self.progress.start()

    def batch(self, done: int, of: int) -> None:
        if done % 64 == 0 or done == of:
            self._update(completed=self._epoch + done / of)

    def epoch(self, row: dict[str, Any], best: bool) -> None:
        self._epoch = row["epoch"]
        line = epoch_line(row, self._metric, short=self._short)
        self._update(completed=self._epoch, line=line)
        if self.progress is not None:
            return
        self._unsaid = f"epoch {self._epoch}/{self._epochs}  {line}"
        if time.monotonic() - self._said >= SECONDS_BETWEEN_LINES:
            self.say()

    def _update(self, **changes: Any) -> None:
        if self.progress is not None:
            self.progress.update(self.progress.task_ids[0], **changes)

    def say(self) -> None:
        """Print the line of the last epoch, unless it has been."""
        if self._unsaid:
            say(self._unsaid)
            self._said, self._unsaid = time.monotonic(), ""

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self.progress is not None:
            self.progress.stop()
        self.say()
