"""Layers over the columns of a table: embeddings of its numbers, and tables of vectors for its categories.

They come first in a network, and know which columns are which: numbers are the first ones, and categories, with a
column of 0 or 1 for each value, the last ones. They pass on as it is what is neither.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from gpumlp.autodiff import Tensor, concat, pbld, ple
from gpumlp.autodiff.fused import product
from gpumlp.autodiff.tensor import as_dtype
from gpumlp.errors import ShapeError
from gpumlp.nn.layer import Declared, Equation, Indices, Layer, Values
from gpumlp.ops.hyper import whole
from gpumlp.ops.inputs import UNREACHED


class Embedding(Layer):
    """Base of embeddings: each of the first ``numbers`` columns becomes ``outputs`` values, the rest stays.

    Parameters
    ----------
    numbers
        Number of columns that are numbers, f.
    size
        Number of values that are made of each, d.
    rate, decay
        Factors of the learning rate and of the weight decay of everything that is trained here.
    """

    takes = "compute"  # neighbouring bins and waves differ in digits that bfloat16 does not have
    meaning: ClassVar[str]
    default_size: ClassVar[int]

    def __init__(self, numbers: int, size: int | None = None, *, rate: float = 1.0, decay: float = 1.0) -> None:
        super().__init__()
        self.numbers = whole("the number of columns", numbers)
        self.size = self.default_size if size is None else whole("the size of an embedding", size)
        self.rate, self.decay = rate, decay

    @property
    def outputs(self) -> int:
        """How many values each number becomes."""
        return self.size

    def embed(self, x: Tensor) -> Tensor:
        """Return the values of the numbers, (N, f outputs)."""
        raise NotImplementedError

    def width(self, inputs: int) -> int:
        return inputs + self.numbers * (self.outputs - 1)

    def columns(self, columns: Indices) -> Indices:
        return np.concatenate([columns[: self.numbers].repeat(self.outputs), columns[self.numbers :]])

    def declare(self, inputs: int) -> Mapping[str, Declared]:
        if inputs < self.numbers:
            raise ShapeError(f"{self.numbers} numbers are embedded, and a row has {inputs}")
        return self.arrays()

    def arrays(self) -> dict[str, Declared]:
        """Return the arrays of the layer by name."""
        raise NotImplementedError

    def forward(self, x: Tensor, *, training: bool = False) -> Tensor:
        embedded = self.embed(x)
        return embedded if self.inputs == self.numbers else concat([embedded, x[:, self.numbers :]])

    def _trained(self, shape: tuple[int, ...], draw: Any) -> Declared:
        return Declared(shape, "weight", lambda rng: draw(rng, shape), rate=self.rate, decay=self.decay)

    def _written(self, suffix: str, formula: str, slope: str, gradients: Mapping[str, str]) -> Equation:
        e = f"e_{suffix}" if suffix else "e"
        arrays = {name: (f"{name}_i", text.replace("∇e", f"∇{e}_i")) for name, text in gradients.items()}
        return Equation(e, f"{formula}, i a number; and the rest", slope.replace("∇e", f"∇{e}_i"), arrays)

    @property
    def detail(self) -> str:
        return f"{self.numbers} numbers, {self.outputs} values each"


class PeriodicEmbedding(Embedding):
    """(V cos(2π w x + b) + c, x) of each number x, with its own w, b, V and c: PBLD (Holzmüller et al. 2024).

    Parameters
    ----------
    waves
        Number of frequencies of each column, K.
    frequency
        Standard deviation of the first frequencies.
    """

    meaning = "waves of trained frequencies, mixed to a few values beside the number itself: PBLD"
    default_size = 3

    def __init__(
        self, numbers: int, size: int | None = None, *, waves: int = 16, frequency: float = 0.1, **factors: float
    ) -> None:
        super().__init__(numbers, size, **factors)
        self.waves, self.frequency = whole("the number of waves", waves), frequency

    @property
    def outputs(self) -> int:
        return self.size + 1

    def arrays(self) -> dict[str, Declared]:
        f, K, d, bound = self.numbers, self.waves, self.size, self.waves**-0.5
        return {
            "w": self._trained((f, K), lambda rng, shape: self.frequency * rng.standard_normal(shape)),
            "b": self._trained((f, K), lambda rng, shape: rng.uniform(-math.pi, math.pi, shape)),
            "V": self._trained((f, d, K), lambda rng, shape: rng.uniform(-bound, bound, shape)),
            "c": self._trained((f, d), lambda rng, shape: rng.uniform(-bound, bound, shape)),
        }

    def embed(self, x: Tensor) -> Tensor:
        return pbld(x, *(self.weights[name] for name in ("w", "b", "V", "c")))

    def equation(self, value: str, place: str) -> Equation:
        gradients = gradients_of_waves("V", "c")
        slope = f"Σ 2π w_i ⊙ {gradients['b']}, and that of x_i itself"
        return self._written(place, f"(V_i {WAVE} + c_i, x_i)", slope, gradients)


WAVE = "cos(2π w_i x_i + b_i)"
"""How the waves of a number are written."""


def gradients_of_waves(V: str, c: str) -> dict[str, str]:
    """Return how gradients of waves are written, by the names of the arrays."""
    inner = f"({V}_iᵀ ∇e ⊙ -sin(2π w_i x_i + b_i))"
    return {"w": f"2π {inner} x_i", "b": inner, V: f"∇e {WAVE}ᵀ", c: "∇e"}


class BinnedEmbedding(Embedding):
    """a x + c + Σ_t v_t V_t of each number x, v_t the share of bin t below x: PLE (Gorishniy et al. 2022).

    The bins are what :meth:`set_bins` makes of training rows: until then there are none, and the embedding is linear.

    Parameters
    ----------
    bins
        Most bins of a column, T.
    """

    meaning = "a line with a bend at quantiles of the training rows, in each of several values: PLE"
    default_size = 16

    def __init__(self, numbers: int, size: int | None = None, *, bins: int = 48, **factors: float) -> None:
        super().__init__(numbers, size, **factors)
        self.bins = whole("the number of bins", bins)

    def arrays(self) -> dict[str, Declared]:
        f, T, d, bound = self.numbers, self.bins, self.size, self.size**-0.5
        return {
            "a": self._trained((f, d), lambda rng, shape: rng.uniform(-bound, bound, shape)),
            "c": self._trained((f, d), lambda rng, shape: rng.uniform(-bound, bound, shape)),
            "V": self._trained((f, T, d), lambda rng, shape: np.zeros(shape)),
            "edges": Declared((f, T), "state", lambda rng: np.full((f, T), UNREACHED)),
            "scales": Declared((f, T), "state", lambda rng: np.zeros((f, T))),
        }

    def set_bins(self, x: Values, weights: Values | None = None) -> None:
        """Put the bins of a built layer between quantiles of each number.

        Parameters
        ----------
        x : (n, f or more)
            Training rows, as the layer takes them; NaN where a number does not count.
        weights : (n,)
            Weights of the rows; None: all count the same.
        """
        assert self.context is not None
        edges_of_columns = []
        for column in x.T[: self.numbers].astype(np.float64):
            there = ~np.isnan(column)
            edges_of_columns.append(edges_of(column[there], self.bins, None if weights is None else weights[there]))
        for name, filler in (("edges", UNREACHED), ("scales", 0.0)):
            array = self.state[name]
            values = np.full(array.shape, filler, array.dtype)
            for row, edges in zip(values, edges_of_columns, strict=True):
                row[: len(edges) - 1] = edges[:-1] if name == "edges" else 1.0 / np.diff(edges)
            self.context.backend.write(array, values)

    def embed(self, x: Tensor) -> Tensor:
        weights = (self.weights[name] for name in ("a", "c", "V"))
        return ple(x, self.state["edges"], self.state["scales"], *weights)

    def equation(self, value: str, place: str) -> Equation:
        formula = "a_i x_i + c_i + Σ_t v_t(x_i) V_it"
        slope = "∇e (a_i + V_it / width of bin t), t the bin of x_i"
        return self._written(place, formula, slope, GRADIENTS_OF_BINS)


GRADIENTS_OF_BINS = {"a": "∇e x_i", "c": "∇e", "V": "v_t ∇e, t a bin of x_i"}
"""How gradients of bins are written, by the names of the arrays."""


class MissingVectors(Layer):
    """A trained vector in place of what an embedding makes of a number that is missing: zeros at the start.

    It takes the flags behind the embedded numbers, 0 or 1, which say where one is missing, and passes on the rest.

    Parameters
    ----------
    numbers, outputs
        Number of columns that are embedded, f, and of values made of each.
    flagged
        Which of them have a flag, in the order of the flags.
    rate, decay
        Factors of the learning rate and of the weight decay of the vectors.
    """

    takes = "either"

    def __init__(
        self, numbers: int, outputs: int, flagged: Sequence[int], *, rate: float = 1.0, decay: float = 1.0
    ) -> None:
        super().__init__()
        self.numbers, self.outputs, self.flagged = numbers, outputs, tuple(flagged)
        self.rate, self.decay = rate, decay

    def width(self, inputs: int) -> int:
        return inputs - len(self.flagged)

    def columns(self, columns: Indices) -> Indices:
        size = self.numbers * self.outputs
        return np.delete(columns, slice(size, size + len(self.flagged)))

    def declare(self, inputs: int) -> Mapping[str, Declared]:
        size = self.numbers * self.outputs
        if inputs < size + len(self.flagged):
            raise ShapeError(f"{size} values and {len(self.flagged)} flags come first, and a row has {inputs}")
        selection = np.zeros((len(self.flagged), size))
        for flag, number in enumerate(self.flagged):
            selection[flag, number * self.outputs : (number + 1) * self.outputs] = 1.0
        return {
            "m": Declared((size,), "weight", lambda rng: np.zeros(size), rate=self.rate, decay=self.decay),
            "places": Declared(selection.shape, "state", lambda rng: selection),
        }

    def forward(self, x: Tensor, *, training: bool = False) -> Tensor:
        size, end = self.numbers * self.outputs, self.numbers * self.outputs + len(self.flagged)
        missing = product(x[:, size:end], Tensor(self.state["places"], x.backend))  # exactly 0 or 1
        filled = x[:, :size] * (1.0 - missing) + missing * self.weights["m"]
        return filled if self.inputs == end else concat([filled, x[:, end:]])

    def equation(self, value: str, place: str) -> Equation:
        f = f"f_{place}" if place else "f"
        return Equation(
            f,
            f"m_i where number i is missing, else {value}_i; and the rest",
            f"∇{f}_i where number i is there, else 0",
            {"m": ("m_i", f"∇{f}_i where number i is missing")},
        )

    @property
    def detail(self) -> str:
        return f"{len(self.flagged)} numbers"


class ScaledFlags(Layer):
    """(x - centre) ⊙ scale of each row: columns of 0 and 1 scaled by how often they are 1, the others as they are.

    What :meth:`set_scales` makes of training rows holds from then on; until then nothing is scaled.
    """

    takes = "either"

    def declare(self, inputs: int) -> Mapping[str, Declared]:
        return {
            "centre": Declared((inputs,), "state", lambda rng: np.zeros(inputs)),
            "scale": Declared((inputs,), "state", lambda rng: np.ones(inputs)),
        }

    def set_scales(self, columns: Any, ones: Values, rows: float) -> None:
        """Scale columns of a built layer as :func:`scaled_flags` does.

        Parameters
        ----------
        columns : (n,) int64
            Numbers of the columns.
        ones : (n,) float64
            In how many of the rows each of them is 1.
        rows
            Number of rows.
        """
        assert self.context is not None
        zero, one = scaled_flags(ones, rows)
        for name, values in (("centre", -zero / (one - zero)), ("scale", one - zero)):
            array = self.context.backend.to_host(self.state[name]).copy()
            array[columns] = values
            self.context.backend.write(self.state[name], array)

    def forward(self, x: Tensor, *, training: bool = False) -> Tensor:
        centre, scale = (Tensor(self.state[name], x.backend) for name in ("centre", "scale"))
        return as_dtype((as_dtype(x, centre.dtype) - centre) * scale, x.dtype)

    def equation(self, value: str, place: str) -> Equation:
        symbol = f"x'_{place}" if place else "x'"
        return Equation(symbol, f"({value} - centre) ⊙ scale", f"∇{symbol} ⊙ scale")


def scaled_flags(ones: Values, rows: float) -> tuple[Values, Values]:
    """Return what 0 and 1 become in columns of these two: robust scaling, then the smooth clip to ±3.

    As for numbers the median becomes 0 and the distance of the quartiles 1, or where they are equal half the range:
    a value of fewer than a quarter of the rows is 1.66 from the other one, any other 0.95.

    Parameters
    ----------
    ones : (n,)
        In how many of the rows each column is 1: not in all of them, nor in none.
    rows
        Number of rows, all columns the same.
    """
    low, median, high = (np.clip((rows - 1.0) * q - (rows - ones - 1.0), 0.0, 1.0) for q in (0.25, 0.5, 0.75))
    spread = np.where(high > low, high - low, 0.5)
    zero, one = ((value - median) / spread for value in (0.0, 1.0))
    return zero / np.sqrt(1.0 + (zero / 3.0) ** 2), one / np.sqrt(1.0 + (one / 3.0) ** 2)


class WavesAndBins(BinnedEmbedding):
    """What bins and what waves make of each number, side by side: steps as trees have them, and smooth curves.

    Parameters
    ----------
    size
        Number of values by bins, beside those by waves, which are as many as alone.
    waves, frequency
        As of :class:`PeriodicEmbedding`.
    """

    meaning = "pbld and ple side by side"
    default_size = 6
    by_waves = PeriodicEmbedding.default_size

    def __init__(
        self, numbers: int, size: int | None = None, *, waves: int = 16, frequency: float = 0.1, **more: Any
    ) -> None:
        super().__init__(numbers, size, **more)
        self.waves, self.frequency = whole("the number of waves", waves), frequency

    @property
    def outputs(self) -> int:
        return self.size + self.by_waves + 1

    def arrays(self) -> dict[str, Declared]:
        periodic = PeriodicEmbedding(
            self.numbers, self.by_waves, waves=self.waves, frequency=self.frequency, rate=self.rate, decay=self.decay
        ).arrays()
        return super().arrays() | {OF_WAVES[name]: array for name, array in periodic.items()}

    def embed(self, x: Tensor) -> Tensor:
        by_waves = pbld(x, *(self.weights[name] for name in OF_WAVES.values()))
        each = [values.reshape(len(values), self.numbers, -1) for values in (super().embed(x), by_waves)]
        return concat(each).reshape(len(x), self.numbers * self.outputs)

    def equation(self, value: str, place: str) -> Equation:
        gradients = gradients_of_waves(OF_WAVES["V"], OF_WAVES["c"]) | GRADIENTS_OF_BINS
        return self._written(place, "(PLE of x_i, PBLD of x_i)", "the sum of those of ple and pbld", gradients)


OF_WAVES = {"w": "w", "b": "b", "V": "U", "c": "d"}
"""Arrays of waves, and what they are called beside those of bins."""

EMBEDDINGS: dict[str, type[Embedding]] = {"pbld": PeriodicEmbedding, "ple": BinnedEmbedding, "both": WavesAndBins}
"""Embeddings of numbers, by the names that settings and model files use."""


class CategoryTables(Layer):
    """A trained vector in place of the 0/1 columns of a category, for each category of many values.

    A value that is new has 0 in all columns, and so a vector of zeros.

    Parameters
    ----------
    values
        How many columns each category has: the last ones of a row, in this order.
    above
        Values from which on a category has a table: more than this.
    size
        Length of a vector.
    """

    def __init__(self, values: Sequence[int], above: int, size: int = 8) -> None:
        super().__init__()
        self.values = tuple(whole("the number of values", each) for each in values)
        self.above, self.size = whole("values without a table", above), whole("the size of a vector", size)
        self.tables = [number for number, each in enumerate(self.values, 1) if each > above]

    def width(self, inputs: int) -> int:
        return inputs + sum(self.size - self.values[number - 1] for number in self.tables)

    def columns(self, columns: Indices) -> Indices:
        ends = np.cumsum([len(columns) - sum(self.values), *self.values])
        numbers, *categories = np.split(columns, ends[:-1])
        tables = (each[:1].repeat(self.size) if len(each) > self.above else each for each in categories)
        return np.concatenate([numbers, *tables])

    def declare(self, inputs: int) -> Mapping[str, Declared]:
        if inputs < sum(self.values):
            raise ShapeError(f"categories have {sum(self.values)} columns, and a row has {inputs}")
        shapes = {f"table_{number}": (self.values[number - 1], self.size) for number in self.tables}

        def initial(shape: tuple[int, int]) -> Callable[[np.random.Generator], Values]:
            return lambda rng: rng.standard_normal(shape)

        return {name: Declared(shape, "weight", initial(shape)) for name, shape in shapes.items()}

    def forward(self, x: Tensor, *, training: bool = False) -> Tensor:
        parts, start_of_numbers, end = [], 0, self.inputs - sum(self.values)
        for number, count in enumerate(self.values, 1):
            start, end = end, end + count
            if number in self.tables:
                parts += [x[:, start_of_numbers:start]] if start > start_of_numbers else []
                parts.append(product(x[:, start:end], self.weights[f"table_{number}"]))
                start_of_numbers = end
        parts += [x[:, start_of_numbers:]] if start_of_numbers < self.inputs else []
        return concat(parts) if len(parts) > 1 else parts[0]

    def equation(self, value: str, place: str) -> Equation:
        t = f"t_{place}" if place else "t"
        tables = {f"table_{number}": (f"T_{number}", f"{value}_{number}ᵀ ∇{t}_{number}") for number in self.tables}
        return Equation(t, f"{value}_i T_i, i a category with a table; and the rest", f"∇{t}_i T_iᵀ", tables)

    @property
    def detail(self) -> str:
        return f"{len(self.tables)} tables"


MAX_BINS = 1024
"""Most bins of a number: more would hold a row or two each."""

MIN_BIN_SHARE = 1e-6
"""Width of a bin, as a share of the range of the number, below which it is none: a new value would be far outside."""

MIN_BIN_WIDTH = float(np.finfo(np.float32).tiny)
"""Width of a bin below which it is none: float32 would not hold one over it."""

MIN_WEIGHT_SHARE = 1e-12
"""Share of all weights below which a row is left out: their sum does not hold it, and bins would be too many."""


def edges_of(values: Values, bins: int, weights: Values | None = None) -> Values:
    """Return the edges of the bins of a number, rising: quantiles of it, none where it is constant.

    A value that as many rows have as a bin would get is an edge, and the quantiles are of the others: of a number
    that is 0 in nine of ten rows, nearly all bins are between what it is in the tenth.

    Parameters
    ----------
    values
        (n,).
    bins
        How many there are at the most.
    weights : (n,)
        Weights of the values; None: all count the same. One of weight 3 counts as three.
    """
    order = np.argsort(values, kind="stable")
    counts = np.ones(len(values)) if weights is None else np.asarray(weights, np.float64)[order]
    counted = counts > MIN_WEIGHT_SHARE * counts.sum()
    rising, counts = values[order][counted], counts[counted]
    if not len(rising):
        return np.zeros(1)
    different, starts = np.unique(rising, return_index=True)
    rows = np.add.reduceat(counts, starts)
    frequent = np.zeros(len(different), bool)
    left = bins
    while left > 0 and (more := ~frequent & (rows * left >= rows[~frequent].sum())).any():
        frequent |= more
        left = bins - int(frequent.sum())
    others, ends = different[~frequent], np.cumsum(rows[~frequent])
    edges = different[frequent]
    if len(others):
        ranks = np.searchsorted(ends, np.linspace(0.0, 1.0, max(left, 1) + 1) * ends[-1])
        edges = np.union1d(edges, others[np.minimum(ranks, len(others) - 1)])
    edges = np.union1d(edges, different[[0, -1]])
    least = max(MIN_BIN_SHARE * (edges[-1] - edges[0]), MIN_BIN_WIDTH)
    distinct = [edges[0]]
    for edge in edges[1:]:
        if edge - distinct[-1] > least:
            distinct.append(edge)
    return np.array(distinct)
