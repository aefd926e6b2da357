"""From settings and training rows to a network with its first weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from gpumlp.backend import Backend
from gpumlp.config import Settings
from gpumlp.config.model_settings import NUMBER_SETTINGS
from gpumlp.data import Dataset, EncodedRows, Encoder, Prepared
from gpumlp.errors import ConfigError
from gpumlp.nn import (
    EMBEDDINGS,
    FITTED,
    LOSSES,
    Architecture,
    BinnedEmbedding,
    Clamp,
    Hidden,
    Model,
    ScaledFlags,
    Sequential,
    count_parameters,
    fit_start,
    mlp,
)
from gpumlp.nn.mlp import ALONE, NO_EMBEDDING
from gpumlp.nn.start import draw_rows
from gpumlp.ops.precision import PRECISIONS
from gpumlp.store.formats import Arrays


def network_of(
    settings: Settings,
    data: Prepared,
    backend: Backend,
    weights: Arrays | None = None,
    network: Sequential | None = None,
) -> tuple[Architecture, Sequential]:
    """Return the architecture, and the network with first weights, and all that layers fit to training rows.

    Parameters
    ----------
    settings
        Settings of the run.
    data
        The encoded parts.
    backend
        Where the network is to compute.
    weights
        First weights by name; None: drawn.
    network
        A network that is built already, and keeps its weights; None: that of the settings.

    Raises
    ------
    ConfigError
        If the network does not have these weights.
    """
    encoder, training = data.encoder, settings.training
    architecture = architecture_of(settings, encoder)
    link = LOSSES[settings.loss.name].record(encoder.outputs).link
    model = mlp(architecture, encoder.outputs, link) if network is None else network
    weights = weights if network is None else network.arrays()
    model.build(encoder.width, backend=backend, dtype=PRECISIONS[settings.precision].dtype, seed=training.seed)
    some = cache(data.train.some)  # of packed rows, some blocks that are read
    _set_bins(model, some, architecture.flagged)
    _set_scales(model, architecture, some, encoder.numbers)
    if architecture.initializer == FITTED:
        twin = mlp(architecture, encoder.outputs, link).build(encoder.width, dtype=np.float64, seed=training.seed)
        fit_start(model, twin, _inputs_of_some(some(), encoder.input_scale, training.seed), training.seed)
    if weights is not None:
        _load_start(model, weights)
    _set_bounds(model, data.train)
    return architecture, model


def size_of(settings: Settings, encoder: Encoder) -> int:
    """Return how many numbers one network of these settings trains."""
    return count_parameters(architecture_of(settings, encoder), encoder.width, encoder.outputs)


def _load_start(model: Model, weights: Arrays) -> None:
    """Give a network its first weights. Raises ConfigError if it has other arrays."""
    shapes, loaded = ({name: array.shape for name, array in each.items()} for each in (model.arrays(), weights))
    if shapes != loaded:
        message = f"the network to start from has other arrays ({len(loaded)}; this one has {len(shapes)})"
        raise ConfigError(message, where="model.start_from", hint="use the same layers, and as many members")
    model.load(weights)


def architecture_of(settings: Settings, encoder: Encoder | None = None) -> Architecture:
    """Return the network that the settings describe; without an encoder, one that embeds no numbers."""
    chosen = settings.model
    numbers, count = chosen.numbers, 0 if encoder is None else encoder.numbers
    embedding: dict[str, Any] = {}
    if numbers.embedding != NO_EMBEDDING and count:
        size = numbers.size or EMBEDDINGS[numbers.embedding].default_size
        embedding = {"embedding": numbers.embedding, "numbers": count, "embedding_size": size}
        names = [name for name in ("waves", "frequency", "bins") if numbers.embedding in NUMBER_SETTINGS[name]]
        embedding |= {name: getattr(numbers, name) for name in names}
        if numbers.missing == "vector" and encoder is not None:
            embedding["flagged"] = encoder.flagged
    values, tables = () if encoder is None else encoder.category_values, chosen.categories
    if tables.table_above is not None and max(values, default=0) > tables.table_above:
        embedding |= {"values": values, "table_above": tables.table_above, "table_size": tables.size}
    if tables.scaled and encoder is not None and encoder.width > count and encoder.input_scale == 1.0:
        embedding["scaled_flags"] = True
    hidden = tuple(Hidden(**block.model_dump()) for block in chosen.blocks)
    members = settings.members
    if members.share != ALONE and encoder is not None:
        embedding["columns"] = encoder.columns_of_features
    return Architecture(
        hidden,
        chosen.initializer,
        chosen.parametrization,
        input_factors=chosen.input_factors,
        trained_activation=chosen.trained_activation,
        residual=chosen.residual,
        clamp=chosen.clamp,
        heads=1 if members.share == ALONE else members.number,
        share=members.share,
        **embedding,
    )


def _set_bins(model: Sequential, some: Callable[[], Dataset], flagged: Sequence[int]) -> None:
    """Put the bins of numbers between quantiles of the training rows, where the model has any.

    Of ``flagged`` numbers, those that are missing do not count.
    """
    for layer in model.chain:
        if isinstance(layer, BinnedEmbedding):
            stored, weights = some().features.stored, some().weights
            rows = stored[:, : layer.numbers].astype(np.float64)
            for flag, number in enumerate(flagged):
                rows[stored[:, layer.numbers + flag] != 0, number] = np.nan
            layer.set_bins(rows, None if weights is None else weights.astype(np.float64))


def _set_scales(model: Sequential, architecture: Architecture, some: Callable[[], Dataset], numbers: int) -> None:
    """Scale columns of 0 and 1 by how often they are 1 in training rows, where the model does."""
    for layer in model.chain:
        if isinstance(layer, ScaledFlags):
            features, weights = some().features, some().weights
            counts = np.ones(len(features)) if weights is None else weights.astype(np.float64)
            ones, rows = np.zeros(features.width + 1), float(counts.sum())
            for column in range(numbers + len(architecture.flagged), features.dense):  # missing vectors take 0 and 1
                values = features.stored[:, column]
                if ((values == 0) | (values == 1)).all():  # a flag, not a feature of a date
                    ones[column] = counts @ values
            for codes in features.stored[:, features.dense :].T:
                ones += np.bincount(codes.astype(np.int64), counts, len(ones))
            ends = features.width - sum(architecture.values) + np.cumsum(architecture.values, dtype=np.int64)
            for end, size in zip(ends, architecture.values, strict=True):
                if size > architecture.table_above:  # its table multiplies 0 and 1
                    ones[end - size : end] = 0.0
            columns = np.flatnonzero((ones[:-1] > 0) & (ones[:-1] < rows))
            layer.set_scales(columns, ones[columns], rows)


def _set_bounds(model: Sequential, train: EncodedRows) -> None:
    """Keep predictions between the smallest and the largest training target, where the model has bounds."""
    for layer in model.chain:
        if isinstance(layer, Clamp):
            assert train.targets is not None
            counts = slice(None) if train.weights is None else train.weights > 0
            seen = train.targets[counts]
            layer.set(np.nanmin(seen, axis=0), np.nanmax(seen, axis=0))


def _inputs_of_some(rows: Dataset, scale: float, seed: int) -> np.ndarray[Any, Any]:
    """Return what the network takes of some rows that have a weight, (n, p) float64."""
    counts = np.ones(len(rows), bool) if rows.weights is None else rows.weights > 0
    return rows.features[draw_rows(np.flatnonzero(counts), seed)].expanded().astype(np.float64) * scale
