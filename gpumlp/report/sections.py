"""The sections of a report on a model: data, metrics, predictions, columns, worst rows."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpumlp.data import EncodedRows, Encoder, Frame, Source, survey
from gpumlp.errors import in_words
from gpumlp.metrics import Curves, at_thresholds, curves, label, title
from gpumlp.report import analysis
from gpumlp.report.analysis import Rows
from gpumlp.report.charts import Axis, Series, chart
from gpumlp.report.page import Section, bars, code, listing, matrix, paragraph, table

Host = np.ndarray[Any, Any]

MAX_MATRIX_CLASSES = 20
"""Most classes of a confusion matrix; of more, the pairs that are confused most are listed."""

MAX_CURVES = 6
"""Most classes, or targets, that are drawn."""

DEPENDENT_COLUMNS = 6
"""Columns whose partial dependence is drawn, the most important first."""

MAX_DOTS = 1_000
"""Most rows that are drawn."""

LISTED_PAIRS, SHOWN_CELLS, HISTOGRAM_BINS, MAX_LISTED_CLASSES = 20, 4, 25, 200


def number(value: float | None) -> str:
    """Return a number with four digits, and a dash for none."""
    if value is None or value != value:
        return "–"
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"


def of_data(
    encoder: Encoder, sources: Mapping[str, Source], parts: Mapping[str, EncodedRows], notes: Sequence[str]
) -> Section:
    """Return what was learned from what: rows of each part, the target, the columns.

    Parameters
    ----------
    encoder
        Fitted to the training rows.
    sources, parts
        Raw and encoded rows of each part, the training rows first.
    notes
        On the data, each in a line of its own.
    """
    first = next(iter(sources.values()))
    sizes = ", ".join(f"{len(each):,} {name}" for name, each in parts.items())
    html = paragraph(f"The target is {encoder.target_name!r}. Rows: {sizes}.")
    of_task = {"classification": _of_classes, "multilabel": _of_labels, "regression": _of_numbers}
    html += of_task[encoder.task](encoder, parts)
    names = [name for name in first.names if name not in (*encoder.target_names, encoder.weights_name)]
    reports, used = survey(first, names[: analysis.MAX_COLUMNS]), set(encoder.inputs.names)
    lines = ([each.name, "yes" if each.name in used else "no", each.text] for each in reports)
    html += table(["column", "used", f"in the {next(iter(parts))} rows"], lines)
    if hidden := len(names) - len(reports):
        html += paragraph(f"And {hidden:,} more columns.")
    if notes:
        html += "<h3>Notes</h3>" + listing(notes)
    return Section("Data", html)


def _of_classes(encoder: Encoder, parts: Mapping[str, EncodedRows]) -> str:
    classes = encoder.classes or ()
    counts = [np.bincount(_targets(each) + 1, minlength=len(classes) + 1) for each in parts.values()]
    body = [[name, *(f"{each[i]:,}" for each in counts)] for i, name in enumerate(classes[:MAX_LISTED_CLASSES], 1)]
    if any(each[0] for each in counts):
        body.append(["not seen in training", *(f"{each[0]:,}" for each in counts)])
    html = table(["class", *parts], body, numeric=range(1, len(parts) + 1))
    hidden = len(classes) - MAX_LISTED_CLASSES
    return html + (paragraph(f"And {hidden:,} more classes.") if hidden > 0 else "")


def _of_labels(encoder: Encoder, parts: Mapping[str, EncodedRows]) -> str:
    body = []
    for i, name in enumerate(encoder.target_names[:MAX_LISTED_CLASSES]):
        there = [values[~np.isnan(values)] for values in (_targets(each)[:, i] for each in parts.values())]
        body.append([name, *(f"{int(each.sum()):,} of {len(each):,}" for each in there)])
    html = table(["label", *(f"true in {name}" for name in parts)], body, numeric=range(1, len(parts) + 1))
    hidden = len(encoder.target_names) - MAX_LISTED_CLASSES
    return html + (paragraph(f"And {hidden:,} more labels.") if hidden > 0 else "")


def _of_numbers(encoder: Encoder, parts: Mapping[str, EncodedRows]) -> str:
    body = []
    for name, each in parts.items():
        true = encoder.decode(_targets(each).astype(np.float64)).reshape(len(each), -1)
        for target, values in zip(encoder.target_names, true.T, strict=True):
            there = values[~np.isnan(values)]
            if len(there):
                statistics = (there.min(), np.median(there), there.mean(), there.max(), there.std())
                body.append([target, name, f"{len(there):,}", *map(number, statistics)])
    heads = ["target", "part", "rows", "least", "median", "mean", "largest", "standard deviation"]
    return table(heads, body, numeric=range(2, 8))


def _targets(data: EncodedRows) -> Host:
    assert data.targets is not None
    return data.targets


def of_metrics(name: str, rows: Rows, known: Mapping[str, Mapping[str, float]], seed: int) -> Section:
    """Return the metrics of all parts, with intervals for one.

    Parameters
    ----------
    name, rows
        The part with intervals.
    known
        Metrics of each part that were measured before.
    seed
        Seed of the samples that the intervals are computed by.
    """
    bounds, samples = analysis.intervals(rows, seed)
    measured = {**known, name: {**known.get(name, {}), **analysis.scores(rows, rows.data.weights)}}
    names = list(dict.fromkeys(metric for part in measured.values() for metric in part))
    level = f"{100 * analysis.LEVEL:g} %"
    heads = ["", *measured, f"{name}, {level} interval"]
    body = []
    for metric in names:
        low, high = bounds.get(metric, (None, None))
        interval = "–" if low is None else f"{number(low)} to {number(high)}"
        body.append([title(metric), *(number(part.get(metric)) for part in measured.values()), interval])
    html = table(heads, body, numeric=range(1, len(heads)))
    html += paragraph(
        f"The intervals are those of {samples:,} samples of the {len(rows):,} {name} rows, drawn with replacement "
        "(bootstrap percentiles): how much the metrics of this model vary with the rows they are measured on."
    )
    return Section("Metrics", html)


def of_network(encoder: Encoder, summary: str, *, calibrated: bool) -> Section:
    """Return the layers. ``summary`` is the table that the network makes of them."""
    description = f"{encoder.width:,} inputs, {encoder.outputs:,} outputs."
    if calibrated:
        description += " Probabilities are calibrated on validation rows."
    return Section("Network", paragraph(description) + code(summary))


def of_history(history: Sequence[Mapping[str, Any]], best: Sequence[int] = (), metric: str = "loss") -> Section:
    """Return the learning curves: losses, the metric that chose the epoch, the learning rate.

    Parameters
    ----------
    history
        A row for each epoch.
    best
        The epoch whose weights were kept, if it is known.
    metric
        What it was chosen by.
    """
    epochs = np.array([row["epoch"] for row in history])
    losses = [
        Series(part, epochs, _column(history, f"{part}_loss"))
        for part in ("train", "validation")
        if f"{part}_loss" in history[0]
    ]
    axis = Axis("epoch")
    ends = ", ".join(f"{each.name} {number(each.y[0])} to {number(each.y[-1])}" for each in losses)
    charts = [chart("loss", f"Loss by epoch: {ends}.", losses, axis, Axis("loss", logarithmic=True))]
    shown = (
        metric if metric != "loss" else next((m for m in ("accuracy", "rmse") if f"validation_{m}" in history[0]), "")
    )
    if f"validation_{shown}" in history[0]:
        values = _column(history, f"validation_{shown}")
        about = f"Validation {title(shown)} by epoch, {number(values[0])} to {number(values[-1])}."
        charts.append(
            chart(f"validation {title(shown)}", about, [Series("", epochs, values)], axis, Axis(title(shown)))
        )
    rates = _column(history, "learning_rate")
    about = f"Learning rate by epoch, from {number(rates[0])} to {number(rates[-1])}."
    charts.append(chart("learning rate", about, [Series("", epochs, rates)], axis, Axis("learning rate")))
    chosen = f"by the validation {title(metric)}" if "validation_loss" in history[0] else "the last one"
    chosen_epoch = f" The model has the weights of epoch {best[0]}, {chosen}." if best else ""
    if len(best) > 1:
        chosen_epoch = f" The mean of epochs {in_words(best)} predicts, {chosen}."
    html = paragraph(f"{len(history):,} epochs.{chosen_epoch}")
    return Section("Learning curves", html + _grid(charts))


def _column(history: Sequence[Mapping[str, Any]], name: str) -> Host:
    return np.array([np.nan if row.get(name) is None else row[name] for row in history], np.float64)


def _grid(charts: Sequence[str]) -> str:
    return f'<div class="charts">{"".join(charts)}</div>\n'


def of_predictions(name: str, rows: Rows, seed: int) -> Iterator[Section]:
    """Yield what is predicted of a part of the data, beside the truth."""
    if rows.probabilities is None:
        yield Section(f"Predicted against true ({name})", _of_residuals(rows, seed))
        return
    if rows.model.encoder.labels:
        yield Section(f"Labels ({name})", _of_each_label(rows))
        yield Section(f"ROC and precision-recall ({name})", _curves_of(_curves_of_labels(rows), "label"))
        return
    classes = rows.model.encoder.classes or ()
    yield Section(f"Confusion matrix ({name})", _of_confusion(rows, classes))
    yield Section(f"ROC and precision-recall ({name})", _of_curves(rows, classes))
    if len(classes) == 2:
        yield Section(f"Thresholds ({name})", _of_thresholds(rows, classes[1]))
    mean, share, weight = analysis.reliability(rows)
    subject = f"of {classes[1]}" if len(classes) == 2 else "of the most probable class"
    lines = [(number(p), number(s), f"{w:,.6g}") for p, s, w in zip(mean, share, weight, strict=True)]
    about = f"How often it came true, by the probability {subject}: " + "; ".join(f"{p}: {s}" for p, s, _ in lines)
    diagonal = Series("", np.array([0.0, 1.0]), np.array([0.0, 1.0]), faint=True)
    drawn = [Series("", mean, share), diagonal]
    figure = chart(f"probability {subject}", about, drawn, _share("predicted"), _share("came true"))
    html = _grid([figure]) + table(["predicted", "came true", "rows"], lines, numeric=(0, 1, 2))
    yield Section(f"Reliability ({name})", html)


def _of_confusion(rows: Rows, classes: Sequence[str]) -> str:
    known, count = rows.known, len(classes)
    pairs, weights = (rows.targets.astype(np.int64) * count + rows.chosen())[known], rows.weights[known]
    new = int((~known).sum())
    left_out = paragraph(f"Without {new:,} rows of classes that training has not seen.") if new else ""
    if count <= MAX_MATRIX_CLASSES:
        return left_out + matrix(classes, np.bincount(pairs, weights, count * count).reshape(count, count).tolist())
    wrong, cell = np.unique(pairs, return_inverse=True)  # of K² pairs only those that rows have
    counts = np.where(wrong // count == wrong % count, 0.0, np.bincount(cell, weights, len(wrong)))
    order = np.argsort(-counts, kind="stable")[:LISTED_PAIRS]
    body = (
        [classes[wrong[i] // count], classes[wrong[i] % count], f"{counts[i]:,.6g}"] for i in order if counts[i] > 0
    )
    heads, caption = ["true", "predicted", "rows"], "the pairs that are confused most"
    return left_out + table(heads, body, caption=caption, numeric=(2,))


def _of_each_label(rows: Rows) -> str:
    """Return how often each label was found, missed and seen wrongly."""
    body = []
    for name, probability, targets in _each_label(rows):
        there, chosen = ~np.isnan(targets), probability > 0.5
        outcomes = (
            chosen & (targets == 1),
            ~chosen & (targets == 1),
            chosen & (targets == 0),
            ~chosen & (targets == 0),
        )
        counts = [f"{float(rows.weights[there] @ each[there]):,.6g}" for each in outcomes]
        measured = label(probability, targets, rows.weights)
        body.append([name, *counts, *(number(measured[key]) for key in ("precision", "recall", "f1"))])
    heads = [
        "label",
        "true positives",
        "false negatives",
        "false positives",
        "true negatives",
        "precision",
        "recall",
        "F1",
    ]
    return table(heads, body, numeric=range(1, len(heads)))


def _each_label(rows: Rows) -> Iterator[tuple[str, Host, Host]]:
    """Yield the name, the probability and the target, both (N,), of each label."""
    assert rows.probabilities is not None
    yield from zip(rows.model.encoder.target_names, rows.probabilities.T, rows.targets.T, strict=True)


def _curves_of_labels(rows: Rows) -> dict[str, Curves | None]:
    curves_of = {}
    for name, probability, targets in itertools.islice(_each_label(rows), MAX_CURVES):
        there = ~np.isnan(targets)
        curves_of[name] = curves(probability[there], targets[there] == 1, rows.weights[there])
    return curves_of


def _of_thresholds(rows: Rows, name: str) -> str:
    """Return precision and recall of the second class where another probability than 1/2 decides for it."""
    assert rows.probabilities is not None
    scores = at_thresholds(rows.probabilities[:, 1], rows.targets == 1, rows.weights)
    keys = ("threshold", "taken", "precision", "recall", "f1")
    heads = ["probability above", f"share taken for {name}", "precision", "recall", "F1"]
    return table(heads, ([number(each[key]) for key in keys] for each in scores), numeric=range(5))


def _of_curves(rows: Rows, classes: Sequence[str]) -> str:
    assert rows.probabilities is not None
    classes_shown = _drawn_outputs(rows)
    curves_of = {classes[i]: curves(rows.probabilities[:, i], rows.targets == i, rows.weights) for i in classes_shown}
    html = _curves_of(curves_of, "class")
    more = len(classes) - len(classes_shown) if len(classes) > 2 else 0
    return html + (paragraph(f"The {len(classes_shown)} most frequent of {len(classes):,} classes.") if more else "")


def _drawn_outputs(rows: Rows) -> list[int]:
    """Return the classes that are drawn, the second of two, else the most frequent; of labels and numbers the first.

    They have the same colours in all charts, by their places here.
    """
    classes = rows.model.encoder.classes
    if classes is None:
        return list(range(len(rows.model.encoder.target_names)))[:MAX_CURVES]
    if len(classes) == 2:
        return [1]
    totals = np.bincount(rows.targets[rows.known], rows.weights[rows.known], len(classes))
    drawn: list[int] = np.argsort(-totals, kind="stable")[:MAX_CURVES].tolist()
    return drawn


def _curves_of(curves_of: Mapping[str, Curves | None], kind: str) -> str:
    """Return the charts of the curves of classes or labels, by their names, and a table of their areas."""
    there = {name: each for name, each in curves_of.items() if each is not None}
    colours = {name: i for i, name in enumerate(curves_of)}
    if not there:
        return paragraph(f"All rows are of one {kind}, so there are no curves.")
    diagonal = Series("", np.array([0.0, 1.0]), np.array([0.0, 1.0]), faint=True)
    areas = "; ".join(f"{name}: {number(each.auc)}" for name, each in there.items())
    averages = "; ".join(f"{name}: {number(each.average_precision)}" for name, each in there.items())
    roc = chart(
        "ROC",
        f"ROC curves. Area under the curve of each {kind}: {areas}.",
        [
            *(Series(name, each.false_positives, each.recall, colour=colours[name]) for name, each in there.items()),
            diagonal,
        ],
        _share("false positive rate"),
        _share("true positive rate"),
    )
    precision = chart(
        "precision and recall",
        f"Precision-recall curves. Average precision of each {kind}: {averages}.",
        [Series(name, each.recall[1:], each.precision, colour=colours[name]) for name, each in there.items()],
        _share("recall"),
        _share("precision"),
    )
    body = ([name, number(each.auc), number(each.average_precision)] for name, each in there.items())
    return _grid([roc, precision]) + table([kind, "area under ROC", "average precision"], body, numeric=(1, 2))


def _of_residuals(rows: Rows, seed: int) -> str:
    predicted, true = analysis.sample(rows, MAX_DOTS, seed).numbers()
    charts = []
    for i, target in enumerate(rows.model.encoder.target_names[:MAX_CURVES]):
        there = ~np.isnan(true[:, i])
        if there.any():
            charts += _of_target(target, predicted[there, i], true[there, i])
    return _grid(charts)


def _of_target(target: str, predicted: Host, true: Host) -> list[str]:
    """Return three charts of one target: predicted against true, residuals, their distribution."""
    residuals, values = predicted - true, np.concatenate([true, predicted])
    ends = np.array([values.min(), values.max()])
    span = np.array([predicted.min(), predicted.max()])
    spread = f"mean {number(residuals.mean())}, standard deviation {number(residuals.std())}"
    low, high = np.percentile(residuals, [25, 75])
    counts, edges = np.histogram(residuals, HISTOGRAM_BINS)
    return [
        chart(
            f"{target}: predicted against true",
            f"{len(true):,} rows; values from {number(ends[0])} to {number(ends[1])}; on the line both are equal.",
            [Series("", true, predicted, form="dots"), Series("", ends, ends, faint=True)],
            Axis("true"),
            Axis("predicted"),
        ),
        chart(
            f"{target}: residuals",
            f"Predicted minus true, by the prediction: {spread}.",
            [Series("", predicted, residuals, form="dots"), Series("", span, np.zeros(2), faint=True)],
            Axis("predicted"),
            Axis("predicted - true"),
        ),
        chart(
            f"{target}: distribution of residuals",
            f"Half of the residuals are between {number(low)} and {number(high)}.",
            [Series("", edges, counts, form="bars")],
            Axis("predicted - true"),
            Axis("rows"),
        ),
    ]


def _share(label: str) -> Axis:
    return Axis(label, 0.0, 1.0)


def of_columns(name: str, rows: Rows, seed: int) -> Iterator[Section]:
    """Yield which columns matter, and how the first of them do."""
    if not isinstance(rows.source, Frame):
        yield Section("Importance of columns", paragraph("The inputs are arrays, whose values have no names."))
        return
    importance = analysis.importance(rows, seed)
    metric = "log-loss" if rows.probabilities is not None else "RMSE"
    html = paragraph(
        f"By how much the {metric} of the {name} rows rises where the cells of one column are permuted (mean and "
        f"standard deviation of {analysis.IMPORTANCE_REPEATS} permutations). Columns that hold the same information "
        "share their importance."
    )
    lines = [(column, mean, f"{number(mean)} ± {number(spread)}") for column, (mean, spread) in importance.items()]
    html += bars(("column", f"rise of the {metric}"), lines)
    if hidden := len(rows.columns) - len(importance):
        html += paragraph(f"{hidden:,} more columns were not looked at.")
    yield Section("Importance of columns", html)
    charts = [_of_dependence(rows, column, seed) for column in list(importance)[:DEPENDENT_COLUMNS]]
    html = paragraph(
        "What the model predicts on average if all rows have one value of a column, the others staying as they are. "
        "It says nothing about causes, and may ask for rows that never occur."
    )
    yield Section("Partial dependence", html + _grid(charts))


def _of_dependence(rows: Rows, column: str, seed: int) -> str:
    dependence = analysis.dependence(rows, column, seed)
    encoder = rows.model.encoder
    if encoder.classes is None:
        quantity = "probability" if encoder.labels else "mean prediction"
    else:
        quantity = f"probability of {encoder.classes[1]}" if len(encoder.classes) == 2 else "probability"
    drawn = _drawn_outputs(rows)
    names, means = [(encoder.classes or encoder.target_names)[i] for i in drawn], dependence.means[:, drawn]
    if isinstance(dependence.values, tuple):
        xs, axis = np.arange(len(dependence.values), dtype=np.float64), Axis(column, names=dependence.values)
        ends = f"{dependence.values[0]} to {dependence.values[-1]}"
    else:
        xs, axis = dependence.values, Axis(column)
        ends = f"{number(xs[0])} to {number(xs[-1])}"
    moves = "; ".join(
        f"{each}: {number(values.min())} to {number(values.max())}"
        for each, values in zip(names, means.T, strict=True)
    )
    about = f"Partial dependence on {column}, from {ends}. Range of {quantity}: {moves}."
    series = [
        Series(str(each), xs, values, form="dots" if axis.names else "line")
        for each, values in zip(names, means.T, strict=True)
    ]
    return chart(column, about, series, axis, Axis(quantity))


def of_worst(name: str, rows: Rows) -> Section:
    """Return the rows of a part that are predicted worst, with some of their cells."""
    order, errors = analysis.worst(rows)
    encoder = rows.model.encoder
    shown = list(rows.columns[:SHOWN_CELLS])
    cells = (
        {column: rows.source.columns[column].written() for column in shown} if isinstance(rows.source, Frame) else {}
    )
    if encoder.classes is not None:
        labels = rows.source.categories(rows.source.resolve(encoder.target_name))
    body = []
    for row in order.tolist():
        if encoder.labels is not None:
            assert rows.probabilities is not None
            true, shares = rows.targets[row], rows.probabilities[row]
            label = int(np.argmax(analysis.label_errors(shares, true)))
            words = encoder.labels.columns[label].classes
            target = f"{encoder.target_names[label]}: {words[int(true[label])]}"
            facts = [target, words[int(shares[label] > 0.5)], number(1 - errors[row])]
        elif encoder.classes is not None:
            assert rows.probabilities is not None
            known = rows.known[row]
            true_class = encoder.classes[rows.targets[row]] if known else f"{labels.texts[labels.codes[row]]} (new)"
            facts = [true_class, encoder.classes[int(rows.chosen()[row])], number(1 - errors[row])]
        else:
            predicted, truth = (each[row] for each in rows.numbers())
            facts = [*(", ".join(map(number, each.tolist())) for each in (truth, predicted)), number(errors[row])]
        body.append(
            [Path(rows.source.where(row)).name, *facts, *(each.texts[each.codes[row]] for each in cells.values())]
        )
    last = "error" if encoder.task == "regression" else "probability of the true class"
    html = paragraph("Wrong labels and measurements are often found here.")
    html += table(["row", "true", "predicted", last, *shown], body, numeric=(3,))
    return Section(f"Worst rows ({name})", html)


def of_rows(name: str, rows: Rows, known: Mapping[str, Mapping[str, float]], seed: int) -> list[Section]:
    """Return all sections on how good a model is on rows, and how it decides.

    Parameters
    ----------
    name
        Name of the part of the data that the rows are.
    rows
        What the model predicts, and what is true.
    known
        Metrics of each part that were measured before.
    seed
        Seed of samples and permutations.
    """
    return [
        of_metrics(name, rows, known, seed),
        *of_predictions(name, rows, seed),
        *of_columns(name, rows, seed),
        of_worst(name, rows),
    ]
