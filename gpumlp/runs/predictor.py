"""What predicts from raw rows, whatever it is made of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gpumlp.data import Dataset, Encoder, News, Source, read, rows_of, with_columns
from gpumlp.data.source.rows import plain_array, row_weights
from gpumlp.errors import ConfigError, DataError
from gpumlp.metrics import CurvePoints, ThresholdCounts


@dataclass(frozen=True)
class Predictions:
    """What a model says of some rows.

    Parameters
    ----------
    values
        (N,) class numbers, or float64 in the units of the target, of T targets (N, T); of T labels (N, T) 0 or 1.
    probabilities
        (N, classes) float64; of T labels (N, T), each of the second class; None in regression.
    quantiles
        (N, T, levels) float64, rising; None but for the loss quantile.
    """

    values: np.ndarray[Any, Any]
    probabilities: np.ndarray[Any, Any] | None
    quantiles: np.ndarray[Any, Any] | None = None

    @classmethod
    def of_labels(cls, probabilities: np.ndarray[Any, Any]) -> Predictions:
        """Return predictions of labels: each is taken for true where its probability, (N, T), is above 1/2."""
        return cls((probabilities > 0.5).astype(np.int64), probabilities)

    @classmethod
    def joined(cls, parts: Sequence[Predictions]) -> Predictions:
        """Return the predictions of some rows and those of the rows after them, as one."""
        if len(parts) == 1:
            return parts[0]

        def of(name: str) -> Any:
            each = [getattr(part, name) for part in parts]
            return None if each[0] is None else np.concatenate(each)

        return cls(of("values"), of("probabilities"), of("quantiles"))

    def within(self, margin: float) -> np.ndarray[Any, Any]:
        """Return the bounds of numbers, (N, 2), or which classes are within, (N, classes): ``SavedModel.margin``."""
        if self.probabilities is None:
            return np.stack([self.values - margin, self.values + margin], axis=1)
        near: np.ndarray[Any, Any] = 1.0 - self.probabilities <= margin
        return near


class Predictor(ABC):
    """Predicts from raw rows.

    These are a file, a DataFrame, a mapping from names to columns, an array, or what ``read`` returned.

    Attributes
    ----------
    encoder
        The encoding of the inputs and of the target.
    """

    encoder: Encoder

    @abstractmethod
    def predictions(self, sources: Iterable[Source], news: News) -> Iterator[tuple[Source, Predictions]]:
        """Yield each block of raw rows with its predictions. ``news`` collects what a user should know about them.

        Raises
        ------
        DataError
            If a block does not fit the model.
        """

    @property
    def classes(self) -> np.ndarray[Any, Any] | None:
        """The classes as ``predict`` returns them, (C,); of two the second is the positive one. Else None."""
        return self.encoder.class_values

    @abstractmethod
    def margin(self, level: float) -> float:
        """Return how far a new row's target is from its prediction at most, with the probability ``level``.

        Of numbers this is in units of the target; a class is within it where 1 - p is at most the margin.

        Raises
        ------
        RunError
            If there are no intervals.
        """

    def predict(self, rows: Any, *, news: News | None = None) -> np.ndarray[Any, Any]:
        """Return the most probable class of each row, (N,), or numbers in units of the target, (N,) float64.

        Classes have the type of the target in training: bool, int64, float64, or str as objects. Of several targets
        or labels, T of them, these are (N, T).

        Parameters
        ----------
        rows
            N rows: a DataFrame, a dictionary of columns, an array, or what ``read`` returned.
        news
            Collects what a user should know about the rows: ``news.notes()``.

        Raises
        ------
        DataError
            If the rows do not fit the model.
        """
        values = self._predictions(rows, news).values
        labels = self.encoder.labels
        if labels is not None:
            return labels.values(values)
        return values if self.classes is None else self.classes[values]

    def predict_proba(self, rows: Any, *, news: News | None = None) -> np.ndarray[Any, Any]:
        """Return the probability of each class, (N, classes) float64, in the order of ``classes``.

        Of T labels these are (N, T), each the probability of the second of its classes.

        Raises
        ------
        DataError
            If the rows do not fit the model.
        TypeError
            In regression.
        """
        if self.encoder.task == "regression":
            raise TypeError("a regression predicts numbers, not probabilities")
        probabilities = self._predictions(rows, news).probabilities
        assert probabilities is not None
        return probabilities

    def predict_quantiles(self, rows: Any, *, news: News | None = None) -> np.ndarray[Any, Any]:
        """Return the quantiles of each row, (N, levels) float64, of T targets (N, T, levels), rising.

        Raises
        ------
        DataError
            If the rows do not fit the model.
        TypeError
            If the model was not trained with the loss quantile.
        """
        quantiles = self._predictions(rows, news).quantiles
        if quantiles is None:
            raise TypeError("this model predicts no quantiles: they need the loss quantile")
        return quantiles[:, 0] if quantiles.shape[1] == 1 else quantiles

    def predict_interval(self, rows: Any, level: float = 0.9) -> np.ndarray[Any, Any]:
        """Return bounds of each row's target, (N, 2) float64; of classes which may be true, (N, classes) bool.

        The target of a new row like those of the training is within them with the probability ``level``, whatever the
        network has learnt (split conformal prediction).

        Raises
        ------
        DataError
            If the rows do not fit the model.
        RunError
            If there are no intervals.
        """
        return self._predictions(rows, None).within(self.margin(level))

    def evaluate(self, rows: Any, y: Any = None, weights: Any = None) -> dict[str, float]:
        """Return the metrics of the predictions: accuracy and others, or errors in units of the target.

        Parameters
        ----------
        rows
            With the column of the target, unless ``y`` has it.
        y, weights
            (N,); of T targets or labels y is (N, T).

        Raises
        ------
        DataError
            If the rows do not fit the model.
        """
        encoder, source = self.labelled(rows, y, weights, news := News())
        data, _ = encoder.encode(source, targets=True, news=news, unseen=True)
        return self._measured(encoder, source, data, news)

    def curves(self, rows: Any, y: Any = None, weights: Any = None) -> CurvePoints:
        """Return points of the ROC and precision-recall curves of each class or label, at 101 thresholds.

            {point["threshold"]: point["recall"] for point in model.curves(rows)["yes"]}

        Each point has the ``threshold``, the share of rows that are ``taken`` for the class because its probability
        is above, and ``precision``, ``recall``, ``f1`` and ``false_positive_rate`` then.

        Parameters
        ----------
        rows
            With the column of the target, unless ``y`` has it.
        y, weights
            (N,); of T targets or labels y is (N, T).

        Raises
        ------
        ConfigError
            In regression.
        DataError
            If the rows do not fit the model.
        """
        encoder, source = self.labelled(rows, y, weights, news := News())
        counts = curve_counts(encoder)
        data, _ = encoder.encode(source, targets=True, news=news, unseen=True)
        ((_, predicted),) = self.predictions([source], news)
        assert predicted.probabilities is not None
        assert data.targets is not None
        counts.add(predicted.probabilities, data.targets, data.weights)
        return counts.result()

    @abstractmethod
    def _measured(self, encoder: Encoder, source: Source, data: Dataset, news: News) -> dict[str, float]:
        """Return the metrics of rows that have targets, encoded as ``data``."""

    def _source(self, rows: Any, **more: Any) -> Source:
        if isinstance(rows, str | Path):
            return read(rows, self.encoder.dialect, texts=self.encoder.texts)
        return with_columns(rows_of(rows), more)

    def _predictions(self, rows: Any, news: News | None) -> Predictions:
        ((_, predictions),) = self.predictions([self._source(rows)], News() if news is None else news)
        return predictions

    def labelled(self, rows: Any, y: Any, weights: Any, news: News) -> tuple[Encoder, Source]:
        """Return the rows that have a target, with targets and weights, and the encoder that takes them.

        Parameters
        ----------
        rows, y, weights
            As for ``evaluate``.
        news
            Collects what a user should know about the rows.

        Raises
        ------
        DataError
            If no row has a target.
        """
        counts, names = self.encoder.weights_name, self.encoder.target_names
        values = [y] if len(names) == 1 else plain_array(y).reshape(-1, len(names)).T if y is not None else []
        more = dict(zip(names, values, strict=True)) if y is not None else {}
        if weights is not None:
            more[counts or "weights"] = row_weights(weights)
        source = self._source(rows, **more)
        encoder = replace(self.encoder, weights_name=counts if weights is None else counts or "weights")
        if encoder.weights_name not in source.names:
            encoder = replace(encoder, weights_name=None)
        if (labelled := encoder.labelled(source, news)) is None:
            raise DataError("no row has a target")
        return encoder, labelled


def curve_counts(encoder: Encoder) -> ThresholdCounts:
    """Return what collects the points of curves of each class or label. Raises ConfigError in regression."""
    if encoder.task == "regression":
        raise ConfigError("curves are of classes or labels, and this model predicts numbers")
    return ThresholdCounts(encoder.classes or encoder.target_names)


def described(encoder: Encoder) -> str:
    """Return what a model predicts from what, in a few words."""
    names = encoder.target_names
    target = repr(names[0]) if len(names) == 1 else f"{len(names)} {'labels' if encoder.labels else 'numbers'}"
    classes = f" of {len(encoder.classes)} classes" if encoder.classes else ""
    return f"{encoder.task}{classes}, {target} from {encoder.width:,} inputs"
