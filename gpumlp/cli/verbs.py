"""What each verb does: call the library, print the outcome."""

from __future__ import annotations

import json
import logging
import platform
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

from gpumlp import __version__, runs
from gpumlp import config as configuration
from gpumlp.backend import BACKENDS, Backend
from gpumlp.cli.display import (
    Announcer,
    EscapedOutput,
    Notices,
    RowCounter,
    duration,
    print_metrics,
    remark,
    remarks,
    say,
    tell,
)
from gpumlp.cli.given import template_of
from gpumlp.config.presets import PRESETS
from gpumlp.data import News, PackedRows, Source, read_blocks, read_start, stream_blocks
from gpumlp.data.source.room import reading_into, usual_room
from gpumlp.errors import ConfigError, DataError, Note, RunError, choices, exit_code, in_words, listed
from gpumlp.limits import gigabytes
from gpumlp.metrics import CurvePoints, title
from gpumlp.ranks import Ranks
from gpumlp.runs.ensemble import is_ensemble
from gpumlp.runs.folder import PICTURE, RunFolder
from gpumlp.runs.logs import Listeners, log_to
from gpumlp.runs.predictions import Block, columns_of, ending_of, kept_columns, pieces, write_csv, write_predictions
from gpumlp.runs.predictor import Predictor
from gpumlp.runs.start import start_of
from gpumlp.store.formats import check_free, to_json, write_text
from gpumlp.training.build import build, load_data, pack_data, require_memory
from gpumlp.training.rows import ENCODED, WINDOW

RUNS = Path("runs")
VERSIONS = {"Python": platform.python_version(), "NumPy": np.__version__, "gpumlp": __version__}
LoadedRun = tuple[configuration.Loaded, Path]
"""What a run is given: a configuration, and its folder."""
MIN_TOLD_SECONDS = 1.0  # that a run takes before it is said where they went


def init(data: Path, targets: Sequence[str], preset: str, output: Path | None, force: bool) -> None:
    """Write a configuration for a data file, or list its columns."""
    if preset not in PRESETS:
        raise ConfigError(f"there is no preset {preset!r:.80}", where="--preset", hint=choices(preset, PRESETS))
    if not targets:
        if output is not None:
            raise click.UsageError("a configuration needs --target; without it, the columns are listed")
        rows, columns = configuration.columns_of(data)
        tell(f"{data}: {rows:,} rows, {len(columns)} columns")
        width = max(len(each.name) for each in columns)
        for each in columns:
            text = each.text if each.used else f"to be dropped: {each.text}"
            tell(f"  {each.name:<{width}}  {text}", hang=width + 4)
        tell(f"next        {shlex.join(['gpumlp', 'init', str(data)])} --target NAME -o FILE.yaml")
        return
    if output is not None:
        check_free(output, force=force)
    text = configuration.starter(
        data, targets, folder=Path() if output is None else output.parent, preset=preset
    ).text
    if output is None:
        click.echo(text, nl=False)
        return
    write_text(output, text)
    tell(f"written     {output}")
    tell(f"next        {shlex.join(['gpumlp', 'train', str(output)])}")


def train(
    config: Path,
    targets: Sequence[str],
    overrides: Sequence[str],
    run_dir: Path | None,
    backend: str | None,
    device: int | None,
    resume: bool,
    force: bool,
    logs: Sequence[str],
    quiet: bool,
    as_json: bool,
    ranks: Ranks,
) -> None:
    """Train, and say how it went. Of several ranks the first one reads the configuration, and prints."""
    if resume and force:
        raise click.UsageError("--resume continues a run and --force replaces it: use one of them")
    if backend is not None:
        overrides = [*overrides, f"backend={backend}"]
    if device is not None:
        overrides = [*overrides, f"device={device}"]

    if ranks.size == 1:
        template, name = template_of(config, targets, overrides)
        loaded = template.load()
        if loaded.settings.bag > 1:
            from gpumlp.cli import sweep as several

            several.bag(template, name, run_dir, force=force, quiet=quiet, as_json=as_json)
            return
        folder = run_dir or _run_folder(name, last=resume or force)
    else:
        loaded, folder = _by_first(ranks, partial(_chosen, config, targets, overrides, run_dir, last=resume or force))
    if ranks.first and resume and not quiet and not RunFolder(folder).is_run:
        remark(f"no run in {folder} yet: starting one")
    announcer = Announcer() if ranks.first and not quiet else None
    shown = [] if announcer is None else [announcer]
    listener = Listeners([*shown, *(log_to(name) for name in dict.fromkeys(logs))]) if ranks.first else None
    result = None
    log = logging.getLogger("gpumlp")
    notices = Notices(logging.WARNING if quiet else logging.INFO) if ranks.first else logging.NullHandler()
    log.setLevel(logging.INFO)
    log.addHandler(notices)
    try:
        result = runs.train(loaded, folder, resume=resume, force=force, listener=listener, ranks=ranks)
        if listener is not None and not result.finished_before:
            listener.finished(result.summary)
    except KeyboardInterrupt as interrupt:
        if announcer:
            announcer.close()
        run_folder = RunFolder(folder)
        if not run_folder.checkpoints():
            raise  # nothing to go on from yet
        if ranks.first:
            say(f"interrupted; resume from the last checkpoint with: {run_folder.resume_command}", whole=True)
        sys.exit(exit_code(interrupt))
    finally:
        if listener is not None:
            listener.close(failed=result is None)
        log.removeHandler(notices)
        if announcer:
            announcer.close()
    if not ranks.first:
        return
    if result.finished_before:  # otherwise they were printed when they were found
        remarks(result.notes)
    if as_json:
        click.echo(to_json({"run": str(folder), **result.summary}))
    else:
        _report(result)


def _chosen(
    config: Path, targets: Sequence[str], overrides: Sequence[str], run_dir: Path | None, *, last: bool
) -> LoadedRun:
    """Return the configuration of a run, and its folder."""
    template, name = template_of(config, targets, overrides)
    return template.load(), run_dir or _run_folder(name, last=last)


def _by_first(ranks: Ranks, read: Callable[[], LoadedRun]) -> LoadedRun:
    """Return what the first rank is given, once all have the same versions."""
    versions = ", ".join(f"{name} {version}" for name, version in VERSIONS.items())
    ranks.require_alike("set of versions", versions, "install the same versions on every machine")

    def sent() -> tuple[Any, ...]:
        loaded, folder = read()
        return loaded.settings.model_dump(mode="json"), loaded.path.resolve(), dict(loaded.origins), folder.resolve()

    settings, path, origins, folder = ranks.of_first(sent)
    return configuration.Loaded(configuration.Settings.model_validate(settings), path, origins), folder


def _run_folder(name: str, *, last: bool) -> Path:
    """Return runs/NAME, or the next free runs/NAME-2, ...; or the ``last`` one there is."""
    taken, free = RUNS / name, RUNS / name
    number = 1
    while free.exists():
        number += 1
        taken, free = free, RUNS / f"{name}-{number}"
    return taken if last else free


def _report(result: runs.Result) -> None:
    summary, folder = result.summary, result.folder
    rate = summary["samples_per_second"]
    speed = f", {rate:,.0f} rows/s" if rate else ""
    tell(f"{_ending(summary)}")
    tell(f"{duration(summary['seconds'])} of training on {summary['backend']}{speed}")
    phases = summary.get("phases", {})
    if sum(phases.values()) > MIN_TOLD_SECONDS:
        tell("seconds: " + ", ".join(f"{name} {duration(seconds)[:-2]}" for name, seconds in phases.items()))
    print_metrics(summary["metrics"])
    tell(f"run folder  {folder}", whole=True)
    tell(f"next        {shlex.join(['gpumlp', 'predict', str(folder)])} FILE -o predictions.csv", whole=True)


def _ending(summary: dict[str, Any]) -> str:
    epochs, metric, best = summary["epochs"], summary.get("metric"), summary["best_epoch"]
    planned = summary.get("planned_epochs", epochs)
    of = f" of {planned}" if planned != epochs else ""
    text = f"{summary['status']} after {epochs}{of} epoch{'s' * (planned != 1)}"
    if not best:
        return text
    chosen = f", by the validation {title(metric)}" if metric else ""
    if len(epochs_of_mean := summary.get("snapshots", ())) > 1:
        return f"{text}; the mean of epochs {in_words(epochs_of_mean)} predicts{chosen}"
    each = sorted(member["best_epoch"] for member in summary.get("members", ()) if member["best_epoch"])
    named = f"best epochs {each[0]} to {each[-1]}" if len(set(each)) > 1 else f"best epoch {best}"
    return f"{text}; {named}{chosen}"


def evaluate(run: Path, data: Path | None, device: int, as_json: bool, curves: bool) -> None:
    """Measure a run and print its metrics."""
    points: dict[str, CurvePoints] = {}
    if is_ensemble(run):
        if data is None:
            raise click.UsageError("an ensemble has no data of its own: pass --data FILE")
        ensemble = runs.load_ensemble(run, device=device)
        if curves:
            points[data.name] = ensemble.curves(data)
        metrics: runs.Metrics = {data.name: ensemble.evaluate(data)}
        notes: tuple[Note, ...] = ()
    else:
        metrics, notes = runs.evaluate(run, data, device=device, curves=points if curves else None)
    remarks(notes)
    if as_json or curves:
        more = {name: {"curves": each} for name, each in points.items()}
        click.echo(to_json({name: {**values, **more.get(name, {})} for name, values in metrics.items()}))
    else:
        print_metrics(metrics)


def predict(
    run: Path,
    file: Path,
    output: Path | None,
    proba: bool,
    interval: float | None,
    keep: Sequence[str],
    device: int,
    force: bool,
) -> None:
    """Predict the rows of a file and write them, block by block."""
    if output is not None:
        if output.is_file() and file.is_file() and output.samefile(file):
            raise click.UsageError("the output file is the input file")
        ending_of(output)
        check_free(output, force=force)
    model: Predictor
    if is_ensemble(run):
        model = runs.load_ensemble(run, device=device)
    else:
        model = trained = runs.load_trained(run, device=device)
        remarks(trained.notes)
    encoder = model.encoder
    if proba and encoder.task == "regression":
        raise click.UsageError("--proba needs a classification run; this run predicts numbers")
    margin = None if interval is None else model.margin(interval)
    from_stdin = str(file) == "-"
    carried = read_start(file, encoder.dialect).names if tuple(keep) == ("all",) and not from_stdin else keep
    texts = (*encoder.texts, *carried)  # what is carried along stays as it was written
    if from_stdin:
        sources: Iterator[Source] = stream_blocks(sys.stdin.buffer, encoder.dialect, texts=texts)
    else:
        sources = read_blocks(file, encoder.dialect, texts=texts)
    news, count = News(), 0

    def blocks() -> Iterator[Block]:
        nonlocal count
        with RowCounter() as counter:
            for source, predictions in model.predictions(pieces(sources, encoder.outputs), news):
                count += len(predictions.values)
                counter.advance(len(predictions.values))
                yield kept_columns(source, keep) | columns_of(predictions, encoder, proba=proba, margin=margin)

    with reading_into(usual_room()):
        if output is None:
            write_csv(blocks(), EscapedOutput() if sys.stdout.isatty() else sys.stdout)
        else:
            write_predictions(output, blocks())
    remarks(news.notes())
    if output is not None:
        say(f"{count:,} predictions in {output}")


def plot(run: Path, output: Path | None, force: bool) -> None:
    """Draw a run."""
    output = output or runs.load_run(run, unfinished=True).folder / PICTURE
    check_free(output, force=force)
    remarks(runs.plot(run, output))
    tell(str(output))


def inspect(path: Path, overrides: Sequence[str]) -> None:
    """Show a run, or the network a configuration would train."""
    if path.is_dir():
        if overrides:
            raise click.UsageError("--set needs a configuration; this is a run")
        _inspect_run(path)
        return
    loaded = configuration.load(path, overrides)
    settings, start = loaded.settings, start_of(loaded)
    parts = build(settings, load_data(loaded, start.encoder), weights=start.weights)
    remarks(parts.notes)
    tell(parts.model.summary(), whole=True)
    trainer = parts.trainer
    tell(
        f"\n{trainer.rows:,} training rows, {trainer.batches:,} batches of {trainer.batch_size} an epoch, "
        f"{trainer.batches * trainer.epochs:,} steps of {settings.optimizer.name} in all"
    )


def _inspect_ensemble(folder: Path) -> None:
    ensemble = runs.load_ensemble(folder)
    for number, (model, weight) in enumerate(zip(ensemble.models, ensemble.weights, strict=True), 1):
        size = sum(network.size for network in model.network.networks)
        tell(f"model {number}, weight {weight:.4g}: {size:,} parameters\n")
        tell(model.network.summary() + "\n", whole=True)
    count = len(ensemble.models)
    tell(f"predicts {ensemble.encoder.target_name!r} by the weighted mean of {count} model{'s' * (count != 1)}")


def _inspect_run(folder: Path) -> None:
    if is_ensemble(folder):
        _inspect_ensemble(folder)
        return
    model = runs.load_trained(folder)
    remarks(model.notes)
    tell(model.network.summary(), whole=True)
    encoder = model.encoder
    goal = f"one of {listed(encoder.classes)}" if encoder.classes else "a number"
    if len(encoder.target_names) > 1:
        goal = f"{len(encoder.target_names)} {'labels' if encoder.labels else 'numbers'}"
    if encoder.levels:
        goal += f" and its quantiles {', '.join(f'{level:g}' for level in encoder.levels)}"
    tell(f"\npredicts {encoder.target_name!r}, {goal}, from {encoder.width} inputs")
    try:
        run = runs.load_run(folder, unfinished=True)
    except RunError as error:  # the folder of a model alone
        remark(error)
        return
    summary = run.summary
    tell(_ending(summary))
    if summary["metrics"]:
        print_metrics(summary["metrics"])


def validate(config: Path, overrides: Sequence[str], print_config: bool) -> None:
    """Check a configuration, the names of files and columns in it too, or raise the error that lists its problems."""
    template, _ = template_of(config, (), overrides)
    loaded = template.load()
    settings = loaded.settings
    if print_config:
        click.echo(configuration.dump(settings, folder=loaded.path.resolve().parent), nl=False)
        return
    if problems := settings.data.misfits(Path(), settings.task):
        raise DataError(loaded.report(problems))
    if settings.backend not in ("auto", "cupy") or not BACKENDS["cupy"].is_installed():
        require_memory(settings, Backend().memory)  # the memory of a device is asked for when it is to train
    remarks(loaded.notes)
    tell(f"{config}: no problems")


def pack(config: Path, overrides: Sequence[str], output: Path | None) -> None:
    """Pack the rows of a configuration, and say what they come to."""
    more = [] if output is None else [f"data.pack.folder={json.dumps(str(output))}"]
    loaded = template_of(config, (), [*overrides, *more])[0].load()
    data = pack_data(loaded)
    remarks(data.notes)
    parts = ", ".join(f"{len(part):,} {name}" for name, part in data.parts.items())
    blocks = [part for part in data.parts.values() if isinstance(part, PackedRows)]
    size = sum(part.layout.row_bytes * len(part) for part in blocks)
    count = sum(part.layout.blocks for part in blocks)
    tell(f"packed      {parts} rows: {gigabytes(size)} in {count:,} blocks, {blocks[0].folder}")
    more = [] if output is None else [f"--set data.pack.folder={shlex.quote(str(output))}"]
    memory = loaded.settings.data.memory
    if loaded.settings.data.pack.window is None and (memory is None or size <= memory // ENCODED):
        more.append(f"--set data.pack.window={WINDOW}")  # else train takes rows that memory holds
    command = shlex.join(["gpumlp", "train", str(config), *(part for each in overrides for part in ("--set", each))])
    tell(f"next        {' '.join([command, *more])}", whole=True)


def schema() -> None:
    """Print the JSON Schema of configurations."""
    click.echo(json.dumps(configuration.json_schema(), indent=2))


def doctor() -> None:
    """Print what there is on this machine, and what to do about what is not."""
    from gpumlp.cli import doctor as clinic

    findings = clinic.examine()
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        tell(f"{finding.name:<{width}}  {finding.text}", hang=width + 2)
        if finding.mend:
            tell(f"{'':<{width}}  → {finding.mend}", whole=True)
