"""Exporting a run: a file is written beside its place, run on the run's own rows, compared, and only then kept."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpumlp.backend import Backend
from gpumlp.data import News, Source, count_of, read
from gpumlp.errors import ConfigError, Note, RunError
from gpumlp.export.encoding import require_known
from gpumlp.export.graph import load_onnx, run_mean, run_onnx, write_mean, write_onnx
from gpumlp.export.script import run_mean_script, run_script, write_mean_script, write_script
from gpumlp.export.tensors import run_tensors, write_tensors
from gpumlp.export.trace import Computation, Tracer, trace_network
from gpumlp.nn import Ensemble
from gpumlp.nn.ensemble import networks
from gpumlp.runs import load_ensemble, load_run, load_trained
from gpumlp.runs.ensemble import WeightedModels, is_ensemble
from gpumlp.runs.evaluation import changed_since
from gpumlp.runs.model import SavedModel
from gpumlp.runs.predictor import Predictions, Predictor
from gpumlp.store.atomic import replacing
from gpumlp.store.formats import check_free, writing
from gpumlp.training.build import load_data

MAX_ROWS = 10_000
"""Rows that an exported file is run on at the most."""
MAX_OUTPUTS = 1 << 22
"""Outputs of these rows at the most: of 10,000 classes there are 419 rows."""
ROUNDING = 16.0
"""How many times the run's own rounding error the difference may be."""
EPSILONS = 64.0
"""Units of rounding that it may be in any case: of a few rows the run's own error may be 0 by chance."""


@dataclass(frozen=True)
class Format:
    """A kind of file: what a library it needs is loaded by, what writes it, and what it predicts when it is run.

    The last two are of several models that predict by their weighted mean; None: it holds one.
    """

    load: Callable[[], Any]
    write: Callable[[Path, SavedModel, Computation], None]
    run: Callable[[Path, SavedModel, Source], Predictions]
    write_mean: Callable[[Path, Sequence[tuple[float, SavedModel, Computation]]], None] | None = None
    run_mean: Callable[[Path, Sequence[SavedModel], Source], Predictions] | None = None


FORMATS: dict[str, Format] = {
    ".py": Format(lambda: None, write_script, run_script, write_mean_script, run_mean_script),
    ".onnx": Format(load_onnx, write_onnx, run_onnx, write_mean, run_mean),
    ".safetensors": Format(lambda: None, write_tensors, run_tensors),
}
"""Formats by the ending of the file's name."""


@dataclass(frozen=True)
class Agreement:
    """How an exported file compares with the run.

    Parameters
    ----------
    part
        Whose rows both have predicted: test, validation or train.
    rows
        How many.
    difference
        The largest between predictions (of classes: between probabilities).
    allowed
        What rounding explains.
    """

    part: str
    rows: int
    difference: float
    allowed: float


def export(
    folder: str | Path, output: str | Path, *, data: str | Path | None = None, force: bool = False
) -> tuple[Agreement, tuple[Note, ...]]:
    """Write a finished run as a file for others to use, and return how its predictions compare, and notes.

    Parameters
    ----------
    folder
        Folder of the run, or of an ensemble.
    output
        A file whose name ends in one of ``FORMATS``.
    data
        File whose rows are predicted by both; None: the run's own rows, which an ensemble does not have.
    force
        Whether the file may be overwritten.

    Raises
    ------
    ConfigError
        If the ending is not in ``FORMATS``, or an ensemble is to be written in a format that holds one model, or is
        given without data.
    RunError
        If the run has not finished, the file exists, a library is not installed, something of the model cannot be
        written in this format, or the predictions differ by more than rounding; nothing is left behind then.
    DataError
        If the run's own data cannot be read: there is nothing to compare on.
    """
    output = Path(output)
    chosen = format_of(output)
    chosen.load()
    check_free(output, force=force)
    model: SavedModel | WeightedModels
    if is_ensemble(Path(folder)):
        if chosen.write_mean is None:
            message = f"an ensemble of models cannot be written as {output.suffix}"
            raise ConfigError(message, where="--output", hint="export it as .py or .onnx, or one of its runs")
        if data is None:
            raise ConfigError("an ensemble has no rows of its own", where="--data", hint="pass --data FILE")
        model = load_ensemble(folder)
        models, weights = model.models, model.weights
    else:
        model = load_trained(folder)
        models, weights = (model,), (1.0,)
    for each in models:
        for encoding in (each.encoder.inputs, each.encoder.target):
            require_known(encoding)
    traced = [trace_network(_rebuilt(each, Tracer(), each.network.context.wide).network) for each in models]
    notes: tuple[Note, ...] = ()
    if data is not None:
        part, source = Path(data).name, read(data, model.encoder.dialect, texts=model.encoder.texts)
        for each in models:  # which tells what does not fit
            each.encoder.encode(source.take(np.arange(min(1, count_of(source)))), targets=False)
    else:
        run = load_run(folder)
        prepared = load_data(run.loaded, model.encoder, keep_sources=True)
        assert prepared.sources is not None
        part = next(name for name in ("test", "validation", "train") if name in prepared.sources)
        source, notes = prepared.sources[part], changed_since(run, prepared)
    most, count = min(MAX_ROWS, max(1, MAX_OUTPUTS // model.encoder.outputs)), count_of(source)
    if count > most:
        source = source.take(np.linspace(0, count - 1, most).astype(np.int64))
    with writing(output), replacing(Path(os.path.realpath(output))) as (beside, _):
        if isinstance(model, WeightedModels):
            assert chosen.write_mean is not None
            assert chosen.run_mean is not None
            chosen.write_mean(beside, list(zip(weights, models, traced, strict=True)))
            predictions = chosen.run_mean(beside, models, source)
        else:
            chosen.write(beside, model, traced[0])
            predictions = chosen.run(beside, model, source)
        comparison = compare(part, model, source, predictions)
        if not comparison.difference <= comparison.allowed:  # NaN, too, is refused
            message = (
                f"the exported file predicts differently from the run: by up to {comparison.difference:.3g} on "
                f"{comparison.rows:,} {part} rows; rounding explains {comparison.allowed:.3g}"
            )
            raise RunError(message, where=str(output), hint="nothing was written; please report this")
    return comparison, notes


def format_of(output: Path) -> Format:
    """Return the format of a file by the ending of its name. Raises ConfigError for another ending."""
    output_format = FORMATS.get(output.suffix.lower())
    if output_format is None:
        hint = "the name must end in one of: " + " ".join(FORMATS)
        raise ConfigError(f"cannot tell the format from the name {output.name!r}", where="--output", hint=hint)
    return output_format


def compare(part: str, model: SavedModel | WeightedModels, source: Source, others: Predictions) -> Agreement:
    """Return how predictions of raw rows compare with those of the model, or of several, itself."""
    models = model.models if isinstance(model, WeightedModels) else (model,)
    precise_models = tuple(_rebuilt(each, Backend(), np.float64) for each in models)
    precise_one = replace(model, models=precise_models) if isinstance(model, WeightedModels) else precise_models[0]
    predictions, exact = _predicted(model, source), _predicted(precise_one, source)
    measured, exported, precise = (_measured(each) for each in (predictions, others, exact))
    step = max(_rounding(each, source) for each in models)
    allowed = ROUNDING * float(np.abs(measured - precise).max()) + EPSILONS * step
    if exported.shape != measured.shape:
        raise RunError(f"the file predicts {exported.shape}, the run {measured.shape}")
    difference = float(np.abs(exported - measured).max())
    if predictions.probabilities is not None and difference <= allowed:
        # Classes may differ where two are as probable as each other, as far as rounding tells.
        rows = np.arange(len(measured))
        if predictions.values.ndim == 2:
            gap = np.where(predictions.values == others.values, 0.0, 2.0 * np.abs(predictions.probabilities - 0.5))
        else:
            gap = np.abs(
                predictions.probabilities[rows, predictions.values] - predictions.probabilities[rows, others.values]
            )
        difference = max(difference, float(np.where(gap > 2 * allowed, gap, 0.0).max()))
    return Agreement(part, len(measured), difference, allowed)


def _rounding(model: SavedModel, source: Source) -> float:
    """Return what a unit of rounding of the network's outputs, which are standardised, makes of its predictions."""
    epsilon, encoder = float(np.finfo(model.network.context.wide).eps), model.encoder
    if encoder.task != "regression":
        return epsilon
    data, _ = encoder.encode(source, targets=False)
    outputs = np.concatenate(list(model.outputs(data.features))).astype(np.float64)
    moved = encoder.restore(outputs + epsilon * (1.0 + np.abs(outputs)))
    return float(np.abs(moved - encoder.restore(outputs)).max())


def _measured(predictions: Predictions) -> NDArray[np.float64]:
    """Return what is compared: probabilities, quantiles, or numbers."""
    each = (predictions.probabilities, predictions.quantiles, predictions.values)
    values = next(array for array in each if array is not None)
    return np.asarray(values, np.float64)


def _predicted(model: Predictor, source: Source) -> Predictions:
    ((_, predictions),) = model.predictions([source], News())
    return predictions


def _rebuilt(model: SavedModel, backend: Backend, dtype: Any) -> SavedModel:
    """Return a model with the same numbers on another backend, in another dtype."""
    members = len(model.network.networks) if isinstance(model.network, Ensemble) else None
    network = networks(members, model.architecture, model.encoder.outputs, model.network.link)
    network.build(model.encoder.width, backend=backend, dtype=dtype)
    network.load(model.network.arrays())
    return replace(model, network=network)
