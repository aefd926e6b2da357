"""The gradient tape: an append-only list of what was computed, walked backwards once.

Reverse-mode differentiation (Linnainmaa 1970; Griewank and Walther, "Evaluating Derivatives"). The tape knows
no operation: each node carries its own rule. Nodes point to what they were computed from and never forward,
so the list is its own topological order, holds no cycles, and frees its arrays when it goes.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeVar, overload

from gpumlp.errors import ShapeError, TapeError
from gpumlp.ops.record import Array


class Value(Protocol):
    """What the tape needs to know of a tensor."""

    array: Array
    backend: Any

    @property
    def is_variable(self) -> bool:
        """Whether tapes watch it by themselves."""
        ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> Any: ...

    @property
    def differentiable(self) -> bool: ...

    @property
    def source(self) -> tuple[Any, int] | None: ...

    def ones_like(self, *, unit: bool = False) -> Self: ...

    def zeros_like(self) -> Any: ...

    def units_like(self) -> Iterator[Any]: ...

    def jacobian_of(self, rows: Any, source: Any) -> Any: ...

    def weights_like(self, values: Any) -> Self: ...

    def __add__(self, other: Any) -> Self: ...


V = TypeVar("V", bound=Value)

Want = Any
"""What a rule is to give for one input: False for nothing, True for its gradient, or an array that it may write the
gradient into instead of making a new one."""

Rule = Callable[[Any, Sequence[Want]], Sequence[Any]]
"""A vector-Jacobian product: from the gradient of the output to those of the inputs that are wanted."""


@dataclass(eq=False, slots=True)  # a frozen one takes longer to make than the rest of recording it
class Node:
    """One recorded operation: ``output`` was computed from ``inputs`` (tensors and constants).

    ``op`` is what a reader of the tape may know it by, as the record of a loss; None where there is only a name.
    ``read`` has each variable whose memory was read, and rules will read again, with its version at that time.
    """

    name: str
    inputs: tuple[Any, ...]
    output: Value
    rule: Rule
    op: Any = None
    read: tuple[tuple[Any, int], ...] = ()

    def check(self) -> None:
        """Raise TapeError where a variable was overwritten since: its rule would mix old values and new ones."""
        for variable, version in self.read:
            if variable.version != version:
                raise TapeError(
                    f"{variable.name or 'a variable'} {variable.shape} was overwritten after {self.name} had read it",
                    hint="take the gradient before the variable is assigned to or an optimizer takes its step",
                )


class _Active(threading.local):
    def __init__(self) -> None:
        self.tapes: list[GradientTape] = []


_moments = itertools.count()
"""Numbers for moments, growing: whether a tape was opened before another one's first node was made."""
_active = _Active()


def recording() -> bool:
    """Return whether any tape of this thread is recording."""
    return bool(_active.tapes)


@contextlib.contextmanager
def not_recording() -> Iterator[None]:
    """Let no tape of this thread record meanwhile."""
    tapes, _active.tapes = _active.tapes, []
    try:
        yield
    finally:
        _active.tapes = tapes


def record(name: str, inputs: tuple[Any, ...], output: Value, rule: Rule, op: Any = None) -> None:
    """Append a node to every active tape that tracks one of its inputs."""
    if _active.tapes:
        read = [source for value in inputs if (source := getattr(value, "source", None)) is not None]
        node = Node(name, inputs, output, rule, op, tuple(read))
        for tape in _active.tapes:
            tape._append(node)


def _is_leaf(value: Any) -> bool:
    """Return whether a value holds no others; of tensors, which most are, this is known at once."""
    return hasattr(value, "is_variable") or not isinstance(value, list | tuple | Mapping)


def _leaves(value: Any) -> list[Any]:
    """Return what lies in lists, tuples and dictionaries, in its order."""
    if _is_leaf(value):
        return [value]
    parts = value if isinstance(value, list | tuple) else value.values()
    return [leaf for part in parts for leaf in ((part,) if hasattr(part, "is_variable") else _leaves(part))]


def _rebuilt(like: Any, leaves: Iterator[Any]) -> Any:
    """Return leaves in the lists and dictionaries from which ``_leaves`` took theirs; tuples become lists."""
    if _is_leaf(like):
        return next(leaves)
    if isinstance(like, list | tuple):
        return [next(leaves) if hasattr(part, "is_variable") else _rebuilt(part, leaves) for part in like]
    return {key: _rebuilt(part, leaves) for key, part in like.items()}


class GradientTape:
    """Record operations and differentiate through them.

        with GradientTape() as tape:
            loss = mean((x @ W + b - y) ** 2)
        dW, db = tape.gradient(loss, [W, b])

    Variables are watched by themselves; another tensor is watched by ``tape.watch(tensor)``. A tape answers
    ``gradient`` once and then lets go of its arrays; with ``persistent=True`` it answers as often as asked.
    For second derivatives put one tape inside another and ask the outer one about what the inner one gave.

    Gradients are those at the values of the forward pass. Where a variable was overwritten since, they are refused.

    Parameters
    ----------
    persistent
        Whether the tape answers more than once.
    """

    def __init__(self, persistent: bool = False) -> None:
        self.persistent = persistent
        self.nodes: list[Node] = []
        self._tracked: dict[int, Value] = {}  # by identity; the tensors are held so that no id is used twice
        self._spent = False
        self._opened = self._first = -1  # moments: of entering, and of the first node
        # Gradients that this tape did not record, by identity, and the sources that each may depend on.
        self._unrecorded: dict[int, weakref.ref[Any]] = {}
        self._made_from: dict[int, frozenset[int]] = {}

    def __enter__(self) -> GradientTape:
        if self in _active.tapes:
            raise TapeError("the tape is already recording", hint="open another one inside it: GradientTape()")
        _active.tapes.append(self)
        self._opened = next(_moments)
        return self

    def __exit__(self, *_: object) -> None:
        _active.tapes.remove(self)

    def __reduce_ex__(self, protocol: object) -> Any:
        raise TapeError(
            "a tape cannot be copied or pickled: its nodes hold functions of the tensors that it recorded",
            hint="take the gradients first, and copy these",
        )

    def watch(self, *tensors: Value | Sequence[Value]) -> None:
        """Track tensors that are not Variables, given one by one or in a list.

        Parameters
        ----------
        tensors
            Tensors of floating point.
        """
        for tensor in _leaves(tensors):
            if not hasattr(tensor, "is_variable"):
                raise TapeError(f"watch takes tensors, not a {type(tensor).__name__}", hint="make it a Tensor first")
            self._tracked[id(tensor)] = tensor

    def tracks(self, value: Any) -> bool:
        """Return whether ``value`` is a source on this tape, or was computed from one.

        Parameters
        ----------
        value
            A tensor, or anything else.

        Returns
        -------
        bool
        """
        return getattr(value, "is_variable", False) or id(value) in self._tracked or self._is_unrecorded(value)

    def _is_unrecorded(self, value: Any) -> bool:
        known = self._unrecorded.get(id(value))
        return known is not None and known() is value  # an id is used again

    def _append(self, node: Node) -> None:
        variables = [value for value in node.inputs if getattr(value, "is_variable", False)]
        if variables or any(map(self.tracks, node.inputs)):
            for variable in variables:
                self._tracked[id(variable)] = variable
            self._tracked[id(node.output)] = node.output
            if not self.nodes:
                self._first = next(_moments)
            self.nodes.append(node)

    @overload
    def gradient(
        self,
        target: V | Sequence[V] | Mapping[str, V],
        sources: V,
        output_gradients: Any = None,
        *,
        unconnected_gradients: str = "none",
    ) -> V | None: ...

    @overload
    def gradient(
        self,
        target: V | Sequence[V] | Mapping[str, V],
        sources: Sequence[V],
        output_gradients: Any = None,
        *,
        into: Sequence[Array] | None = None,
        unconnected_gradients: str = "none",
    ) -> list[V | None]: ...

    @overload
    def gradient(
        self,
        target: V | Sequence[V] | Mapping[str, V],
        sources: Mapping[str, V],
        output_gradients: Any = None,
        *,
        unconnected_gradients: str = "none",
    ) -> dict[str, V | None]: ...

    def gradient(
        self,
        target: Any,
        sources: Any,
        output_gradients: Any = None,
        *,
        into: Sequence[Array] | None = None,
        unconnected_gradients: str = "none",
    ) -> Any:
        """Return the gradient of ``target`` with respect to each source.

        Sources may be intermediate results.

        Parameters
        ----------
        target
            A tensor; no scalar stands for the sum of its elements. Several, in a list or a dictionary, stand for the
            sum of all of them.
        sources
            A tensor, or tensors in lists and dictionaries, also in each other: gradients come in the same.
        output_gradients
            Weights of the elements of the target, in its shape; of several targets a list of such.
        into
            Arrays, one for each of a list of sources, to write the gradients into (zeros where a source does not
            matter), which spares a copy where the last operation can do so.
        unconnected_gradients
            What a source gets that the target does not depend on: ``"none"`` (None) or ``"zero"``.

        Returns
        -------
        Tensor, or as the sources
            None for a source that the target does not depend on.

        Raises
        ------
        TapeError
            The tape has answered already, never watched a source, the target has no gradient because it is no
            floating point, a variable was overwritten since it was used, or the target was made from a gradient that
            this tape did not record.
        """
        targets, listed = _leaves(target), _leaves(sources)
        self._check(listed, targets, into, unconnected_gradients)
        several = not hasattr(target, "is_variable")
        weights_of_targets = (
            [None] * len(targets)
            if output_gradients is None
            else _leaves(output_gradients)
            if several
            else [output_gradients]
        )
        if len(weights_of_targets) != len(targets):
            raise ShapeError(f"there are {len(targets)} targets and {len(weights_of_targets)} output_gradients")
        seeds = [
            each.ones_like(unit=True) if weights is None else each.weights_like(weights)
            for each, weights in zip(targets, weights_of_targets, strict=True)
        ]
        arrays = {} if into is None else {id(s): a for s, a in zip(listed, into, strict=True)}
        with self._paused():
            gradients = self._walk(targets, seeds, listed, arrays)
            for source, array in zip(listed, into or (), strict=into is not None):
                self._store(source, gradients.get(id(source)), array)
            if unconnected_gradients == "zero":
                gradients |= {id(source): source.zeros_like() for source in listed if id(source) not in gradients}
        self._mark(gradients.values())
        self._finish()
        return _rebuilt(sources, iter([gradients.get(id(source)) for source in listed]))

    def jacobian(self, target: V, sources: Any, *, unconnected_gradients: str = "none") -> Any:
        """Return the derivative of each element of ``target`` with respect to each element of each source.

        The shape is that of the target with that of the source behind it: a target (N, K) and a source (p, H) make
        (N, K, p, H). The tape is walked once for each element of the target.

        Parameters and errors are those of :meth:`gradient`.

        Parameters
        ----------
        target
            A tensor (...).
        sources
            A tensor, or several in lists and dictionaries.
        unconnected_gradients
            What a source gets that the target does not depend on: ``"none"`` (None) or ``"zero"``.

        Returns
        -------
        Tensor, or as the sources
            Of the shape of the target and that of the source behind it.
        """
        listed = _leaves(sources)
        self._check(listed, [target], None, unconnected_gradients)
        with self._paused():
            rows = [self._walk([target], [unit], listed, {}) for unit in target.units_like()]
            reached = set().union(*rows) if rows else set(self._walk([target], [target.ones_like()], listed, {}))
            results: list[Any] = []
            for source in listed:
                parts = [row.get(id(source)) for row in rows]
                connected = unconnected_gradients == "zero" or id(source) in reached
                filled = [source.zeros_like() if part is None else part for part in parts]
                results.append(target.jacobian_of(filled, source) if connected else None)
        self._mark([result for result in results if result is not None])
        self._finish()
        return _rebuilt(sources, iter(results))

    def _finish(self) -> None:
        if not self.persistent:
            self._spent = True
            self.nodes, self._tracked = [], {}
            self._unrecorded.clear()

    def _mark(self, gradients: Collection[V]) -> None:
        """Tell every tape that may differentiate these gradients, and has not recorded how they were made.

        That is this one, and those that were opened after it began.
        """
        blind = [tape for tape in _active.tapes if tape is not self and tape._opened > self._first]
        blind += [self] if self.persistent else []
        if not blind:
            return
        outputs = {id(node.output) for node in self.nodes}
        sources = frozenset(id(value) for node in self.nodes for value in node.inputs if id(value) not in outputs)
        for tape in blind:
            for gradient in gradients:
                tape._unrecorded[id(gradient)] = weakref.ref(gradient)
                tape._made_from[id(gradient)] = sources

    def _check(
        self, sources: Sequence[Any], targets: Sequence[Any], into: Sequence[Array] | None, unconnected: str
    ) -> None:
        if unconnected not in ("none", "zero"):
            raise TapeError(f"unconnected_gradients is {unconnected!r:.80}", hint="allowed: none, zero")
        if self._spent:
            raise TapeError(
                "the tape was already used for a gradient",
                hint="pass all sources at once, or use GradientTape(persistent=True)",
            )
        for target in targets:
            if not hasattr(target, "is_variable"):
                raise TapeError(f"the target is a {type(target).__name__}, not a Tensor")
            if not target.differentiable:
                raise TapeError(
                    f"the target, {target.dtype} {target.shape}{self._origin_of(target)}, has no gradient: "
                    "only floating point has one"
                )
        for position, source in enumerate(sources):
            if not hasattr(source, "is_variable"):
                raise TapeError(f"source {position} is a {type(source).__name__}, not a Tensor or Variable")
            if not self.tracks(source):
                raise TapeError(
                    f"source {position} ({source.dtype} {source.shape}) was never watched",
                    hint="make it a Variable, or call tape.watch(source) before using it",
                )
            if not source.differentiable:
                raise TapeError(f"source {position} has dtype {source.dtype}: only floating point has gradients")
        if into is not None and [tuple(array.shape) for array in into] != [source.shape for source in sources]:
            raise ShapeError(
                f"into has shapes {[tuple(array.shape) for array in into]}, "
                f"the sources have {[source.shape for source in sources]}"
            )

    def _origin_of(self, value: V) -> str:
        """Return by which operation on which shapes a value came about, if this tape knows."""
        node = next((node for node in self.nodes if node.output is value), None)
        if node is None:
            return ""
        return f", made by {node.name} of {', '.join(str(getattr(v, 'shape', ())) for v in node.inputs)}"

    def _walk(
        self, targets: Sequence[Any], seeds: Sequence[Any], sources: Sequence[Any], arrays: dict[int, Array]
    ) -> dict[int, Any]:
        keys = {id(source) for source in sources}
        unrecorded = {
            key for key, known in self._unrecorded.items() if known() is not None and keys & self._made_from[key]
        }
        leads = keys | unrecorded
        uses: dict[int, int] = {}
        for node in self.nodes:  # only what depends on a source can lead back to one
            leading = False
            for value in node.inputs:
                key = id(value)
                uses[key] = uses.get(key, 0) + 1
                leading = leading or key in leads
            if leading:
                leads.add(id(node.output))

        gradients: dict[int, Any] = {}

        def add(value: Value, part: Any) -> None:
            key = id(value)
            if key in unrecorded:
                raise TapeError(
                    "the target was made from a gradient that this tape did not record",
                    hint="open the tape for second derivatives first, around the forward pass and the inner tape",
                )
            gradients[key] = gradients[key] + part if key in gradients else part

        for target, seed in zip(targets, seeds, strict=True):
            add(target, seed)
        for node in reversed(self.nodes):
            key = id(node.output)
            g = gradients.get(key) if key in keys else gradients.pop(key, None)
            if g is None or key not in leads:
                continue
            wants = [
                id(value) in leads and value.differentiable and self._want(value, uses, arrays)
                for value in node.inputs
            ]
            if not any(want is not False for want in wants):
                continue
            node.check()
            for value, part in zip(node.inputs, node.rule(g, wants), strict=True):
                if part is not None:
                    add(value, part)
        return {key: gradients[key] for key in keys if key in gradients}

    @staticmethod
    def _want(value: V, uses: dict[int, int], arrays: dict[int, Array]) -> Want:
        return True if uses[id(value)] > 1 else arrays.get(id(value), True)  # several parts are summed up first

    def _store(self, source: V, gradient: V | None, array: Array) -> None:
        if gradient is None:
            source.backend.clear(array)
        elif gradient.array is not array:
            source.backend.copy(gradient.array, array)

    @contextlib.contextmanager
    def _paused(self) -> Iterator[None]:
        tapes = _active.tapes
        _active.tapes = [tape for tape in tapes if tape is not self]
        try:
            yield
        finally:
            _active.tapes = tapes
