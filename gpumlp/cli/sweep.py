"""The verbs ``cv``, ``sweep`` and ``compare``: several runs that belong together."""

from __future__ import annotations

import logging
import os
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path, PurePath

import click
from rich import box
from rich.table import Table

from gpumlp.cli.display import (
    Notices,
    Steps,
    duration,
    number,
    print_metrics,
    print_table,
    remark,
    say,
    stdout,
    tell,
)
from gpumlp.cli.given import template_of
from gpumlp.config.presets import PRESETS
from gpumlp.errors import ConfigError, Note, choices, exit_code, listed
from gpumlp.metrics import title
from gpumlp.runs import Listener, Result
from gpumlp.runs.ensemble import check_replaceable
from gpumlp.runs.predictions import ending_of
from gpumlp.store.formats import check_free, to_json
from gpumlp.sweep import compare as comparison
from gpumlp.sweep import search
from gpumlp.sweep.bag import plan_of as bag_plan_of
from gpumlp.sweep.bag import train_bag
from gpumlp.sweep.cv import FoldRun, cross_validate, plan_of
from gpumlp.sweep.ensemble import combine
from gpumlp.sweep.folder import PlanFolder, Template, chosen_folder
from gpumlp.sweep.points import numbers_of

RUNS = Path("runs")


class Noted(Listener):
    """Prints the notes on several runs, each once."""

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet
        self._printed: set[Note] = set()

    def note(self, note: Note) -> None:
        if not self.quiet and note not in self._printed:
            self._printed.add(note)
            remark(note)


def cv(
    config: Path,
    targets: Sequence[str],
    folds: int,
    repeats: int,
    group: str | None,
    time: str | None,
    overrides: Sequence[str],
    run_dir: Path | None,
    output: Path | None,
    force: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Cross-validate, and print mean and spread of each metric."""
    if output is not None:
        ending_of(output)
        check_free(output, force=force)
    divided = [f"data.split.{name}={_quoted(value)}" for name, value in (("group", group), ("time", time)) if value]
    template, name = template_of(config, targets, (*overrides, *divided))
    plan = plan_of(template, folds=folds, repeats=repeats)
    plan_folder = chosen_folder(RUNS / f"{name}-cv", plan) if run_dir is None else PlanFolder(run_dir)
    noted = Noted(quiet=quiet)
    with notes_shown(quiet=quiet), _Counted("fold", folds * repeats, quiet=quiet) as counted:

        def done(run: FoldRun) -> None:
            metric = run.result.summary["metric"] or "loss"
            shown = next(each for each in ("accuracy", "rmse", metric) if each in run.metrics)
            counted.done(
                run.name,
                f"{run.rows:,} test rows, {title(shown)} {number(run.metrics[shown])}",
                run.result,
            )

        results = cross_validate(
            template, plan_folder.path, folds=folds, repeats=repeats, output=output, listener=noted, done=done
        )
    if as_json:
        click.echo(to_json(results))
        return
    count = len(results["folds"])
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("test rows")
    for heading in ("mean", "std", "min", "max"):
        table.add_column(heading, justify="right", style="bold" if heading == "mean" else "")
    for metric, values in results["metrics"].items():
        table.add_row(title(metric), *(number(values[each]) for each in ("mean", "std", "min", "max")))
    tell(f"{count} folds" + (f" ({repeats} repeats of {folds})" if repeats > 1 else ""))
    print_table(table)
    tell(f"predictions {results['predictions']}", whole=True)
    tell(f"runs        {plan_folder.path}", whole=True)
    tell(f"next        {shlex.join(['gpumlp', 'compare', str(plan_folder.path)])}", whole=True)


def bag(template: Template, name: str, run_dir: Path | None, *, force: bool, quiet: bool, as_json: bool) -> None:
    """Train the folds of a bag, and print the metrics of their mean."""
    if force:
        message = "a bag is resumed, not replaced"
        raise click.UsageError(f"{message}: delete its folder instead of --force")
    settings, plan = template.load().settings, bag_plan_of(template)
    plan_folder = chosen_folder(RUNS / name, plan) if run_dir is None else PlanFolder(run_dir)
    total = settings.bag * max(1, len(PRESETS[settings.preset].combines))
    with notes_shown(quiet=quiet), _Counted("fold", total, quiet=quiet) as counted:

        def done(run: str, result: Result) -> None:
            metric = result.summary["metric"] or "loss"
            value = number(result.summary["metrics"]["validation"][metric])
            counted.done(run, f"{title(metric)} {value} on its fold", result)

        results = train_bag(template, plan_folder.path, listener=Noted(quiet=quiet), done=done)
    if as_json:
        click.echo(to_json(results))
        return
    for each in results["candidates"] if len(results["candidates"]) > 1 else ():
        tell(f"{PurePath(each['name']).name:<11} weight {each['weight']:.3f}, loss {number(each['loss'])}")
    print_metrics(results["metrics"])
    tell("validation: each row by the networks that were not trained on it")
    tell(f"predictions {results['predictions']}", whole=True)
    tell(f"run folder  {plan_folder.path}", whole=True)
    tell(
        f"next        {shlex.join(['gpumlp', 'predict', str(plan_folder.path)])} FILE -o predictions.csv", whole=True
    )


def sweep(
    config: Path,
    targets: Sequence[str],
    overrides: Sequence[str],
    trials: int | None,
    part: str | None,
    run_dir: Path | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Train the points of a sweep, and print the best."""
    template, name = template_of(config, targets, ())
    template, space = search.space_of(template, tuple(overrides), trials)
    plan = search.plan_of(template, space)
    plan_folder = chosen_folder(RUNS / f"{name}-sweep", plan) if run_dir is None else PlanFolder(run_dir)
    noted = Noted(quiet=quiet)
    studied = search.settings_of(template, space).search.sampler != "keyed"
    total = int(space.trials or 0) if studied else len(numbers_of(len(space), part))
    with notes_shown(quiet=quiet), _Counted("point", total, quiet=quiet) as counted:

        def done(point: search.Point, before: bool) -> None:
            result = f"validation {title(point.metric)} {number(point.score)}"
            text = result if point.error is None else f"{point.status}: {point.error.splitlines()[0]}"
            text += " (pruned)" if point.status == search.PRUNED else ""
            counted.done(point.name, f"{' '.join(point.overrides)}  {text}{', finished before' if before else ''}")

        points = search.sweep(template, space, plan_folder.path, part=part, listener=noted, done=done)
    if as_json:
        entries = [{**asdict(point), "run": str(plan_folder.run(point.name))} for point in points]
        click.echo(to_json({"folder": str(plan_folder.path), "points": entries}))
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("point", *(each.setting for each in space.dimensions)):
        table.add_column(heading, overflow="fold")
    table.add_column(f"validation {title(points[0].metric) if points else ''}", justify="right")
    for point in points[:SHOWN_POINTS]:
        values = [each.partition("=")[2] for each in point.overrides]
        table.add_row(point.name, *map(_short, values), number(point.score) if point.error is None else point.status)
    print_table(table)
    counts = {"failed": sum(point.error is not None for point in points)}
    counts["pruned"] = sum(point.status == search.PRUNED for point in points)
    of = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)
    tell(f"{len(points)} of {total if studied else len(space)} points" + (f" ({of})" if of else ""))
    tell(f"runs        {plan_folder.path}", whole=True)
    if points and points[0].score is not None:
        best = plan_folder.run(points[0].name)
        tell(f"best        {best}, by the validation rows", whole=True)
        tell(f"next        {shlex.join(['gpumlp', 'predict', str(best)])} FILE -o predictions.csv", whole=True)


SHOWN_POINTS = 10


def compare(
    runs: Sequence[Path], metrics: Sequence[str], all_settings: bool, plot: Path | None, force: bool, as_json: bool
) -> None:
    """Print the settings in which runs differ, and what came of them."""
    if plot is not None:
        check_free(plot, force=force)
    compared, differ = comparison.compare(runs)
    chosen = _chosen_metrics(compared, metrics)
    if plot is not None:
        comparison.plot(compared, chosen[0], plot)
    if as_json:
        rows = [
            {
                "run": each.name,
                "status": each.status,
                "settings": {name: comparison.value_of(each.settings.get(name)) for name in differ},
                "metrics": {} if each.summary is None else each.summary["metrics"],
            }
            for each in compared
        ]
        click.echo(to_json({"differ": differ, "runs": rows}))
        return
    shown = differ if all_settings else differ[:SHOWN_SETTINGS]
    folder = _shared_folder([each.name for each in compared])
    head = "run" if folder is None else f"run in {folder}"
    columns = [(part, metric) for metric in chosen for part in ("validation", "test")]
    lines = []
    for each in compared:
        scores = [number(each.metrics(part).get(metric)) for part, metric in columns]
        name = each.name if folder is None else str(PurePath(each.name).relative_to(folder))
        settings = [_short(each.settings.get(setting, "")) for setting in shown]
        lines.append([name, *settings, *(scores if each.metrics("train") else (each.status, *scores[1:]))])
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    if all_settings and len(shown) + len(columns) > len(lines):  # a run for each column is less wide
        names = [head, *shown, *(f"{part} {title(metric)}" for part, metric in columns)]
        first, *others = zip(names, *lines, strict=True)
        for text in first:
            table.add_column(text, overflow="fold")
        for values in others:
            table.add_row(*values)
    else:
        table.add_column(head, overflow="fold")
        for setting in shown:
            table.add_column(setting.replace(".", "\n."), overflow="fold")
        for part, metric in columns:
            table.add_column(f"{part}\n{title(metric)}", justify="right", no_wrap=True)
        for row in lines:
            table.add_row(*row)
    if all_settings:
        print_table(table)
    else:
        stdout.console.print(table)
    if hidden := differ[len(shown) :]:
        tell(f"also differ: {listed(hidden, SHOWN_SETTINGS)} (--all shows them)")
    if plot is not None:
        tell(str(plot))


SHOWN_SETTINGS = 3
"""Settings in the table of ``compare``, which has to fit 80 columns, and as many that are named below it."""


def _shared_folder(names: Sequence[str]) -> str | None:
    """Return the folder that all of several runs are in, or None where that is no shorter way to name them."""
    parents = {str(PurePath(name).parent) for name in names}
    shared = os.path.commonpath(parents) if len({PurePath(name).is_absolute() for name in names}) == 1 else ""
    return shared if len(names) > 1 and shared not in ("", ".", "/") else None


def _chosen_metrics(runs: Sequence[comparison.Compared], names: Sequence[str]) -> Sequence[str]:
    """Return the metrics to show. Raises ConfigError for one that no run has."""
    known = list(dict.fromkeys(name for each in runs for part in ("train", "test") for name in each.metrics(part)))
    for name in names:
        if known and name not in known:
            raise ConfigError(f"no run has a metric {name!r}", where="--metric", hint=choices(name, known))
    return names or [_common(runs)]


def _common(runs: Sequence[comparison.Compared]) -> str:
    """Return the metric that all runs have: accuracy or RMSE, or else the loss."""
    measured = [each.metrics("train") for each in runs if each.metrics("train")]
    return next((name for name in ("accuracy", "rmse") if all(name in each for each in measured)), "loss")


def _short(value: str) -> str:
    """Return a whole number as it is, any other with four digits, and a name without its quotes."""
    try:
        return value if value.lstrip("-").isdecimal() else f"{float(value):.4g}"
    except ValueError:
        return value[1:-1] if value[:1] == value[-1:] == '"' and value.count('"') == 2 else value


class _Counted:
    """Prints a line for each run that is done, and a bar on a terminal."""

    def __init__(self, unit: str, total: int, *, quiet: bool) -> None:
        self.total, self.quiet, self.count = total, quiet, 0
        self._steps = None if quiet else Steps(unit, total)

    def __enter__(self) -> _Counted:
        if self._steps is not None:
            self._steps.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        if self._steps is not None:
            self._steps.__exit__()

    def done(self, name: str, text: str, result: Result | None = None) -> None:
        """Count a run as done and print what came of it."""
        self.count += 1
        if self._steps is None:
            return
        if result is not None:
            text += ", finished before" if result.finished_before else f", {duration(result.summary['seconds'])}"
        say(f"{name}: {text}")
        self._steps.advance()


def ensemble(runs: Sequence[Path], output: Path, rounds: int, device: int, force: bool, as_json: bool) -> None:
    """Combine runs, save the ensemble, and print its weights."""
    check_replaceable(output, force=force)
    combined, about = combine(runs, rounds=rounds, device=device)
    combined.save(output, force=force)
    if as_json:
        click.echo(to_json({"folder": str(output), **about}))
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("candidate", overflow="fold")
    for heading in ("weight", "models", "loss"):
        table.add_column(heading, justify="right", style="bold" if heading == "weight" else "")
    for each in about["candidates"]:
        table.add_row(each["name"], f"{each['weight']:.3f}", str(each["models"]), number(each["loss"]))
    print_table(table)
    tell(f"on {about['rows']:,} rows outside of training the ensemble has the loss {number(about['loss'])}")
    tell("; ".join(f"{title(name)} {number(value)}" for name, value in about["metrics"].items()))
    tell(f"ensemble    {output}", whole=True)
    tell(f"next        {shlex.join(['gpumlp', 'predict', str(output)])} FILE -o predictions.csv", whole=True)


@contextmanager
def notes_shown(*, quiet: bool) -> Iterator[None]:
    """Print what the library logs; after Ctrl-C or SIGTERM say how to go on."""
    log = logging.getLogger("gpumlp")
    notices = Notices(logging.WARNING if quiet else logging.INFO)
    log.setLevel(logging.INFO)
    log.addHandler(notices)
    try:
        yield
    except KeyboardInterrupt as interrupt:
        say("interrupted; run the same command again to resume")
        sys.exit(exit_code(interrupt))
    finally:
        log.removeHandler(notices)


def _quoted(value: str) -> str:
    """Return the name or number of a column as YAML."""
    return value if re.fullmatch(r"-?\d+", value) else "'" + value.replace("'", "''") + "'"
