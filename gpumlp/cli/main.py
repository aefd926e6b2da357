"""The verbs and their options. What they do is imported when one runs, so that ``--help`` answers at once."""

from __future__ import annotations

import importlib
import io
import sys
from pathlib import Path
from typing import Any

import click

from gpumlp import __version__
from gpumlp.cli.interrupt import ctrl_c_ends_at_once
from gpumlp.errors import GpumlpError, exit_code

PATH = click.Path(path_type=Path)
DEVICE = click.option(
    "--device",
    metavar="N",
    type=click.IntRange(min=0),
    default=0,
    help="Number of the GPU that computes  [default: 0]",
)


class Main(click.Group):
    """A group that turns what gpumlp raises on purpose, and what the system refuses, into a message and exit code."""

    def main(self, *args: Any, **options: Any) -> Any:
        try:
            return super().main(*args, **options)
        except OSError as error:  # not of a reader who has had enough, as in `| head`: there click ends quietly
            self._tell(f"{error.filename or 'output'}: {error.strerror or error}")
            sys.exit(1)

    def invoke(self, ctx: click.Context) -> Any:
        if isinstance(sys.stdout, io.TextIOWrapper):  # what a terminal has no letter for is no reason to fail
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            return super().invoke(ctx)
        except GpumlpError as error:
            self._tell(str(error))
            ctx.exit(error.exit_code)
        except MemoryError as error:
            self._tell(f"there is not enough memory: {error}" if str(error) else "there is not enough memory")
            ctx.exit(1)
        except KeyboardInterrupt as interrupt:
            self._tell("interrupted")
            ctx.exit(exit_code(interrupt))

    @staticmethod
    def _tell(message: str) -> None:
        click.secho("error: ", fg="red", bold=True, nl=False, err=True)
        click.echo(message, err=True)


def call(verb: str, module: str = "verbs", **options: Any) -> None:
    """Run a verb of a module of :mod:`gpumlp.cli`."""
    with ctrl_c_ends_at_once():
        found = importlib.import_module(f"gpumlp.cli.{module}")
    getattr(found, verb)(**options)


@click.group(cls=Main, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="gpumlp")
def main() -> None:
    """Train multilayer perceptrons from one YAML file.

    \b
      gpumlp train configs/digits.yaml      train; leaves a run folder
      gpumlp evaluate runs/digits           measure it again
      gpumlp predict runs/digits new.csv    predict raw rows

    Exit codes: 0 done, 2 wrong usage or configuration, 3 wrong data, 1 anything else, 130 interrupted (143 by
    SIGTERM).
    """


@main.command()
@click.argument("config", type=PATH)
@click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Change a setting; may be repeated.")
@click.option("--run-dir", type=PATH, help="Folder of the run  [default: runs/NAME, numbered]")
@click.option("--backend", help="What computes; the same as --set backend=NAME.")
@click.option(
    "--device", metavar="N", type=click.IntRange(min=0), help="Number of the GPU; the same as --set device=N."
)
@click.option(
    "--resume", is_flag=True, help="Continue an interrupted run from its last checkpoint; begin it if need be."
)
@click.option("--force", is_flag=True, help="Delete an earlier run in the folder first.")
@click.option("-q", "--quiet", is_flag=True, help="No progress, and no notes on the data.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def train(**options: Any) -> None:
    """Train the network that CONFIG describes."""
    call("train", **options)


@main.command()
@click.argument("run", type=PATH)
@click.option("--data", type=PATH, help="A file with the target column  [default: the run's own data]")
@DEVICE
@click.option("--json", "as_json", is_flag=True, help="Print the metrics as JSON.")
def evaluate(**options: Any) -> None:
    """Measure a finished RUN."""
    call("evaluate", **options)


@main.command()
@click.argument("run", type=PATH)
@click.argument("file", type=PATH)
@click.option("-o", "--output", type=PATH, help="Write the CSV here  [default: the terminal]")
@click.option("--proba", is_flag=True, help="Add the probability of each class.")
@DEVICE
@click.option("--force", is_flag=True, help="Overwrite the output file if it exists.")
def predict(**options: Any) -> None:
    """Predict the rows of FILE with a finished RUN; - reads CSV from the terminal.

    The file has the columns of the training file; the target may be missing.
    """
    call("predict", **options)


@main.command()
@click.argument("what", metavar="RUN|CONFIG", type=PATH)
@click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Change a setting of CONFIG.")
def inspect(**options: Any) -> None:
    """Show the network, its parameters, and what came of it."""
    call("inspect", **options)


@main.command()
@click.argument("run", type=PATH)
@click.option("-o", "--output", type=PATH, help="A .png, .svg or .pdf file  [default: plot.png in the run folder]")
@click.option("--force", is_flag=True, help="Overwrite the output file if it exists.")
def plot(**options: Any) -> None:
    """Draw the learning curves and the predictions of RUN."""
    call("plot", **options)


@main.command()
@click.argument("what", metavar="CONFIG|RUN", type=PATH)
@click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Change a setting of CONFIG.")
@click.option("--row", type=click.IntRange(min=0), default=0, help="Which training row, from 0  [default: 0]")
@click.option("--backend", help="What computes  [default: that of CONFIG or RUN]")
@click.option("--json", "as_json", is_flag=True, help="Print every number as JSON.")
def backprop(**options: Any) -> None:
    """Show one row's gradients, each with its equation and beside its finite difference."""
    call("backprop", "seen", **options)


@main.command()
@click.argument("what", metavar="CONFIG|RUN", type=PATH)
@click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Change a setting of CONFIG.")
@click.option("--backend", help="What computes  [default: that of CONFIG or RUN]")
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON.")
def gradcheck(**options: Any) -> None:
    """Check the gradient of every parameter against finite differences.

    Exit code 0 where all agree, 1 where one does not.
    """
    call("gradcheck", "seen", **options)


@main.command()
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("-o", "--output", type=PATH, required=True, help="A .png, .svg or .pdf file.")
@click.option("--backend", default="numpy", help="What computes the curves  [default: numpy]")
@click.option("--force", is_flag=True, help="Overwrite the output file if it exists.")
def activations(**options: Any) -> None:
    """Draw activations, all or those of these NAMEs: the function in blue, its derivative in green."""
    call("activations", "seen", **options)


@main.command()
@click.argument("what", metavar="CONFIG|RUN|FILE.py:FUNCTION")
@click.option("-o", "--output", type=PATH, required=True, help="A .svg, .png, .dot or .mermaid file.")
@click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Change a setting of CONFIG.")
@click.option("--values", is_flag=True, help="Show values: a few numbers, else the smallest and the largest.")
@click.option("--gradients", is_flag=True, help="Show gradients flowing back, in red.")
@click.option("--row", type=click.IntRange(min=0), help="Which training row, from 0  [default: 0]")
@click.option("--summary", is_flag=True, help="One box for each layer.")
@click.option("--captured", is_flag=True, help="The calls of a captured training step, with the time of each.")
@click.option("--backend", help="What computes  [default: that of CONFIG or RUN]")
@click.option("--force", is_flag=True, help="Overwrite the output file if it exists.")
def graph(**options: Any) -> None:
    """Draw the graph of a computation: of one training row, or of a Python function.

    FILE.py:FUNCTION runs the file, as python would, so name only what you would run; then the function, under a
    tape. Arguments without a default are what the file has under their names.
    """
    call("graph", "graphs", **options)


@main.command()
@click.option("--target", default="sine", help="The function to approximate; see --list  [default: sine]")
@click.option("--activation", "activations", metavar="NAME", multiple=True, help="An activation; may be repeated.")
@click.option("--widths", help="Units of one hidden layer, as in 4,8,16; without --depths, only these.")
@click.option("--depths", help="Hidden layers of p + K + 2 units, as in 1,2,4; without --widths, only these.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Where the starts come from  [default: 0]")
@click.option("--restarts", type=click.IntRange(1, 100), default=3, help="Starts of each size  [default: 3]")
@click.option("--steps", type=click.IntRange(1, 1_000_000), default=3000, help="Steps of Adam  [default: 3000]")
@click.option("--backend", default="auto", help="What computes  [default: auto]")
@DEVICE
@click.option("-o", "--output", type=PATH, help="Write numbers (JSON) and pictures (PNG) into this folder.")
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON.")
@click.option("--force", is_flag=True, help="Overwrite the files in the folder if they exist.")
@click.option("--list", "list_targets", is_flag=True, help="List the targets and stop.")
def approximate(**options: Any) -> None:
    """Measure how near networks come to a function as they grow wider, and deeper."""
    call("approximate", "approximation", **options)


@main.command()
@click.argument("config", type=PATH)
@click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Change a setting; may be repeated.")
@click.option("--print-config", is_flag=True, help="Print all settings, defaults included.")
def validate(**options: Any) -> None:
    """Check CONFIG without training."""
    call("validate", **options)


@main.command()
def schema() -> None:
    """Print the JSON Schema of configurations, for editors."""
    call("schema")


@main.command()
def doctor() -> None:
    """Show what gpumlp finds on this machine."""
    call("doctor")


@main.group()
def bench() -> None:
    """Time what gpumlp is made of on this machine."""


@bench.command()
@click.option("--backend", default="auto", help="Whose kernels  [default: auto, the fastest there is]")
@DEVICE
@click.option(
    "--only", metavar="PATTERN", help="Only kernels whose names contain or match this, as in adam or *_error_*."
)
@click.option("--quick", is_flag=True, help="Three sizes and less time for each.")
@click.option("--json", "json_file", metavar="FILE", type=PATH, help="Write every figure here, as they come.")
@click.option("--plot", metavar="FILE", type=PATH, help="Draw bandwidth against size: a .png, .svg or .pdf file.")
@click.option("--force", is_flag=True, help="Overwrite the files if they exist.")
def kernels(**options: Any) -> None:
    """Time every kernel over a ladder of sizes, after checking that it is right.

    Beside it stand the machine's own copy of an array as large, the same operation unfused, and PyTorch's.
    """
    call("kernels", "bench", **options)
