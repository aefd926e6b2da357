"""The verbs and their options. What they do is imported when one runs, so that ``--help`` answers at once.

A test compares the options of each verb with its signature, and mypy that with the function that is called.
"""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Any

import click
from click.shell_completion import get_completion_class

from gpumlp import __version__
from gpumlp.cli.interrupt import importing, signals_raise
from gpumlp.errors import GpumlpError, exit_code, printable

PATH = click.Path(path_type=Path)
DEVICE = click.option(
    "--device",
    metavar="N",
    type=click.IntRange(min=0),
    default=0,
    help="GPU index  [default: 0]",
)
TARGET = click.option(
    "--target",
    "targets",
    metavar="NAME",
    multiple=True,
    help="Column to predict, to train on a DATA file as gpumlp init would; may be repeated.",
)


class Main(click.Group):
    """A group that turns what gpumlp raises on purpose, and what the system refuses, into a message and exit code."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Run the command of this process, or of these arguments."""
        if not args:
            _start_in_utf8()
            # To look for plugins pydantic reads the metadata of all installed packages; none should see our settings.
            os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
        try:
            return super().main(*args, **options)
        except OSError as error:  # not of a reader who has had enough, as in `| head`: there click ends quietly
            self.show_error(f"{error.filename or _unnamed()}: {error.strerror or error}")
            sys.exit(1)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a verb, and turn what it raises into a message and an exit code."""
        if isinstance(sys.stdout, io.TextIOWrapper):  # what a terminal has no letter for is no reason to fail
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            with signals_raise():
                return super().invoke(ctx)
        except click.NoSuchOption as error:
            raise _with_setting(error) from None
        except GpumlpError as error:
            self.show_error(str(error))
            ctx.exit(error.exit_code)
        except MemoryError as error:
            self.show_error(f"out of memory: {error}" if str(error) else "out of memory")
            ctx.exit(1)
        except KeyboardInterrupt as interrupt:
            self.show_error("interrupted")
            ctx.exit(exit_code(interrupt))

    @staticmethod
    def show_error(message: str) -> None:
        """Print an error on standard error, its first word in red."""
        click.secho("error: ", fg="red", bold=True, nl=False, err=True)
        if sys.stderr.isatty():
            from gpumlp.cli.display import stderr, wrapped

            message = wrapped(f"error: {message}", stderr.width).removeprefix("error: ")
        click.echo(printable(message), err=True)


def _unnamed() -> str:
    """Return what an error of the system that names no file is about: the working folder, or what is printed."""
    try:
        os.getcwd()
    except OSError:
        return "the working folder"
    return "output"


def _start_in_utf8() -> None:
    """Start again in Python's UTF-8 mode where the locale leaves names of files no letters but ASCII.

    Python has that mode by itself, unless it is switched off. Configurations are UTF-8, and so are the names in them.
    """
    if sys.getfilesystemencoding() in ("ascii", "us-ascii") and not sys.flags.utf8_mode:
        os.execv(sys.executable, [sys.executable, "-X", "utf8", "-m", "gpumlp", *sys.argv[1:]])


def _with_setting(error: click.NoSuchOption) -> click.UsageError:
    """Return the error of an unknown option, with the setting to use if there is one of that name."""
    takes_settings = error.ctx is not None and any(each.name == "overrides" for each in error.ctx.command.params)
    if takes_settings:
        from gpumlp.config.problems import home_of

        if setting := home_of(error.option_name.lstrip("-").replace("-", "_")):
            return click.UsageError(f"No such option {error.option_name!r}; use --set {setting}=VALUE", error.ctx)
    return error


@click.group(cls=Main, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="gpumlp")
def main() -> None:
    """Train multilayer perceptrons from one YAML file.

    \b
      gpumlp init data.csv --target price   write a configuration for a data file
      gpumlp train configs/digits.yaml      train and write a run folder
      gpumlp evaluate runs/digits           compute the metrics again
      gpumlp predict runs/digits new.csv    predict new rows
      gpumlp report runs/digits             write a report as HTML

    Exit codes: 0 success, 2 wrong usage or configuration, 3 wrong data, 1 any other error, 130 interrupted
    (143 by SIGTERM).
    """


@main.command()
@click.argument("data", type=PATH)
@click.option(
    "--target",
    "targets",
    metavar="NAME",
    multiple=True,
    help="Column to predict; may be repeated.  [default: list the columns and exit]",
)
@click.option("--preset", metavar="NAME", default="plain", help="Preset to start from  [default: plain]")
@click.option("-o", "--output", type=PATH, help="Output file  [default: stdout]")
@click.option("--force", is_flag=True, help="Overwrite the output file if it exists.")
def init(data: Path, targets: tuple[str, ...], preset: str, output: Path | None, force: bool) -> None:
    """Write a configuration for the data file DATA.

    The output shows how each column would be used. Without --target, only this overview is printed.
    """
    with importing():
        from gpumlp.cli import verbs
    verbs.init(data=data, targets=targets, preset=preset, output=output, force=force)


@main.command()
@click.argument("config", metavar="CONFIG|DATA", type=PATH)
@TARGET
@click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Change a setting; may be repeated.")
@click.option("--run-dir", type=PATH, help="Folder of the run  [default: runs/NAME, numbered]")
@click.option("--backend", help="Compute backend (auto, cupy, native, numpy); same as --set backend=NAME.")
@click.option("--device", metavar="N", type=click.IntRange(min=0), help="GPU index; same as --set device=N.")
@click.option(
    "--resume", is_flag=True, help="Continue a run from its last checkpoint; start it if there is no checkpoint."
)
@click.option("--force", is_flag=True, help="Replace the run in --run-dir, or the last one of this name.")
@click.option(
    "--log",
    "logs",
    type=click.Choice(["tensorboard", "mlflow"]),
    multiple=True,
    help="Log to tensorboard (run folder) or mlflow (MLFLOW_TRACKING_URI, else ./mlruns); may be repeated.",
)
@click.option("-q", "--quiet", is_flag=True, help="Do not print progress or notes.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def train(
    config: Path,
    targets: tuple[str, ...],
    overrides: tuple[str, ...],
    run_dir: Path | None,
    backend: str | None,
    device: int | None,
    resume: bool,
    force: bool,
    logs: tuple[str, ...],
    quiet: bool,
    as_json: bool,
) -> None:
    """Train a network from a CONFIG file, or directly on a DATA file.

    mpirun -n N gpumlp train ... trains one network by N processes (pip install 'gpumlp[mpi]').
    """
    with importing():
        from gpumlp.ranks import ending, start

        ranks = start()  # before NumPy counts the cores
        from gpumlp.cli import verbs
    with ending(ranks, Main.show_error):
        verbs.train(
            config=config,
            targets=targets,
            overrides=overrides,
            run_dir=run_dir,
            backend=backend,
            device=device,
            resume=resume,
            force=force,
            logs=logs,
            quiet=quiet,
            as_json=as_json,
            ranks=ranks,
        )


@main.command()
@click.argument("config", metavar="CONFIG|DATA", type=PATH)
@TARGET
@click.option("--folds", type=click.IntRange(min=2), default=5, help="Number of folds  [default: 5]")
@click.option(
    "--repeats",
    type=click.IntRange(1, 1000),
    default=1,
    help="Number of repetitions, each with other folds  [default: 1]",
)
@click.option("--group", metavar="COLUMN", help="Keep rows with equal values of this column in the same part.")
@click.option("--time", metavar="COLUMN", help="Test each fold on the rows that follow its training rows in time.")
@click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Change a setting; may be repeated.")
@click.option("--run-dir", type=PATH, help="Folder of the runs  [default: runs/NAME-cv, numbered]")
@click.option(
    "-o",
    "--output",
    type=PATH,
    help="File of the predictions: .csv, .csv.gz, .parquet, .jsonl or .npy  [default: predictions.csv in the folder]",
)
@click.option("--force", is_flag=True, help="Overwrite the output file if it exists.")
@click.option("-q", "--quiet", is_flag=True, help="Do not print progress or notes.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def cv(
    config: Path,
    targets: tuple[str, ...],
    folds: int,
    repeats: int,
    group: str | None,
    time: str | None,
    overrides: tuple[str, ...],
    run_dir: Path | None,
    output: Path | None,
    force: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Cross-validate a CONFIG file, or directly a DATA file.

    Each fold is held out in turn as test rows. Folds are drawn at random, with classes in equal shares, unless
    --group or --time is given. The same command resumes after an interruption.
    """
    with importing():
        from gpumlp.cli import sweep as several
        from gpumlp.ranks import require_alone
    require_alone("train all folds")
    several.cv(
        config=config,
        targets=targets,
        folds=folds,
        repeats=repeats,
        group=group,
        time=time,
        overrides=overrides,
        run_dir=run_dir,
        output=output,
        force=force,
        quiet=quiet,
        as_json=as_json,
    )


@main.command()
@click.argument("config", metavar="CONFIG|DATA", type=PATH)
@TARGET
@click.option(
    "--set",
    "overrides",
    metavar="KEY=VALUES",
    multiple=True,
    help="Values to try: a,b,c or log(a,b), uniform(a,b), int(a,b); one value changes a setting. May be repeated.",
)
@click.option("--trials", metavar="N", type=click.IntRange(min=1), help="Points drawn at random  [default: the grid]")
@click.option("--part", metavar="I/N", help="Only the points whose number modulo N is I.")
@click.option("--run-dir", type=PATH, help="Folder of the runs  [default: runs/NAME-sweep, numbered]")
@click.option("-q", "--quiet", is_flag=True, help="Do not print progress or notes.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def sweep(
    config: Path,
    targets: tuple[str, ...],
    overrides: tuple[str, ...],
    trials: int | None,
    part: str | None,
    run_dir: Path | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Try settings of a CONFIG file; the validation rows decide.

    \b
      gpumlp sweep CONFIG --set model.hidden=[64],[128,64] \\
        --set "optimizer.learning_rate=log(1e-4,1e-2)" --trials 20

    The same command resumes an interrupted sweep; several at once share the points. With --set
    search.sampler=tpe each point is chosen by the results of those before.
    """
    with importing():
        from gpumlp.cli import sweep as several
    several.sweep(
        config=config,
        targets=targets,
        overrides=overrides,
        trials=trials,
        part=part,
        run_dir=run_dir,
        quiet=quiet,
        as_json=as_json,
    )


@main.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=PATH)
@click.option(
    "--metric",
    "metrics",
    metavar="NAME",
    multiple=True,
    help="Metric to show, such as log_loss or r2; may be repeated  [default: accuracy or rmse]",
)
@click.option("--all", "all_settings", is_flag=True, help="Show all settings that differ, however wide the table.")
@click.option(
    "--plot", metavar="FILE", type=PATH, help="Plot the metric of each run to this .png, .svg or .pdf file."
)
@click.option("--force", is_flag=True, help="Overwrite the plot file if it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print all that differs, and all metrics, as JSON.")
def compare(
    runs: tuple[Path, ...],
    metrics: tuple[str, ...],
    all_settings: bool,
    plot: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Show the settings in which runs differ, and their metrics.

    A folder of gpumlp cv or gpumlp sweep stands for the runs in it.
    """
    with importing():
        from gpumlp.cli import sweep as several
    several.compare(runs=runs, metrics=metrics, all_settings=all_settings, plot=plot, force=force, as_json=as_json)


@main.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=PATH)
@click.option("-o", "--output", type=PATH, required=True, help="Folder of the ensemble.")
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=40,
    show_default=True,
    help="Rounds of the selection; weights are multiples of one over their number.",
)
@DEVICE
@click.option("--force", is_flag=True, help="Replace an ensemble in the output folder.")
@click.option("--json", "as_json", is_flag=True, help="Print weights and metrics as JSON.")
def ensemble(runs: tuple[Path, ...], output: Path, rounds: int, device: int, force: bool, as_json: bool) -> None:
    """Combine finished runs into a weighted ensemble.

    The weights are chosen on the validation rows of the runs, which must be the same. A folder of gpumlp sweep stands
    for the runs in it. A folder of gpumlp cv is one candidate: its folds predict by their mean, and the weights are
    chosen on the rows outside the folds. gpumlp predict takes the folder.
    """
    with importing():
        from gpumlp.cli import sweep as several
    several.ensemble(runs=runs, output=output, rounds=rounds, device=device, force=force, as_json=as_json)


@main.command()
@click.argument("run", type=PATH)
@click.option("--data", type=PATH, help="File with the target column  [default: the run's data]")
@DEVICE
@click.option("--json", "as_json", is_flag=True, help="Print the metrics as JSON.")
@click.option("--curves", is_flag=True, help="As --json, with points of ROC and precision-recall curves.")
def evaluate(run: Path, data: Path | None, device: int, as_json: bool, curves: bool) -> None:
    """Compute the metrics of RUN.

    A run that has not finished is measured with its best weights so far.
    """
    with importing():
        from gpumlp.cli import verbs
    verbs.evaluate(run=run, data=data, device=device, as_json=as_json, curves=curves)


@main.command()
@click.argument("run", type=PATH)
@click.argument("file", type=PATH)
@click.option(
    "-o", "--output", type=PATH, help="Output file: .csv, .csv.gz, .parquet, .jsonl or .npy  [default: CSV on stdout]"
)
@click.option("--proba", is_flag=True, help="Add the probability of each class.")
@click.option(
    "--interval",
    metavar="LEVEL",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Add bounds, or the set of classes, that hold the true value with this probability, such as 0.9; needs a "
    "run with training.conformal.",
)
@click.option(
    "--keep",
    metavar="COLUMN",
    multiple=True,
    help="Copy this column of FILE to the output, or all; may be repeated.",
)
@DEVICE
@click.option("--force", is_flag=True, help="Overwrite the output file if it exists.")
def predict(
    run: Path,
    file: Path,
    output: Path | None,
    proba: bool,
    interval: float | None,
    keep: tuple[str, ...],
    device: int,
    force: bool,
) -> None:
    """Predict the rows of FILE with RUN.

    FILE needs the columns of the training data; the target may be missing. - reads CSV from standard input.
    """
    with importing():
        from gpumlp.cli import verbs
    verbs.predict(
        run=run,
        file=file,
        output=output,
        proba=proba,
        interval=interval,
        keep=keep,
        device=device,
        force=force,
    )


@main.command()
@click.argument("run", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, help="Output file (.py, .onnx, .safetensors).")
@click.option("--data", type=PATH, help="Data file to compare on  [default: the test rows of the run]")
@click.option("--force", is_flag=True, help="Overwrite the output file if it exists.")
def export(run: Path, output: Path, data: Path | None, force: bool) -> None:
    """Write the model of RUN as a file that can be used without gpumlp.

    A .py file needs only NumPy; .onnx and .py take raw rows. The file is first run on the run's own test rows: if
    its predictions differ by more than rounding, nothing is written. Ensembles are written as .py or .onnx, with
    --data.
    """
    with importing():
        from gpumlp.cli import exported
    exported.export(run=run, output=output, data=data, force=force)


@main.command()
@click.argument("path", metavar="RUN|CONFIG", type=PATH)
@click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Change a setting of CONFIG.")
def inspect(path: Path, overrides: tuple[str, ...]) -> None:
    """Show the layers of a network, and the metrics of a run."""
    with importing():
        from gpumlp.cli import verbs
    verbs.inspect(path=path, overrides=overrides)


@main.command()
@click.argument("run", type=PATH)
@click.option("-o", "--output", type=PATH, help="An .html file  [default: report.html in the run folder]")
@click.option("--data", type=PATH, help="Data file with targets to measure on  [default: the rows of the run]")
@click.option("--force", is_flag=True, help="Overwrite the output file if it exists.")
def report(run: Path, output: Path | None, data: Path | None, force: bool) -> None:
    """Write a report on RUN as one HTML file.

    It has metrics with intervals, learning curves, predictions beside the truth, the importance of columns, the worst
    rows, and how to reproduce the run. It loads nothing from the network.
    """
    with importing():
        from gpumlp.cli import reported
    reported.report(run=run, output=output, data=data, force=force)


@main.command()
@click.argument("run", type=PATH)
@click.option("-o", "--output", type=PATH, help="A .png, .svg or .pdf file  [default: plot.png in the run folder]")
@click.option("--force", is_flag=True, help="Overwrite the output file if it exists.")
def plot(run: Path, output: Path | None, force: bool) -> None:
    """Plot the learning curves and the predictions of RUN."""
    with importing():
        from gpumlp.cli import verbs
    verbs.plot(run=run, output=output, force=force)


@main.command()
@click.argument("path", metavar="CONFIG|RUN", type=PATH)
@click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Change a setting of CONFIG.")
@click.option("--row", type=click.IntRange(min=0), default=0, help="Training row, counted from 0  [default: 0]")
@click.option("--backend", help="Compute backend  [default: that of CONFIG or RUN]")
@click.option("--json", "as_json", is_flag=True, help="Print every number as JSON.")
def backprop(path: Path, overrides: tuple[str, ...], row: int, backend: str | None, as_json: bool) -> None:
    """Show the gradients of one row beside finite differences.

    Each gradient is shown with its equation.
    """
    with importing():
        from gpumlp.cli import seen
    seen.backprop(path=path, overrides=overrides, row=row, backend=backend, as_json=as_json)


@main.command()
@click.argument("path", metavar="CONFIG|RUN", type=PATH)
@click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Change a setting of CONFIG.")
@click.option("--backend", help="Compute backend  [default: that of CONFIG or RUN]")
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON.")
def gradcheck(path: Path, overrides: tuple[str, ...], backend: str | None, as_json: bool) -> None:
    """Check all gradients against finite differences.

    The exit code is 0 if all agree and 1 if one does not.
    """
    with importing():
        from gpumlp.cli import seen
    seen.gradcheck(path=path, overrides=overrides, backend=backend, as_json=as_json)


@main.command()
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("-o", "--output", type=PATH, required=True, help="Output file: .png, .svg or .pdf.")
@click.option("--backend", default="numpy", help="Compute backend  [default: numpy]")
@click.option("--force", is_flag=True, help="Overwrite the output file if it exists.")
def activations(names: tuple[str, ...], output: Path, backend: str, force: bool) -> None:
    """Plot activations and their derivatives.

    Without names all are plotted: each function in blue, its derivative in green.
    """
    with importing():
        from gpumlp.cli import seen
    seen.activations(names=names, output=output, backend=backend, force=force)


@main.command()
@click.argument("argument", metavar="CONFIG|RUN|FILE.py:FUNCTION")
@click.option("-o", "--output", type=PATH, required=True, help="Output file: .svg, .png, .dot or .mermaid.")
@click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Change a setting of CONFIG.")
@click.option("--values", is_flag=True, help="Show values: the numbers if there are few, otherwise their range.")
@click.option("--gradients", is_flag=True, help="Show the gradients of the backward pass, in red.")
@click.option("--row", type=click.IntRange(min=0), help="Training row, counted from 0  [default: 0]")
@click.option("--summary", is_flag=True, help="Draw one box per layer.")
@click.option("--captured", is_flag=True, help="Draw the calls of a captured training step, with their times.")
@click.option("--backend", help="Compute backend  [default: that of CONFIG or RUN]")
@click.option("--force", is_flag=True, help="Overwrite the output file if it exists.")
def graph(
    argument: str,
    output: Path,
    overrides: tuple[str, ...],
    values: bool,
    gradients: bool,
    row: int | None,
    summary: bool,
    captured: bool,
    backend: str | None,
    force: bool,
) -> None:
    """Draw the computation graph of a row or a Python function.

    FILE.py:FUNCTION executes the file as python would (use only files that you trust), then records a call of
    the function. Arguments without a default take the module's variables of the same names.
    """
    with importing():
        from gpumlp.cli import graphs
    graphs.graph(
        argument=argument,
        output=output,
        overrides=overrides,
        values=values,
        gradients=gradients,
        row=row,
        summary=summary,
        captured=captured,
        backend=backend,
        force=force,
    )


@main.command()
@click.option("--target", default="sine", help="Function to approximate; see --list  [default: sine]")
@click.option(
    "--activation", "activations", metavar="NAME", multiple=True, help="Activation to try; may be repeated."
)
@click.option("--widths", help="Widths of the one hidden layer, such as 4,8,16; without --depths, skip depths.")
@click.option("--depths", help="Numbers of hidden layers, such as 1,2,4; without --widths, skip widths.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Random seed  [default: 0]")
@click.option(
    "--restarts", type=click.IntRange(1, 100), default=3, help="Random initializations per size  [default: 3]"
)
@click.option("--steps", type=click.IntRange(1, 1_000_000), default=3000, help="Adam steps  [default: 3000]")
@click.option("--backend", default="auto", help="Compute backend  [default: auto]")
@DEVICE
@click.option("-o", "--output", type=PATH, help="Output folder for the errors (JSON) and plots (PNG).")
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON.")
@click.option("--force", is_flag=True, help="Overwrite the files in the folder if they exist.")
@click.option("--list", "list_targets", is_flag=True, help="List the target functions and exit.")
def approximate(
    target: str,
    activations: tuple[str, ...],
    widths: str | None,
    depths: str | None,
    seed: int,
    restarts: int,
    steps: int,
    backend: str,
    device: int,
    output: Path | None,
    as_json: bool,
    force: bool,
    list_targets: bool,
) -> None:
    """Measure approximation errors against width and depth."""
    with importing():
        from gpumlp.cli import approximation
    approximation.approximate(
        target=target,
        activations=activations,
        widths=widths,
        depths=depths,
        seed=seed,
        restarts=restarts,
        steps=steps,
        backend=backend,
        device=device,
        output=output,
        as_json=as_json,
        force=force,
        list_targets=list_targets,
    )


@main.command()
@click.argument("config", type=PATH)
@click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Change a setting; may be repeated.")
@click.option("-o", "--output", type=PATH, help="Folder of packed rows; same as --set data.pack.folder=DIR.")
def pack(config: Path, overrides: tuple[str, ...], output: Path | None) -> None:
    """Pack the rows of CONFIG on disk, as gpumlp train does with data that are larger than memory."""
    with importing():
        from gpumlp.cli import verbs
    verbs.pack(config=config, overrides=overrides, output=output)


@main.command()
@click.argument("config", type=PATH)
@click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Change a setting; may be repeated.")
@click.option("--print-config", is_flag=True, help="Print all settings, defaults included.")
def validate(config: Path, overrides: tuple[str, ...], print_config: bool) -> None:
    """Check CONFIG, its files and columns, without training."""
    with importing():
        from gpumlp.cli import verbs
    verbs.validate(config=config, overrides=overrides, print_config=print_config)


@main.command()
def schema() -> None:
    """Print the JSON Schema of configurations, for editors."""
    with importing():
        from gpumlp.cli import verbs
    verbs.schema()


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script for SHELL: bash, zsh or fish.

    \b
    bash   eval "$(gpumlp completion bash)"             in ~/.bashrc
    zsh    eval "$(gpumlp completion zsh)"              in ~/.zshrc
    fish   gpumlp completion fish > ~/.config/fish/completions/gpumlp.fish
    """
    shell_class = get_completion_class(shell)
    assert shell_class is not None  # the choices are click's own
    click.echo(shell_class(main, {}, "gpumlp", "_GPUMLP_COMPLETE").source())


@main.command()
def doctor() -> None:
    """Show the hardware, compilers and libraries that gpumlp finds."""
    with importing():
        from gpumlp.cli import verbs
    verbs.doctor()


@main.group()
def bench() -> None:
    """Run benchmarks on this machine."""


@bench.command()
@click.option("--backend", default="auto", help="Backend to benchmark  [default: auto, the fastest available]")
@DEVICE
@click.option(
    "--only", metavar="PATTERN", help="Only kernels whose name contains or matches this, such as adam or *_error_*."
)
@click.option("--quick", is_flag=True, help="Fewer sizes, and less time per size.")
@click.option(
    "--json", "json_file", metavar="FILE", type=PATH, help="Write the results to this JSON file, kernel by kernel."
)
@click.option(
    "--plot", metavar="FILE", type=PATH, help="Plot bandwidth against size to this .png, .svg or .pdf file."
)
@click.option("--force", is_flag=True, help="Overwrite the files if they exist.")
def kernels(
    backend: str, device: int, only: str | None, quick: bool, json_file: Path | None, plot: Path | None, force: bool
) -> None:
    """Check and time every kernel at several sizes.

    Each is compared with a plain copy of the same size, with the unfused operation, and with PyTorch.
    """
    with importing():
        from gpumlp.cli import bench as measured
    measured.kernels(
        backend=backend, device=device, only=only, quick=quick, json_file=json_file, plot=plot, force=force
    )
