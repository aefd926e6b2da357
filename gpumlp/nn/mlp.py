"""The multilayer perceptron as a description: what a configuration asks for and a model file remembers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from gpumlp.errors import ConfigError
from gpumlp.nn.initializers import default_initializer
from gpumlp.nn.inputs import (
    EMBEDDINGS,
    BinnedEmbedding,
    CategoryTables,
    Embedding,
    MissingVectors,
    PeriodicEmbedding,
    ScaledFlags,
    WavesAndBins,
)
from gpumlp.nn.layer import Layer, count_trained
from gpumlp.nn.layers import NORMS, STANDARD, Activation, Clamp, Dense, Dropout, InputFactors, Mix, Residual
from gpumlp.nn.members import SHARES, MemberHeads, MemberScale, by_column, ones, random_normals, random_signs
from gpumlp.nn.model import Sequential

MAX_UNITS = 2**31 - 1
"""The widest layer: none that could be meant is wider, and a damaged file must not ask for all memory."""

NO_NORM = ALONE = NO_EMBEDDING = "none"
MAX_MEMBERS = 1024
"""Most members of a network, or networks of an ensemble: a damaged file must not ask for more."""


@dataclass(frozen=True)
class Hidden:
    """A hidden layer: ``units`` values through ``activation``, normalised before and dropped after it if asked.

    ``norm`` is a name of ``NORMS``, or ``none``.
    """

    units: int
    activation: str = "relu"
    dropout: float = 0.0
    norm: str = NO_NORM


@dataclass(frozen=True)
class Architecture:
    """A whole network: its hidden layers, and what all of its layers have in common.

    Parameters
    ----------
    hidden
        The hidden layers, first to last.
    initializer
        A key of ``INITIALIZERS``, or ``auto`` for the one that suits the activation.
    parametrization
        A key of ``PARAMETRIZATIONS``: by what the learning rate of weights and biases is multiplied.
    input_factors
        Whether each input is multiplied by a trained factor.
    residual
        Whether a hidden layer adds its input to its output, where the two are equally wide.
    trained_activation
        Whether activations are mixed with the identity, by a trained share for each unit.
    clamp
        Whether predictions are kept within bounds: two arrays, which training sets.
    heads
        Number of members that share layers, each with a last layer of its own.
    share
        What these share, a key of ``SHARES``; ``none`` where there is one.
    embedding
        What numbers are embedded by, a key of ``EMBEDDINGS``, or ``none``.
    numbers, embedding_size
        Number of columns that are embedded, and of values made of each.
    waves, bins
        Waves, or bins, of each number; 0 where the embedding has none.
    frequency
        Standard deviation of the first frequencies of waves.
    flagged
        Numbers, counted from 0, whose missing values have a trained vector: their flags follow the numbers.
    values
        Number of 0/1 columns of each category, the last columns of the input, where some have tables.
    table_above, table_size
        Values from which on a category has a table (more than this), and the length of its vectors.
    scaled_flags
        Whether columns of 0 and 1 are scaled by how often they are 1: by arrays, which training sets.
    columns
        The column of the table that each input is of: members start with one factor for all of a column. (): each
        input is a column.
    """

    hidden: tuple[Hidden, ...]
    initializer: str = "auto"
    parametrization: str = STANDARD
    input_factors: bool = False
    trained_activation: bool = False
    residual: bool = False
    clamp: bool = False
    heads: int = 1
    share: str = ALONE
    embedding: str = NO_EMBEDDING
    numbers: int = 0
    embedding_size: int = 0
    waves: int = 0
    bins: int = 0
    frequency: float = 0.1
    flagged: tuple[int, ...] = ()
    values: tuple[int, ...] = ()
    table_above: int = 0
    table_size: int = 0
    scaled_flags: bool = False
    columns: tuple[int, ...] = ()

    def to_state(self) -> dict[str, Any]:
        """Return what a model file keeps, for :meth:`from_state`: what predictions depend on and is not a default."""
        switches = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name not in ("hidden", *_OF_TRAINING) and getattr(self, field.name) != field.default
        }
        return {"hidden": [asdict(each) for each in self.hidden], **switches}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """Return the architecture that ``to_state`` described; other keys are ignored.

        Raises
        ------
        KeyError, TypeError, ValueError
            If it is damaged.
        """
        hidden = tuple(Hidden(**each) for each in state["hidden"])
        for each in hidden:
            if type(each.units) is not int or not 0 < each.units <= MAX_UNITS:
                raise ValueError(f"a layer of width {each.units!r}")
        switches = {field.name: state[field.name] for field in fields(cls) if field.name in state}
        del switches["hidden"]
        for name in ("flagged", "values"):
            if isinstance(switches.get(name), list):  # JSON has no tuples
                switches[name] = tuple(switches[name])
        for name, value in switches.items():
            if type(value) is not type(getattr(cls, name)):
                raise ValueError(f"{name} is {value!r}")
        architecture = cls(hidden, **switches)
        if (
            architecture.share not in SHARES
            or not 1 <= architecture.heads <= MAX_MEMBERS
            or (architecture.share == ALONE and architecture.heads > 1)
        ):
            raise ValueError(f"{architecture.heads} members that share {architecture.share!r}")
        sizes = architecture.numbers, architecture.embedding_size, architecture.waves + architecture.bins
        if architecture.embedding != NO_EMBEDDING and not (
            architecture.embedding in EMBEDDINGS and all(0 < size <= MAX_UNITS for size in sizes)
        ):
            raise ValueError(f"the embedding {architecture.embedding!r} of {sizes}")
        if not all(type(each) is int and 0 <= each < architecture.numbers for each in architecture.flagged):
            raise ValueError(f"missing values of the numbers {architecture.flagged}")
        counts = (
            (*architecture.values, architecture.table_above, architecture.table_size) if architecture.values else ()
        )
        if not all(type(count) is int and 0 < count <= MAX_UNITS for count in counts):
            raise ValueError(f"tables of {counts} values")
        return architecture

    @property
    def is_plain(self) -> bool:
        """Whether its predictions depend on nothing but its hidden layers."""
        return self.to_state().keys() == {"hidden"}


_OF_TRAINING = ("initializer", "parametrization", "frequency", "columns")
"""Fields that say how weights start and move, and not what they mean."""


def count_parameters(architecture: Architecture | Sequence[Hidden], inputs: int, outputs: int) -> int:
    """Return how many numbers are trained in the network that :func:`mlp` returns, without making any of them."""
    return count_trained(mlp(architecture, outputs, "identity").declare(inputs).values())


def mlp(architecture: Architecture | Sequence[Hidden], outputs: int, link: str) -> Sequential:
    """Return the network of an architecture, or of these hidden layers, with ``outputs`` outputs; not built yet.

    Parameters
    ----------
    architecture
        The layers of inputs and the hidden ones, or the hidden ones alone.
    outputs
        Values of a row of the last layer.
    link
        The output activation.

    Raises
    ------
    ConfigError
        If predictions are to be clamped that are not numbers.
    """
    whole = architecture if isinstance(architecture, Architecture) else Architecture(tuple(architecture))
    layers: list[Layer] = []
    if whole.scaled_flags:
        layers.append(ScaledFlags())
    if whole.embedding != NO_EMBEDDING:
        embedding = _embedding(whole)
        layers.append(embedding)  # first: what it reads is data, and needs no gradient
        if whole.flagged:
            factors = {"rate": embedding.rate, "decay": embedding.decay}
            layers.append(MissingVectors(embedding.numbers, embedding.outputs, whole.flagged, **factors))

    def linear(units: int, activation: str, initializer: str, **more: bool) -> list[Layer]:
        if whole.share != "weights":
            return [Dense(units, activation, initializer=initializer, parametrization=whole.parametrization, **more)]
        first = not any(isinstance(layer, MemberScale) for layer in layers)
        suited = default_initializer(activation) if initializer == "auto" else initializer
        return [
            MemberScale(whole.heads, first=first, initial=start if first else ones),  # only inputs tell them apart
            Dense(units, initializer=suited, bias=False, parametrization=whole.parametrization),
            MemberScale(whole.heads, bias=more.get("bias", True), first=False, initial=ones),
            *([] if activation == "identity" else [Activation(activation)]),
        ]

    if whole.share != ALONE and not whole.hidden:
        raise ConfigError("without hidden layers there is nothing to share")
    if whole.values:
        layers.append(CategoryTables(whole.values, whole.table_above, whole.table_size))
    if whole.input_factors:
        layers.append(InputFactors())
    draw = random_signs if whole.embedding == NO_EMBEDDING else random_normals
    start = by_column(draw, tuple(layers), whole.columns)
    if whole.share == "hidden":
        layers.append(MemberScale(whole.heads, initial=start))
    width = None
    for h in whole.hidden:
        start_of_block = len(layers)
        if h.norm == NO_NORM and not whole.trained_activation:
            layers += linear(h.units, h.activation, whole.initializer)
        else:
            # The signal still goes through h.activation, so that is what the first weights must suit.
            suited = default_initializer(h.activation) if whole.initializer == "auto" else whole.initializer
            norms = [] if h.norm == NO_NORM else [NORMS[h.norm]()]
            # Of a bias that is taken away again the gradient would be rounding alone, which Adam turns into steps.
            bias = not any(norm.cancels_bias for norm in norms)
            activation = Mix(h.activation) if whole.trained_activation else Activation(h.activation)
            layers += [*linear(h.units, "identity", suited, bias=bias), *norms, activation]
        if h.dropout:
            layers.append(Dropout(h.dropout))
        if whole.residual and h.units == width:
            layers.append(Residual(len(layers) - start_of_block))
        width = h.units
    # In the form of a tangent kernel one logit is what the two of two classes would come to.
    of_two = link == "sigmoid" and whole.parametrization != STANDARD
    if whole.share == ALONE:
        layers += linear(outputs, link, whole.initializer, of_two=of_two)
    else:
        form: dict[str, Any] = {
            "initializer": whole.initializer,
            "parametrization": whole.parametrization,
            "of_two": of_two,
        }
        layers.append(MemberHeads(whole.heads, outputs, link, **form))
    if whole.clamp:
        if link != "identity":
            raise ConfigError(f"predictions through {link} are not clamped")
        layers.append(Clamp())
    return Sequential(layers)


def _embedding(whole: Architecture) -> Embedding:
    """Return the layer that embeds numbers. In the form of a tangent kernel it learns at a tenth of the rate."""
    factor = 1.0 if whole.parametrization == STANDARD else 0.1
    count, size = whole.numbers, whole.embedding_size
    if whole.embedding == "ple":
        return BinnedEmbedding(count, size, bins=whole.bins, rate=factor, decay=factor)
    more = {"rate": factor, "decay": factor, "frequency": whole.frequency}
    if whole.embedding == "both":
        return WavesAndBins(count, size, bins=whole.bins, waves=whole.waves, **more)
    return PeriodicEmbedding(count, size, waves=whole.waves, **more)
