"""A trained model as files: ``model.json`` says what it is, ``weights.safetensors`` holds the numbers.

Nothing in them is executed, and nothing is trusted: a file from a stranger is safe to open.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from gpumlp.backend import Backend
from gpumlp.data import Dataset, Encoder, Features, News, Source, in_parts
from gpumlp.errors import BackendError, DataError, GpumlpError, Note, RunError
from gpumlp.metrics import ProbabilityScores, most_probable
from gpumlp.nn import MAX_UNITS, Architecture, Ensemble, Sequential
from gpumlp.nn.ensemble import networks
from gpumlp.nn.mlp import MAX_MEMBERS
from gpumlp.ops.precision import PRECISIONS
from gpumlp.phases import phase
from gpumlp.runs.predictor import Predictions, Predictor, described
from gpumlp.runs.replay import Replays
from gpumlp.store.formats import (
    Arrays,
    check_free,
    format_arrays,
    format_sealed,
    is_whole,
    keep_bytes,
    keep_folder,
    make_folder,
    making_folder,
    parse_arrays,
    parse_json,
    read_arrays,
    read_json,
)
from gpumlp.training.calibration import Temperature, rank, softmax
from gpumlp.training.device_data import outputs
from gpumlp.training.measure import answers, outcome_metrics, rows_at_once

MAX_ENCODED_BYTES = 1 << 28
"""Most memory (bytes) of rows that are encoded at once to be predicted."""

FORMAT = 2
"""Of models: 2 where there are several networks, calibrated probabilities or new kinds of layers, else 1."""
DESCRIPTION, WEIGHTS = "model.json", "weights.safetensors"


@dataclass(frozen=True)
class SavedModel(Predictor):
    """A network with the encoding of its inputs: from raw rows to predictions.

    Rows are a file, a DataFrame, a mapping from names to columns, an array, or what ``read`` returned; their columns
    are those of the training rows, in any order.

    Parameters
    ----------
    encoder, network
        The encoding, the network (or several that predict by their mean).
    architecture
        The layers of the network.
    history
        A row of losses and metrics for each epoch, where the model was trained by ``fit``.
    calibration
        What makes probabilities of the last linear values; None: softmax.
    scores
        (n,) sorted float64, of validation rows kept for intervals: the distances of predictions from numbers, or 1 -
        p of true classes; None: no rows were kept.
    notes
        What is worth saying of the model: of data and training after ``fit``, that its run has not finished.
    """

    encoder: Encoder
    network: Sequential | Ensemble
    architecture: Architecture
    history: tuple[Mapping[str, Any], ...] = ()
    calibration: Temperature | None = None
    scores: np.ndarray[Any, Any] | None = None
    notes: tuple[Note, ...] = ()
    _replays: Replays = field(default_factory=Replays, init=False, repr=False, compare=False)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {described(self.encoder)}; {self.network.size:,} parameters>"

    def _measured(self, encoder: Encoder, source: Source, data: Dataset, news: News) -> dict[str, float]:
        assert data.targets is not None
        linear, outcome = map(np.concatenate, zip(*self.answers(data.features), strict=True))
        metrics = outcome_metrics(encoder, outcome, data.targets, data.weights)
        if encoder.classes is not None:
            scores = ProbabilityScores()
            scores.add(self.probabilities(linear), data.targets, data.weights)
            metrics |= scores.result()
        return metrics

    def report(
        self, output: str | Path, rows: Any, y: Any = None, weights: Any = None, *, force: bool = False, seed: int = 0
    ) -> None:
        """Write a page (HTML) on how good the predictions of rows are, and how the model decides.

            model.report("report.html", new_rows, new_targets)

        Parameters
        ----------
        output
            File to write.
        rows, y, weights
            As for ``evaluate``; best rows that the model was not trained on.
        force
            Whether to replace a file that is there.
        seed
            Seed of the samples for intervals and of the permutations of columns.

        Raises
        ------
        DataError
            If the rows do not fit the model.
        RunError
            If the file is there, or cannot be written.
        """
        from gpumlp import report  # what draws pages is loaded when one is written, not by every run

        check_free(Path(output), force=force)
        encoder, source = self.labelled(rows, y, weights, news := News())
        measured = report.Rows.of(replace(self, encoder=encoder), source, news)
        about = f"{encoder.task}: {encoder.target_name!r}, measured on {len(measured):,} rows."
        parts = [
            *report.of_rows("given", measured, {}, seed),
            *([report.of_history(self.history)] if self.history else []),
            report.of_data(
                encoder, {"given": measured.source}, {"given": measured.data}, (*self.notes, *news.notes())
            ),
            report.of_network(encoder, self.network.summary(), calibrated=self.calibration is not None),
        ]
        report.write(Path(output), report.page("Model", about, parts))

    def save(self, folder: str | Path) -> None:
        """Write the model into a folder, which ``load_trained`` reads and ``gpumlp predict`` takes.

        A model that is there is replaced whole, or not at all, unless there are other files beside it.

        Raises
        ------
        WriteError
            If it cannot be written.
        RunError
            If a weight is not finite.
        """
        weights = self.network.arrays()
        _check_finite(weights, str(folder))
        folder = Path(folder)
        make_folder(folder.parent)
        others = folder.is_dir() and {each.name for each in folder.iterdir()} - {WEIGHTS, DESCRIPTION}
        if others or folder.is_symlink():
            save_model(folder, self, weights)
            return
        with making_folder(folder, replace=True) as beside:
            save_model(beside, self, weights)

    def to_bytes(self) -> dict[str, bytes]:
        """Return the files that ``save`` would write, by name; ``parse_model`` takes them back."""
        return format_model(self, self.network.arrays())[0]

    def probabilities(self, linear: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return probabilities of classes, (N, classes), or labels, (N, K), in float64, from last linear values."""
        if self.encoder.labels is not None:
            return softmax(linear.reshape(-1, 1))[:, 1].reshape(linear.shape)
        return softmax(linear) if self.calibration is None else self.calibration(linear)

    def margin(self, level: float) -> float:
        """Return how far a new row's target is from its prediction at most, with the probability ``level``.

        Of numbers this is in units of the target; a class is within it where 1 - p is at most the margin.

        Raises
        ------
        RunError
            If no validation rows were kept for this, or too few.
        """
        if len(self.encoder.target_names) > 1:
            message = f"intervals are of one target, and this model predicts {len(self.encoder.target_names)}"
            other = "or use the probabilities" if self.encoder.labels else "or with the loss quantile"
            raise RunError(message, hint=f"train a run for each target, {other}")
        if self.scores is None:
            message = "intervals need validation rows that did not choose the best epoch, and this model has none"
            raise RunError(message, hint="train with validation rows and --set training.conformal=0.5")
        index, count = rank(level, len(self.scores)), len(self.scores)
        if index > count:
            needed = math.ceil(level / (1 - level) - 1e-9)
            message = (
                f"intervals of {level:g} need at least {needed:,} rows kept for them, and this model has {count:,}"
            )
            raise RunError(message, hint="train with more validation rows, or choose a lower level")
        return float(self.scores[index - 1])

    def outputs(self, features: Features) -> Iterator[np.ndarray[Any, Any]]:
        """Yield what the network makes of encoded rows, (n, K), some at a time: probabilities, or scaled numbers."""
        return (answer for _, answer in self.answers(features))

    def answers(self, features: Features) -> Iterator[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
        """Yield the last linear values of encoded rows and what they stand for, (n, K) each, some rows at a time."""
        scale, batch = self.encoder.input_scale, rows_at_once(self.encoder.outputs, features)
        if len(features) <= batch and (replayed := self._replays(self.network, features, scale)):
            yield replayed
            return
        for linear in outputs(self.network, features, scale, batch):
            yield linear.numpy(), answers(self.network, linear)

    def predictions(self, sources: Iterable[Source], news: News) -> Iterator[tuple[Source, Predictions]]:
        """Yield each block of raw rows with its predictions. ``news`` collects what a user should know about them.

        Raises
        ------
        DataError
            If a block does not fit the model.
        """
        for source in sources:
            yield source, Predictions.joined([self._predicted(each, news) for each in self.in_pieces(source)])

    def _predicted(self, source: Source, news: News) -> Predictions:
        """Return the predictions of raw rows that are few enough to be encoded at once."""
        data, _ = self.encoder.encode(source, targets=False, news=news)
        if self.encoder.labels is not None:
            shares = [self.probabilities(linear) for linear, _ in self._finite_answers(source, data.features)]
            return Predictions.of_labels(np.concatenate(shares))
        values, probabilities, quantiles = [], [], []
        for linear, some in self._finite_answers(source, data.features):
            if self.encoder.classes is None:
                values.append(self.encoder.restore(some))
                if self.encoder.levels:
                    quantiles.append(self.encoder.quantiles(some))
            else:
                values.append(most_probable(some))
                probabilities.append(self.probabilities(linear))
        whole = (np.concatenate(each) if each else None for each in (probabilities, quantiles))
        return Predictions(np.concatenate(values), *whole)

    def _finite_answers(
        self, source: Source, features: Features
    ) -> Iterator[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
        """Yield the answers; raise DataError where one is not finite, and would be taken for the first class."""
        start = 0
        for linear, some in self.answers(features):
            if not np.isfinite(linear).all():
                row = start + int(np.argmin(np.isfinite(linear).all(axis=1)))
                message = "the prediction is not finite, since a number is too far from the training values"
                raise DataError(message, where=source.where(row))
            start += len(linear)
            yield linear, some

    def in_pieces(self, source: Source) -> Iterator[Source]:
        """Return the rows, some at a time where they would take much memory once they are encoded."""
        return in_parts(source, self.encoder.count(source), max(1, MAX_ENCODED_BYTES // self.encoder.row_bytes))


@phase("save")
def save_model(folder: Path, model: SavedModel, weights: Arrays) -> str:
    """Write a model; return its checksum. ``weights`` are the arrays of ``network.arrays()`` that are to be kept.

    The description is written last and names the checksum of the weights, so a pair that does not belong
    together is found when it is read.
    """
    keep_folder(folder)
    files, checksum = format_model(model, weights)
    for name in (WEIGHTS, DESCRIPTION):
        keep_bytes(folder / name, files[name])
    return checksum


def format_model(model: SavedModel, weights: Arrays) -> tuple[dict[str, bytes], str]:
    """Return the files of a model, by name, and its checksum."""
    description, arrays = describe(model)
    arrays |= {f"network/{k}": v for k, v in weights.items()}
    content, checksum = format_arrays(arrays, {"format": description["format"]})
    text, whole = format_sealed({"format": description["format"], "weights": checksum, **description})
    return {WEIGHTS: content, DESCRIPTION: text}, whole


def describe(model: SavedModel) -> tuple[dict[str, Any], Arrays]:
    """Return all of a model but the weights of its network: as JSON, and arrays by name."""
    network, encoder = model.network, model.encoder
    fields, fitted = encoder.to_state()
    arrays = {f"encoder/{k}": v for k, v in fitted.items()}
    # What one network without a calibration needs is in format 1, which earlier versions read.
    members = {"members": len(network.networks)} if isinstance(network, Ensemble) else {}
    calibrated = {} if model.calibration is None else {"calibration": model.calibration.to_state()}
    version = FORMAT if members or calibrated or not model.architecture.is_plain else 1
    if model.scores is not None:
        arrays["conformal/scores"] = model.scores
    description = {
        "format": version,
        "network": {
            "inputs": encoder.width,
            **model.architecture.to_state(),
            "outputs": encoder.outputs,
            "link": network.link,
            "dtype": network.context.dtype.name,
            **members,
        },
        "encoder": fields,
        **calibrated,
    }
    return description, arrays


def load_model(folder: Path, backend: Backend, *, checksum: str | None = None) -> SavedModel:
    """Read a model. Raises RunError where a file is missing, damaged or made by a later version.

    ``checksum`` is what :func:`save_model` returned, where it is known: another model is refused then.
    """
    description = read_json(folder / DESCRIPTION)
    return _restored(description, *read_arrays(folder / WEIGHTS), backend, str(folder), checksum)


def parse_model(files: Mapping[str, bytes], backend: Backend, where: str = "<bytes>") -> SavedModel:
    """Return the model of which :func:`format_model` made these files. Raises RunError as :func:`load_model` does."""
    description = parse_json(files[DESCRIPTION], where)
    return _restored(description, *parse_arrays(files[WEIGHTS], where), backend, where, None)


def _restored(
    description: Any, arrays: Arrays, meta: Mapping[str, Any], backend: Backend, folder: str, checksum: str | None
) -> SavedModel:
    path = os.path.join(folder, DESCRIPTION)
    try:
        version = description["format"]
        if not isinstance(version, int) or version > FORMAT:
            raise RunError(
                f"the model has format {version!r}; this version of gpumlp reads formats up to {FORMAT}",
                where=path,
                hint="update gpumlp",
            )
        if not is_whole(description):
            raise RunError("the file is damaged: its content does not match its checksum", where=path)
        if checksum not in (None, description["sha256"]):
            raise RunError("this is not the model that the run wrote", where=folder)
        if description["weights"] != meta["sha256"]:
            raise RunError("model.json and the weights do not match", where=folder)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(f"not a gpumlp model, or damaged: {error}", where=path) from None
    return restore(description, arrays, backend, path)


def restore(description: Any, arrays: Arrays, backend: Backend, path: str) -> SavedModel:
    """Return the model of which :func:`describe` made the description, with its weights under ``network/``.

    Raises
    ------
    RunError
        If they do not fit each other.
    """
    folder = os.path.dirname(path)
    try:
        net = description["network"]
        architecture = Architecture.from_state(net)
        _check_sizes(net)
        encoder = Encoder.from_state(description["encoder"], _under("encoder/", arrays))
        weights = _under("network/", arrays)
        network = networks(net.get("members"), architecture, net["outputs"], net["link"])
        _check_weights(network, weights, net["inputs"], folder)
        network.build(net["inputs"], backend=backend, dtype=net["dtype"])
        network.load(weights)
        if (encoder.width, encoder.outputs) != (net["inputs"], net["outputs"]):
            raise RunError("the encoder and the network have different widths", where=path)
        calibration = Temperature.from_state(description["calibration"]) if "calibration" in description else None
        scores = arrays.get("conformal/scores")
        if scores is not None and not (
            scores.ndim == 1 and np.isfinite(scores).all() and (np.diff(scores) >= 0).all()
        ):
            raise ValueError("the scores for intervals are not sorted numbers")
    except (RunError, BackendError):  # a device without memory says nothing against the model
        raise
    except (GpumlpError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(f"not a gpumlp model, or damaged: {error}", where=path) from None
    return SavedModel(encoder, network, architecture, calibration=calibration, scores=scores)


def _under(prefix: str, arrays: Mapping[str, Any]) -> Arrays:
    return {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}


def _check_sizes(net: Mapping[str, Any]) -> None:
    for size in (net["inputs"], net["outputs"]):
        if type(size) is not int or not 0 < size <= MAX_UNITS:
            raise ValueError(f"a layer of width {size!r}")
    if "members" in net and (type(net["members"]) is not int or not 0 < net["members"] <= MAX_MEMBERS):
        raise ValueError(f"{net['members']!r} networks")
    if net["dtype"] not in {precision.stored for precision in PRECISIONS.values()}:
        raise ValueError(f"dtype {net['dtype']!r}")


def _check_weights(network: Sequential | Ensemble, weights: Arrays, inputs: int, where: str) -> None:
    """Compare the arrays with those that the network declares, before any memory of these sizes is taken."""
    declared = {name: array.shape for name, array in network.declare(inputs).items()}
    if declared != {name: array.shape for name, array in weights.items()}:
        raise RunError("the shapes of the weights do not match model.json", where=where)
    _check_finite(weights, where)


def _check_finite(weights: Arrays, where: str) -> None:
    for name, array in weights.items():
        if not np.isfinite(array).all():
            message = f"{name} has values that are not finite, so the model cannot predict"
            raise RunError(message, where=where, hint="train it again")
