"""All parameters of a model as views of one buffer, and their gradients as views of another.

One launch updates everything, one write saves everything. What has the same factors of learning rate and weight
decay stands together, so that they are a few ranges and not a mask.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np

from gpumlp.autodiff import GradientTape, Tensor, Variable
from gpumlp.backend import Backend
from gpumlp.errors import ShapeError
from gpumlp.ops.precision import wide
from gpumlp.ops.record import Array

ALIGNMENT = 64
"""Bytes at which each parameter starts: a whole number of 16-byte loads, and a cache line of its own."""


class Group(NamedTuple):
    """What an optimizer multiplies its learning rate and its weight decay by, for one parameter."""

    rate: float = 1.0
    decay: float = 1.0


class Parameters:
    """The trainable variables of a model, laid out flat.

    Parameters
    ----------
    backend
        Where they are.
    dtype
        What products read them in.
    named
        Each variable by name, with its group.
    hidden
        The groups of the weight matrices of all linear layers but the last, by name.

    Attributes
    ----------
    values, gradients
        Arrays ``(P',)`` on the backend; P' counts the padding between parameters, which stays 0.
    shadow
        The values in ``dtype`` where that is narrower, None elsewhere; what writes the one writes the other.
    views
        One view of ``gradients`` for each variable, in its shape.
    ranges
        (end, rate, decay) of each range of elements in one group, in order; what decays stands first.
    groups
        The same on the backend, float64 (ranges, 3).
    """

    def __init__(
        self, backend: Backend, dtype: Any, named: Mapping[str, tuple[Variable, Group]], hidden: Iterable[str] = ()
    ) -> None:
        order = sorted(named, key=lambda name: (named[name][1].decay == 0, named[name][1]))  # stable
        self.backend = backend
        self.variables = {name: named[name][0] for name in order}
        unit = max(ALIGNMENT // np.dtype(dtype).itemsize, 1)
        self._places: dict[str, slice] = {}
        end = 0
        ends: dict[Group, int] = {}
        for name, variable in self.variables.items():
            self._places[name] = slice(end, end + variable.size)
            end += -(-variable.size // unit) * unit
            ends[named[name][1]] = end
        self.ranges = tuple((end, *group) for group, end in ends.items())
        self._length, self._dtype = end, np.dtype(dtype)
        self.hidden: Mapping[str, Group] = {name: named[name][1] for name in hidden}
        self._groups = {name: named[name][1] for name in order}
        self._lay_out()

    def groups_without_hidden(self, factor: float) -> Array:
        """Return ``groups`` with a rate of 0 for hidden matrices, and all other rates times a factor.

        Parameters
        ----------
        factor
            Factor of the other rates.

        Returns
        -------
        array
            float64 (ranges, 3).
        """
        starts = [span.start for span in self._places.values()]
        rows: list[tuple[float, float, float]] = []
        for (name, group), end in zip(self._groups.items(), [*starts[1:], self._length], strict=True):
            factors = (0.0, 0.0) if name in self.hidden else (factor * group.rate, group.decay)
            if rows and rows[-1][1:] == factors:
                rows.pop()
            rows.append((end, *factors))
        return self.backend.asarray(np.array(rows, np.float64).reshape(-1, 3))

    @classmethod
    def of(cls, variables: Sequence[Variable]) -> Self:
        """Return the parameters of a loop of your own, for an optimizer: any variables of one backend and dtype.

        Weight decay is for those with two axes or more. A variable is of one optimizer: its memory moves.

        Raises ShapeError where there is none, one stands twice, or backends or dtypes differ.
        """
        if not variables or not all(isinstance(variable, Variable) for variable in variables):
            raise ShapeError("parameters are variables, at least one")
        if len({id(variable) for variable in variables}) < len(variables):
            raise ShapeError("a variable is listed twice among the parameters")
        backends, dtypes = {id(v.backend) for v in variables}, {v.dtype for v in variables}
        if len(backends) > 1 or len(dtypes) > 1:
            names = ", ".join(sorted(dtype.name for dtype in dtypes))
            raise ShapeError(
                f"the variables are on {len(backends)} backends, in {names}", hint="one of each is needed"
            )
        named = {
            f"{number}_{variable.name}": (variable, Group(decay=float(variable.ndim > 1)))
            for number, variable in enumerate(variables)
        }
        matrices = [name for name, (variable, _) in named.items() if variable.ndim == 2]
        return cls(variables[0].backend, variables[0].dtype, named, matrices[:-1])

    def _lay_out(self) -> None:
        """Make the buffers, and move the variables into them."""
        backend, storage, shape = self.backend, wide(self._dtype), (self._length,)
        self.values = backend.zeros(shape, storage)
        self.gradients = backend.zeros(shape, storage)
        self.groups = backend.asarray(np.array(self.ranges, np.float64).reshape(-1, 3))
        self.shadow = None if storage == self._dtype else backend.zeros(shape, self._dtype)
        for name, variable in self.variables.items():
            view = self.view(name, self.values)
            backend.write(view, variable.array)
            variable.array = view
            variable.shadow = None if self.shadow is None else self.view(name, self.shadow)
        self._round()
        self.views = [self.view(name, self.gradients) for name in self.variables]

    def __copy__(self) -> Self:
        return self  # variables lie in one buffer: a copy has its own variables, or it is no copy

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy is made from: its variables, which it moves into buffers of its own."""
        buffers = ("values", "gradients", "groups", "shadow", "views")
        return {key: value for key, value in vars(self).items() if key not in buffers} | {
            "gradients": self.backend.to_host(self.gradients)
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        gradients = state.pop("gradients")
        vars(self).update(state)
        self._lay_out()
        self.backend.write(self.gradients, gradients)

    def __len__(self) -> int:
        return sum(variable.size for variable in self.variables.values())

    def collect(self, tape: GradientTape, loss: Tensor, buffer: Array | None = None) -> None:
        """Write the gradients of a loss, of a tape that has recorded it, into ``gradients`` or a buffer like it.

        Parameters
        ----------
        tape
            The tape.
        loss
            A tensor that it has recorded.
        buffer
            An array (P',) of the same layout; None for ``gradients``.
        """
        views = self.views if buffer is None else [self.view(name, buffer) for name in self.variables]
        tape.gradient(loss, list(self.variables.values()), into=views)

    def write_gradients(self, pairs: Iterable[tuple[Any, Variable]]) -> None:
        """Write gradients beside their variables; None is 0, as is that of a variable which is not among them.

        Raises ShapeError for a variable that is none of these, stands twice, or has a gradient of another shape.

        Parameters
        ----------
        pairs
            (gradient, variable), in any order.
        """
        listed = list(pairs)
        gradients = {id(variable): gradient for gradient, variable in listed}
        names = {id(variable): name for name, variable in self.variables.items()}
        if len(gradients) < len(listed) or not gradients.keys() <= names.keys():
            raise ShapeError("gradients come in pairs with the variables of this optimizer, each at most once")
        for view, (key, name) in zip(self.views, names.items(), strict=True):
            gradient = gradients.get(key)
            if gradient is None:
                self.backend.clear(view)
                continue
            array = getattr(gradient, "array", gradient)
            if np.shape(array) != view.shape:
                raise ShapeError(f"the gradient of {name} has shape {np.shape(array)}, the variable {view.shape}")
            if self.backend.owns(array):
                self.backend.copy(array, view)
            else:
                self.backend.write(view, array)

    def view(self, name: str, buffer: Array) -> Array:
        """Return the part of a buffer of this layout that belongs to one parameter, in its shape.

        Parameters
        ----------
        name
            Name of a parameter.
        buffer
            An array (P',) of this layout.

        Returns
        -------
        array
            In the parameter's shape.
        """
        return buffer[self._places[name]].reshape(self.variables[name].shape)

    def arrays(self, buffer: Array | None = None) -> dict[str, np.ndarray[Any, Any]]:
        """Return host copies by name, of the values or of another buffer of the same layout (an average).

        Parameters
        ----------
        buffer
            An array (P',) of the same layout; None for the values.

        Returns
        -------
        dict of numpy.ndarray
            By name.
        """
        source = self.values if buffer is None else buffer
        return {name: self.backend.to_host(self.view(name, source)) for name in self.variables}

    def write(self, values: Array) -> None:
        """Overwrite all values with those of another buffer of this layout.

        Parameters
        ----------
        values
            (P',).
        """
        self.backend.write(self.values, values)
        self._round()
        self.overwrote()

    def overwrote(self) -> None:
        """Let tapes know that ``values`` has been written to."""
        self.backend.overwrote(self.variables.values())

    def _round(self) -> None:
        """Bring the shadow up to the values, as every step of an optimizer does."""
        if self.shadow is not None:
            self.backend.write(self.shadow, self.values)

    def are_finite(self) -> bool:
        """Return whether no value is NaN or infinite: one number comes to the host.

        Returns
        -------
        bool
        """
        with self.backend.quiet():
            finite = self.backend.xp.isfinite(self.values).all()
        return bool(self.backend.to_host(finite))

    def load(self, arrays: Mapping[str, Any], buffer: Array | None = None) -> None:
        """Overwrite the values (or another buffer of the same layout) by name; names and shapes must agree.

        Parameters
        ----------
        arrays
            By name.
        buffer
            An array (P',) of the same layout; None for the values.
        """
        if set(arrays) != set(self.variables):
            missing, extra = set(self.variables) - set(arrays), set(arrays) - set(self.variables)
            raise ShapeError(f"parameters do not agree: missing {sorted(missing)}, unknown {sorted(extra)}")
        for name, variable in self.variables.items():
            if np.shape(arrays[name]) != variable.shape:
                raise ShapeError(f"{name} has shape {np.shape(arrays[name])}, the model needs {variable.shape}")
        for name, values in arrays.items():
            self.backend.write(self.view(name, self.values if buffer is None else buffer), values)
        self._round()
        self.overwrote()
