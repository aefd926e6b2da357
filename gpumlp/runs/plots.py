"""Pictures of a run, drawn by matplotlib, which is in the extra ``plot``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpumlp.data import EncodedRows, Encoder
from gpumlp.errors import Note, in_words
from gpumlp.metrics import curves, most_probable
from gpumlp.runs.evaluation import UNSEEN, load_run, load_trained, own_parts
from gpumlp.runs.folder import RunFolder
from gpumlp.store.figure import letters, new_figure, save

TRAIN, VALIDATION = "#1f77b4", "#d62728"
DECADES = 20  # ratio of losses from which a straight scale would hide the small ones
LARGEST_NAMED = 20  # classes whose names fit along an axis
MOST_CELLS = 500  # along an axis of a confusion matrix: more classes are drawn in groups of neighbours


def plot(folder: str | Path, output: str | Path) -> tuple[Note, ...]:
    """Draw the learning curves of a run beside what it predicts on rows it was not trained on.

    On the right stands a confusion matrix for classes, ROC curves for labels, predictions against the truth for
    numbers. Returns notes on the data.
    Raises ConfigError where the format is none that matplotlib draws, RunError where it is not installed.

    Parameters
    ----------
    folder
        Folder of the run.
    output
        The picture to write, PNG, SVG or PDF.

    Returns
    -------
    tuple of Note
        What a user should know.
    """
    output = Path(output)
    figure = new_figure(output, 11, 4.5)
    run, model = load_run(folder, unfinished=True), load_trained(folder)
    parts, notes = own_parts(run, model)
    name = next(each for each in UNSEEN if each in parts)
    data = parts[name]
    assert data.targets is not None
    left, right = figure.subplots(1, 2)
    history = RunFolder(run.folder).read_history(run.summary["epochs"], run.summary["history"])
    _curves(left, history, run.summary.get("snapshots") or [run.summary["best_epoch"]])
    outputs = (part for block in data.blocks() for part in model.outputs(block.features))
    if model.encoder.task == "classification":
        chosen = np.concatenate([most_probable(part) for part in outputs])  # without all probabilities at once
        _confusion(right, chosen, data.targets, tuple(map(letters, model.encoder.classes or ())))
    elif model.encoder.labels:
        _label_curves(right, model.encoder.target_names, np.concatenate(list(outputs)), data)
    else:
        _scatter(right, model.encoder, np.concatenate(list(outputs)), data.targets)
    right.set_title(f"{name} rows")
    figure.suptitle(letters(str(run.folder), 100))
    save(figure, output)
    return (*model.notes, *notes)


def _curves(axes: Any, history: list[dict[str, Any]], best: Sequence[int]) -> None:
    epochs = [row["epoch"] for row in history]
    losses: list[float] = []
    for part, colour in (("train", TRAIN), ("validation", VALIDATION)):
        if f"{part}_loss" in history[0]:
            curve = [row[f"{part}_loss"] for row in history]
            axes.plot(epochs, curve, color=colour, label=part)
            losses += curve
    axes.xaxis.get_major_locator().set_params(integer=True)
    label = f"the mean of epochs {in_words(best)}" if len(best) > 1 else f"best epoch, {best[0]}"
    for number, epoch in enumerate(best):
        axes.axvline(epoch, color="grey", linewidth=0.8, linestyle=":", label="" if number else label)
    axes.set(xlabel="epoch", ylabel="loss", title="learning curves")
    if max(losses) > DECADES * min(losses) > 0:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    axes.grid(alpha=0.3)
    axes.legend()


def _confusion(axes: Any, predicted: Any, labels: Any, classes: tuple[str, ...]) -> None:
    group = -(-len(classes) // MOST_CELLS)
    cells = -(-len(classes) // group)
    counts = np.zeros((cells, cells), dtype=np.int64)
    np.add.at(counts, (labels // group, predicted // group), 1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    last = cells * group - 0.5
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, extent=(-0.5, last, last, -0.5))
    of = f", in groups of {group}" if group > 1 else ""
    axes.set(xlabel=f"predicted{of}", ylabel=f"true{of}")
    named = range(0, len(classes), -(-len(classes) // LARGEST_NAMED))
    names = [classes[i] for i in named]
    long = max(map(len, names)) > 3
    axes.set_xticks(named, names, rotation=45 if long else 0, ha="right" if long else "center")
    axes.set_yticks(named, names)
    if len(classes) > LARGEST_NAMED:
        return
    for i, j in np.argwhere(counts):
        axes.text(j, i, counts[i, j], ha="center", va="center", color="white" if shares[i, j] > 0.5 else "black")


def _label_curves(axes: Any, names: Sequence[str], probabilities: Any, data: EncodedRows) -> None:
    """Draw the ROC curve of each label; in the legend stands the area under it."""
    assert data.targets is not None
    weights = np.ones(len(data)) if data.weights is None else data.weights
    for name, p, targets in zip(names, probabilities.T, data.targets.T, strict=True):
        there = ~np.isnan(targets)
        if (curve := curves(p[there], targets[there] == 1, weights[there])) is not None:
            axes.plot(curve.false_positives, curve.recall, label=f"{letters(name)}: {curve.auc:.3f}")
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
    axes.set(xlabel="false positive rate", ylabel="true positive rate")
    axes.grid(alpha=0.3)
    if len(names) <= LARGEST_NAMED:
        axes.legend(title="area under the ROC curve")


def _scatter(axes: Any, encoder: Encoder, outputs: Any, targets: Any) -> None:
    truth, predicted = encoder.decode(targets), encoder.restore(outputs)
    if truth.ndim == 2:  # of several targets, whose units differ, in standard deviations
        names, spread = encoder.target_names, np.nanstd(truth, axis=0)
        mean, spread = np.nanmean(truth, axis=0), np.where(spread > 0, spread, 1.0)
        truth, predicted = (truth - mean) / spread, (predicted - mean) / spread
        for i, name in enumerate(names):
            axes.scatter(truth[:, i], predicted[:, i], s=12, alpha=0.5, linewidths=0, label=letters(name))
        if len(names) <= LARGEST_NAMED:
            axes.legend()
        there = ~np.isnan(truth)
        truth, predicted = truth[there], predicted[there]
    else:
        axes.scatter(truth, predicted, s=12, alpha=0.5, color=TRAIN, linewidths=0)
    ends = [min(truth.min(), predicted.min()), max(truth.max(), predicted.max())]
    axes.plot(ends, ends, color="grey", linewidth=0.8, linestyle=":")
    target = letters(encoder.target_name)
    axes.set(xlabel=f"true {target}", ylabel=f"predicted {target}")
    axes.grid(alpha=0.3)
