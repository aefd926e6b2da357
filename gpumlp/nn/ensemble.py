"""Several networks that predict as one: by the mean of their probabilities, or of their numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np

from gpumlp.autodiff import Tensor, stack
from gpumlp.autodiff.tensor import REFERENCE, as_dtype, wrap
from gpumlp.backend import Backend
from gpumlp.errors import ConfigError
from gpumlp.limits import in_threads
from gpumlp.nn.layer import Declared, Layer
from gpumlp.nn.members import mean_of_members
from gpumlp.nn.mlp import Architecture, mlp
from gpumlp.nn.model import Model, Sequential
from gpumlp.ops.record import Array
from gpumlp.seeds import member_seed


class Ensemble(Model):
    """Networks of one shape, which predict by the mean of their probabilities, or of their numbers.

        Ensemble([one, other])(x)

    Parameters
    ----------
    members
        Networks on the same rows, of equal widths and output activation: all built, or to be built together.
    """

    def __init__(self, members: Sequence[Sequential]) -> None:
        if not members:
            raise ConfigError("an ensemble needs at least one network")
        self.members = tuple(members)
        self.link = members[0].link
        if self.is_built:
            self._take_shape()

    def build(self, *widths: int, backend: Backend = REFERENCE, dtype: Any = np.float32, seed: int = 0) -> Self:
        for number, member in enumerate(self.members):
            member.build(*widths, backend=backend, dtype=dtype, seed=member_seed(seed, number))
        self._take_shape()
        return self

    def _take_shape(self) -> None:
        first = self.members[0]
        self.context, self.input_dtype = first.context, first.input_dtype
        self.widths, self.units = first.widths, first.units

    @property
    def is_built(self) -> bool:
        return all(member.is_built for member in self.members)

    @property
    def networks(self) -> tuple[Sequential, ...]:
        return self.members

    def forward(self, *inputs: Tensor, training: bool = False) -> Tensor:
        """Return the linear values (N, K) whose predictions are the mean of the members'."""
        backend, wide = self.context.backend, self.context.wide

        def output(member: Sequential) -> Tensor:
            member_backend = member.context.backend  # another one of the same kind where members run side by side
            on_backend = inputs if member_backend is backend else [wrap(x.array, member_backend) for x in inputs]
            linear = as_dtype(member.forward(*on_backend, training=training), wide)
            return linear if member_backend is backend else wrap(linear.array, backend)

        apart = len({id(member.context.backend) for member in self.members}) > 1
        outputs = in_threads(output, self.members) if apart else [output(member) for member in self.members]
        return mean_of_members(self.link, stack(outputs, axis=1))

    @property
    def size(self) -> int:
        return int(np.sum([member.size for member in self.members]))

    def layers(self) -> dict[str, Layer]:
        return self._of_each(lambda member: member.layers())

    def declare(self, inputs: int) -> dict[str, Declared]:
        """Return all arrays of all members for rows of ``inputs`` values, by name."""
        return self._of_each(lambda member: member.declare(inputs))

    def arrays(self, buffer: Array | None = None) -> dict[str, np.ndarray[Any, Any]]:
        """Return host copies of the parameters and the state of all members, by name."""
        return self._of_each(lambda member: member.arrays())

    def load(self, arrays: dict[str, Any]) -> None:
        """Overwrite parameters and state of all members by name; names and shapes must agree."""
        for number, member in enumerate(self.members):
            member.load(of_member(arrays, number))

    def summary(self) -> str:
        """Return the layers of one member, and how many members there are, as text."""
        if (count := len(self.members)) == 1:
            return self.members[0].summary()
        return f"{self.members[0].summary()}\n{count} such networks, {self.size:,} parameters"

    def _of_each(self, function: Callable[[Sequential], dict[str, Any]]) -> dict[str, Any]:
        return of_all(map(function, self.members))


def networks(members: int | None, architecture: Architecture, outputs: int, link: str) -> Sequential | Ensemble:
    """Return one network, or an ensemble of so many, of this architecture; not built yet."""
    if members is None:
        return mlp(architecture, outputs, link)
    return Ensemble([mlp(architecture, outputs, link) for _ in range(members)])


def prefix(number: int) -> str:
    """Return what the names of a member's arrays begin with; ``number`` counts from 0."""
    return f"member_{number + 1}."


def of_all(members: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what members have by name, as the ensemble names it."""
    return {f"{prefix(number)}{name}": each for number, member in enumerate(members) for name, each in member.items()}


def of_member(ensemble: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Return what one member has, by its own names; nothing where the names are of no ensemble."""
    begin = prefix(number)
    return {name.removeprefix(begin): each for name, each in ensemble.items() if name.startswith(begin)}
