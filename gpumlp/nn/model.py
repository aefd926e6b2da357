"""Models: layers put together, with all parameters in one buffer."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np

from gpumlp.autodiff import Tensor, Variable, activate
from gpumlp.autodiff.tensor import REFERENCE, as_dtype
from gpumlp.backend import Backend
from gpumlp.errors import ConfigError, ShapeError
from gpumlp.nn.layer import Context, Declared, Layer
from gpumlp.nn.parameters import Group, Parameters
from gpumlp.ops.hyper import whole
from gpumlp.ops.precision import dtype_of
from gpumlp.ops.record import Array


class Model:
    """A network of any shape: subclass it, put layers into attributes, or lists or dicts of them, write ``forward``.

        class Skip(Model):
            link = "softmax"

            def __init__(self):
                self.hidden = Dense(16, "relu")
                self.output = Dense(3)

            def forward(self, x, *, training=False):
                return self.output(concat([x, self.hidden(x)]))

        model = Skip().build(4)

    ``forward`` returns the last *linear* values, which losses are computed from; calling the model applies
    ``link`` to them and returns predictions. A layer used twice shares its weights.
    """

    link = "identity"
    context: Context
    input_dtype: Any  # of inputs: see :meth:`build`
    parameters: Parameters

    def forward(self, *inputs: Tensor, training: bool = False) -> Tensor:
        """Return the last linear values (N, K).

        Parameters
        ----------
        inputs
            Rows (N, p) of each input.
        training
            Whether a step is taken: dropout and the statistics of a batch.

        Returns
        -------
        Tensor
            (N, K).
        """
        raise NotImplementedError

    def __call__(self, *inputs: Any, training: bool = False) -> Tensor:
        """Return predictions (N, K) for inputs (N, p): probabilities where the link is softmax or sigmoid."""
        return self.answer(self.forward(*self._as_tensors(inputs), training=training))

    def answer(self, outputs: Tensor) -> Tensor:
        """Return the predictions that last linear values stand for, never in less than 32 bits.

        Parameters
        ----------
        outputs
            Last linear values (N, K).

        Returns
        -------
        Tensor
            (N, K).
        """
        return activate(self.link, as_dtype(outputs, self.context.wide))

    def layers(self) -> dict[str, Layer]:
        """Return the layers by name, in the order they were put into the model.

        Returns
        -------
        dict of Layer
            By name.
        """
        pairs = list(_find(self))
        named = dict(pairs)
        if len(named) < len(pairs):
            twice = next(name for name, layer in pairs if named[name] is not layer)
            raise ConfigError(f"two layers are called {twice!r}", hint="the first of a list h is h_1: rename one")
        return named

    def build(self, *widths: int, backend: Backend = REFERENCE, dtype: Any = np.float32, seed: int = 0) -> Self:
        """Make all parameters for inputs of the given widths, and return the model.

        One row of zeros is sent through ``forward`` so that each layer learns its width; then the variables
        move into one buffer. Weights depend on ``seed`` and the place of their layer alone.

        ``dtype`` is float32, float64 or "bfloat16". The last is that of inputs, activations and the weights that
        products read; the parameters themselves are float32 then, and so are their gradients. Where a layer takes
        its input in float32, as embeddings of numbers do, so do all inputs come (``input_dtype``).

        Parameters
        ----------
        widths
            Values of a row of each input.
        backend
            Where the model computes.
        dtype
            What it computes in.
        seed
            Seed of the first weights and of dropout.

        Returns
        -------
        Self
        """
        if not widths:
            raise ConfigError("build needs the width of each input, at least 1: model.build(p)")
        widths = tuple(whole("the width of an input", width) for width in widths)
        dtype = dtype_of(dtype)
        self.context = Context(backend, dtype, seed, backend.zeros((3,), np.int64))
        layers = self.layers()
        for index, layer in enumerate(layers.values()):
            layer.place(replace(self.context, index=index))
        takes_float32 = any(layer.takes == "compute" for layer in layers.values())
        self.input_dtype = self.context.wide if takes_float32 else dtype
        row = [Tensor(np.zeros((1, width), self.input_dtype), backend) for width in widths]
        output = self.forward(*row)
        inner = next((part for part in vars(self).values() if isinstance(part, Model) and part.is_built), None)
        if inner is not None:
            raise ConfigError(
                f"a {type(inner).__name__} inside a {type(self).__name__} was built by itself",
                hint="in forward, call inner.forward(x, training=training): inner(x) makes predictions",
            )
        if output.ndim != 2:
            raise ShapeError(f"forward must return (N, K), for one row it returned {output.shape}")
        self.widths, self.units = widths, output.shape[1]
        named: dict[str, tuple[Variable, Group]] = {}
        for name, layer in layers.items():
            trained = layer.weights | layer.offsets
            named |= {f"{name}.{key}": (variable, layer.groups[key]) for key, variable in trained.items()}
        for name, (variable, _) in named.items():
            variable.name = name
        last = next((name for name, layer in reversed(layers.items()) if layer.numbered), "")
        hidden = [f"{name}.{key}" for name, layer in layers.items() for key in layer.matrices if name != last]
        self.parameters = Parameters(backend, dtype, named, hidden)
        return self

    @property
    def size(self) -> int:
        """How many numbers are trained."""
        return len(self.parameters)

    @property
    def trainable_variables(self) -> list[Variable]:
        """The variables that are trained, in the order of the layers."""
        return [variable for layer in self.layers().values() for variable in (layer.weights | layer.offsets).values()]

    @property
    def is_built(self) -> bool:
        """True once the parameters have been made."""
        return hasattr(self, "parameters")

    @property
    def state(self) -> dict[str, Array]:
        """What layers remember without training it (running averages), by name."""
        return {f"{name}.{k}": a for name, layer in self.layers().items() for k, a in layer.state.items()}

    def arrays(self, buffer: Array | None = None) -> dict[str, np.ndarray[Any, Any]]:
        """Return host copies of all parameters (or of another buffer in their layout) and of the state.

        Parameters
        ----------
        buffer
            Numbers in the layout of the parameters (P,); None for the parameters.

        Returns
        -------
        dict of numpy.ndarray
            By name.
        """
        backend = self.context.backend
        return self.parameters.arrays(buffer) | {k: backend.to_host(a) for k, a in self.state.items()}

    def load(self, arrays: dict[str, Any]) -> None:
        """Overwrite parameters and state by name; names and shapes must agree.

        Parameters
        ----------
        arrays
            By name, in the shapes of :meth:`arrays`.
        """
        state = self.state
        self.parameters.load({k: v for k, v in arrays.items() if k not in state})
        for name, array in state.items():
            if name not in arrays or np.shape(arrays[name]) != array.shape:
                raise ShapeError(f"{name} is missing or does not have the shape {array.shape}")
            self.context.backend.write(array, arrays[name])

    def predict(self, *inputs: Any, scale: float = 1.0, batch: int = 8192) -> np.ndarray[Any, Any]:
        """Return predictions (N, K) for NumPy inputs (N, p), computed ``batch`` rows at a time.

        ``scale`` multiplies the inputs first, as for images kept in bytes.

        Parameters
        ----------
        inputs
            (N, p), of each input.
        scale
            What inputs are multiplied by.
        batch
            Rows computed at a time.

        Returns
        -------
        numpy.ndarray
            (N, K).
        """
        batch = whole("batch", batch)
        if any(np.ndim(x) == 0 for x in inputs):
            raise ShapeError("predict takes inputs (N, p), not a number")
        parts = []
        for start in range(0, max(len(inputs[0]), 1), batch):  # of no rows, too, the width is checked
            rows = self._as_tensors([x[start : start + batch] for x in inputs], wide=scale != 1.0)
            parts.append(self(*(x * scale if scale != 1.0 else x for x in rows)).numpy())
        return np.concatenate(parts)

    def summary(self) -> str:
        """Return the layers with their output widths and parameter counts, and the total, as text.

        Raises ConfigError where the model has not been built: its parameters depend on the width of its inputs.

        Returns
        -------
        str
        """
        if not self.is_built:
            raise ConfigError("the model has no parameters yet", hint="build it first: model.build(p)")
        rows = [("layer", "output", "parameters")]
        for name, layer in self.layers().items():
            kind = ", ".join(filter(None, (type(layer).__name__, layer.detail)))
            width = f"(N, {layer.width(layer.inputs)})" if layer.parameters else "same"
            rows.append((f"{name} ({kind})", width, f"{layer.parameters:,}"))
        rows.append(("total", "", f"{len(self.parameters):,}"))
        sizes = [max(len(row[i]) for row in rows) for i in range(3)]
        lines = [f"{a:<{sizes[0]}}  {b:>{sizes[1]}}  {c:>{sizes[2]}}" for a, b, c in rows]
        rule = "─" * len(lines[0])
        return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])

    def _as_tensors(self, inputs: Sequence[Any], *, wide: bool = False) -> list[Tensor]:
        if not self.is_built:
            self.build(*(np.shape(getattr(x, "array", x))[-1] for x in inputs))
        backend = self.context.backend
        dtype = self.context.wide if wide else self.input_dtype
        tensors = [as_dtype(x, dtype) if isinstance(x, Tensor) else Tensor(x, backend, dtype=dtype) for x in inputs]
        for tensor, width in zip(tensors, self.widths, strict=True):
            if tensor.ndim != 2 or tensor.shape[1] != width:
                raise ShapeError(f"the model takes inputs (N, {width}), not {tensor.shape}")
        return tensors


class Sequential(Model):
    """Layers one after another.

        model = Sequential([Dense(32, activation="tanh"), Dense(10, activation="softmax")]).build(64)
        print(model.summary())

    The activation of a last Dense layer, or a last Activation, becomes the model's link: losses see the values
    before it.
    """

    def __init__(self, layers: Sequence[Layer] = ()) -> None:
        self.chain: list[Layer] = []
        for layer in layers:
            self.add(layer)

    def __repr__(self) -> str:
        size = f"{self.size:,} parameters" if self.is_built else "not built"
        return f"<{type(self).__name__}: {len(self.chain)} layer{'s' * (len(self.chain) != 1)}, {size}>"

    def add(self, layer: Layer) -> None:
        """Put a layer at the end, of a model that is not built yet or is to be built anew.

        Parameters
        ----------
        layer
            The layer.
        """
        if not isinstance(layer, Layer):
            raise ConfigError(f"{layer!r:.80} is not a layer")
        self.chain.append(layer)
        self.link = layer.link

    def build(self, *widths: int, backend: Backend = REFERENCE, dtype: Any = np.float32, seed: int = 0) -> Self:
        if not self.chain:
            raise ConfigError("a model needs at least one layer")
        return super().build(*widths, backend=backend, dtype=dtype, seed=seed)

    def forward(self, *inputs: Tensor, training: bool = False) -> Tensor:
        for output in self._outputs(*inputs, training=training, together=training):
            x = output
        return x

    def outputs(self, x: Tensor, *, training: bool = False) -> Iterator[Tensor]:
        """Yield the output of each layer, of the last one its linear values.

        Parameters
        ----------
        x
            (N, p).
        training
            As of :meth:`forward`.

        Yields
        ------
        Tensor
            (N, outputs of the layer).
        """
        yield from self._outputs(x, training=training, together=False)

    def _outputs(self, x: Tensor, *, training: bool, together: bool) -> Iterator[Tensor]:
        """Yield the output of each layer, or ``together`` of several where one launch computes them."""
        last = len(self.chain) - 1
        reached = [index - layer.reach for index, layer in enumerate(self.chain) if layer.reach]
        inputs = deque([x], 1 + max([layer.reach for layer in self.chain]))  # no more than layers reach back to
        done = -1
        for index, layer in enumerate(self.chain):
            if index <= done:
                inputs.append(x)
                continue
            if layer.reach:
                if layer.reach > index:
                    raise ConfigError(f"layer {index + 1} reaches back {layer.reach} layers, to before the first")
                x = layer.joined(x, inputs[-1 - layer.reach])
            elif index == last:
                x = layer.linear(x, training=training)
            elif together:
                end = min([at for at in reached if at > index], default=last)
                x, count = layer.with_following(x, self.chain[index + 1 : end], training=training)
                done = index + count
            else:
                x = layer(x, training=training)
            inputs.append(x)
            yield x

    @property
    def networks(self) -> tuple[Sequential, ...]:
        """The networks that it is made of: itself."""
        return (self,)

    def declare(self, inputs: int) -> dict[str, Declared]:
        """Return all arrays that the network has for rows of ``inputs`` values, by name, without making any.

        Parameters
        ----------
        inputs
            Values of a row of the input.

        Returns
        -------
        dict of Declared
            By name.
        """
        arrays: dict[str, Declared] = {}
        names = {id(layer): name for name, layer in self.layers().items()}
        for layer in self.chain:
            arrays |= {f"{names[id(layer)]}.{key}": array for key, array in layer.declare(inputs).items()}
            inputs = layer.width(inputs)
        return arrays

    def layers(self) -> dict[str, Layer]:
        counts: dict[str, int] = {}
        named: dict[str, Layer] = {}
        for layer in self.chain:
            kind = type(layer).__name__.lower()
            if layer not in named.values():
                counts[kind] = counts.get(kind, 0) + 1
                named[f"{kind}_{counts[kind]}"] = layer
        return named


def _find(owner: Any, prefix: str = "", seen: set[int] | None = None) -> Iterator[tuple[str, Layer]]:
    """Yield each layer once: of attributes, of lists and dictionaries in them, of models in any of these."""
    seen = set() if seen is None else seen
    for key, value in vars(owner).items():
        for name, part in _parts(f"{prefix}{key}", value):
            if isinstance(part, Model):
                yield from _find(part, f"{name}.", seen)
            elif isinstance(part, Layer) and id(part) not in seen:
                seen.add(id(part))
                yield name, part


def _parts(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    match value:
        case list() | tuple():
            value = dict(enumerate(value, 1))
        case dict():
            pass
        case _:
            yield name, value
            return
    for key, part in value.items():
        yield from _parts(f"{name}_{key}", part)
