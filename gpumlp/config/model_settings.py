"""Settings of the network: hidden layers, and how numbers and categories enter."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_serializer, model_validator

from gpumlp.config.section import NameIn, Problem, Section, Text, refuse
from gpumlp.errors import in_words
from gpumlp.nn import INITIALIZERS, MAX_UNITS, NO_NORM, NORMS, PARAMETRIZATIONS, STANDARD
from gpumlp.nn.inputs import EMBEDDINGS, MAX_BINS
from gpumlp.nn.mlp import NO_EMBEDDING
from gpumlp.ops import ACTIVATIONS
from gpumlp.optim import FACTORS

Norm = Annotated[str, NameIn(NORMS, (NO_NORM,))]
Activation = Annotated[str, NameIn(ACTIVATIONS)]
FactorSchedule = Annotated[str, NameIn(FACTORS)]


def block_of_width(setting: object) -> object:
    """Let a bare width stand for a block."""
    return {"units": setting} if isinstance(setting, int) else setting


Units = Annotated[int, Field(ge=1, le=MAX_UNITS)]
Dropout = Annotated[float, Field(ge=0, lt=1)]


class Block(Section):
    """One hidden layer: linear, norm, activation, dropout. Settings left out are those of the model."""

    units: Units = Field(description="number of units")
    activation: Activation | None = Field(default=None, description="activation of this layer; null: the model's")
    dropout: Dropout | None = Field(default=None, description="dropout rate of this layer; null: the model's")
    norm: Norm | None = Field(default=None, description="normalization of this layer; null: the model's")

    @model_serializer
    def _short(self) -> int | dict[str, Any]:
        fields = {key: value for key, value in self if value is not None}
        return self.units if len(fields) == 1 else fields


NUMBER_SETTINGS = {
    "size": tuple(EMBEDDINGS),
    "missing": tuple(EMBEDDINGS),
    "waves": ("pbld", "both"),
    "frequency": ("pbld", "both"),
    "bins": ("ple", "both"),
}
"""The embeddings that a setting belongs to, by its name."""


class Numbers(Section):
    """How columns of numbers enter the network."""

    embedding: Annotated[str, NameIn(EMBEDDINGS, (NO_EMBEDDING,))] = Field(
        default=NO_EMBEDDING,
        description="what each number becomes: none (itself); "
        + "; ".join(f"{name} ({each.meaning})" for name, each in EMBEDDINGS.items()),
    )
    size: int | None = Field(
        default=None,
        ge=1,
        le=MAX_UNITS,
        description="values made of each number, with both of them those by bins; null: "
        + ", ".join(f"{each.default_size} with {name}" for name, each in EMBEDDINGS.items()),
    )
    waves: int = Field(default=16, ge=1, le=MAX_UNITS, description="frequencies of each number (pbld, both)")
    frequency: float = Field(
        default=0.1, gt=0, description="standard deviation of the first frequencies (pbld, both)"
    )
    bins: int = Field(
        default=48,
        ge=1,
        le=MAX_BINS,
        description="maximum number of bins of each number, between quantiles of training rows (ple, both)",
    )

    missing: Literal["flag", "vector"] = Field(
        default="flag",
        description="a value that is missing in a column where training rows have such: flag (the median, and a "
        "column of 0 or 1 beside the numbers) or vector (a trained vector in place of what is made of the number)",
    )

    @model_validator(mode="after")
    def _suit_the_embedding(self) -> Self:
        fields = type(self).model_fields
        changed = [name for name in sorted(self.model_fields_set) if getattr(self, name) != fields[name].default]
        problems = []
        for name in changed:
            users = NUMBER_SETTINGS.get(name, (self.embedding,))
            if self.embedding not in users:
                message = f"{name} is a setting of {in_words(users)}, and the embedding is {self.embedding}"
                problems.append(Problem((name,), message, f"remove it, or set embedding: {users[0]}"))
        refuse("Numbers", problems)
        return self


def numbers_by(setting: object) -> object:
    """Return a name of an embedding as the section that it is short for."""
    return {"embedding": setting} if isinstance(setting, str) else setting


class Categories(Section):
    """How columns of categories enter the network."""

    table_above: int | None = Field(
        default=None,
        ge=1,
        le=MAX_UNITS,
        description="categories of more values than this have a trained vector for each value, in place of a column "
        "of 0 or 1 (recipes say 8); null: columns for all",
    )
    size: int = Field(default=8, ge=1, le=MAX_UNITS, description="length of these vectors")
    scaled: bool = Field(
        default=False,
        description="scale columns of 0 and 1 as data.scaling robust does numbers, so that rare values weigh more; "
        "not those of values with vectors",
    )


class Model(Section):
    """The network: hidden layers, then an output layer whose width follows from the data."""

    hidden: Annotated[
        tuple[Annotated[Block, BeforeValidator(block_of_width, json_schema_input_type=Units | Block)], ...],
        Field(strict=False),
    ] = Field(
        default=(Block(units=64), Block(units=64)),
        description="hidden layers, first to last: a number of units, or a mapping of settings",
    )
    activation: Activation = Field(default="relu", description="activation of every hidden layer")
    dropout: Dropout = Field(default=0.0, description="dropout rate of the hidden layers")
    dropout_schedule: FactorSchedule = Field(
        default="constant", description="schedule that multiplies the dropout rates, step by step"
    )
    norm: Norm = Field(default=NO_NORM, description="normalization before each activation: layer or batch norm")
    initializer: Annotated[str, NameIn(INITIALIZERS, ("auto",))] = Field(
        default="auto",
        description="initializer of the weights; auto: chosen by the activation; data: fitted to training rows "
        "(each unit varies by 1 on them, and its bias puts 0 among them)",
    )
    parametrization: Annotated[str, NameIn(PARAMETRIZATIONS)] = Field(
        default=STANDARD,
        description="factors of the learning rate in each linear layer: "
        + "; ".join(f"{name} ({each.meaning})" for name, each in PARAMETRIZATIONS.items()),
    )
    input_factors: bool = Field(
        default=False,
        description="multiply each input by a trained factor, at 6 times the learning rate and the decay of weights",
    )
    trained_activation: bool = Field(
        default=False,
        description="mix each activation with the identity, z + a (f(z) - z), by a trained share a for each unit",
    )
    residual: bool = Field(
        default=False,
        description="add the input of a hidden layer to its output, where it is as wide as the one before",
    )
    clamp: bool = Field(
        default=False,
        description="in regression, keep predictions between the smallest and the largest training target",
    )
    numbers: Annotated[Numbers, BeforeValidator(numbers_by, json_schema_input_type=str | Numbers)] = Field(
        default=Numbers(), description="embedding of columns of numbers, by name or as a mapping of settings"
    )
    categories: Categories = Field(default=Categories(), description="how columns of categories enter the network")
    start_from: Text | None = Field(
        default=None,
        description="folder of a run with the same layers and columns: training starts from its best weights, with "
        "its encoding of the data (scaling, categories, classes), and with a new schedule; relative to the "
        "configuration file (as --set: to the working folder); null: new weights",
    )

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The hidden layers with every setting filled in."""
        shared = {"activation": self.activation, "dropout": self.dropout, "norm": self.norm}
        return tuple(
            block.model_copy(update={k: v for k, v in shared.items() if getattr(block, k) is None})
            for block in self.hidden
        )
