"""Weights from Keras and PyTorch, and back: mappings of arrays, matched by order, checked by name and shape.

    from gpumlp import Dense, Sequential, convert

    model = Sequential([Dense(32, "tanh"), Dense(10, "softmax")]).build(64)
    convert.read(model, torch_model.state_dict(), "pytorch")
    convert.read(model, {w.path: w.numpy() for w in keras_model.weights}, "keras")

Only numbers travel. What a layer does with them is the model's, as its activation. The epsilon of a norm is 1e-5 here
and in PyTorch, in Keras 1e-3 unless it is told: ``read`` has to know it.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpumlp.errors import ConfigError, ShapeError, choices, listed
from gpumlp.nn import Model

IGNORED = ("num_batches_tracked", "seed_generator_state")  # counters of the others' batch norm and dropout


@dataclass(frozen=True)
class FrameworkLayout:
    """How a framework lays out the arrays of a layer. How it names them, each layer declares."""

    separator: str  # between the name of a layer and that of an array
    transposed: bool  # matrices are (out, in), not (in, out)


LAYOUTS = {"keras": FrameworkLayout("/", transposed=False), "pytorch": FrameworkLayout(".", transposed=True)}


@dataclass(frozen=True)
class _Array:
    """An array of a layer of the model: its shape, and how the other framework keeps it."""

    shape: tuple[int, ...]
    called: str
    turned: bool


def read(
    model: Model,
    arrays: Mapping[str, Any],
    layout: str,
    *,
    layers: Sequence[str] | None = None,
    epsilon: float | None = None,
) -> None:
    """Overwrite the parameters and running averages of a built model with those of another framework.

    Raises ShapeError, naming both sides, where layers, names or shapes do not agree, and ConfigError for an epsilon
    that cannot be had (of layer norm, or larger here than a variance allows); the model is unchanged then.

    Parameters
    ----------
    model
        A built network, whose arrays are overwritten.
    arrays
        By names such as ``0.weight`` or ``sequential/dense_1/kernel``; the layers in the order of the model's.
    layout
        ``keras`` or ``pytorch``. It must be said: a square matrix does not tell whether it is transposed.
    layers
        The names of their layers in the order of the model's, where the mapping has another.
    epsilon
        What their norms add to the variance, which weights do not say. Where it is not ours the difference goes into
        the running variance of batch norm, so that predictions are theirs. None: 1e-5, as PyTorch has; from Keras,
        whose default is 1e-3, with a warning where there are norms.
    """
    form, ours = _layout(layout), _arrays(model, layout)
    theirs = _grouped(arrays, form.separator)
    order = _ordered(theirs) if layers is None else list(layers)
    if sorted(order) != sorted(theirs):
        raise ShapeError(f"layers names {_listed(order)}; the {layout} mapping has {_listed(theirs)}")
    if len(order) != len(ours):
        raise ShapeError(
            f"the {layout} mapping has the layers {_listed(theirs)}; those of the model are {_listed(ours)}",
            hint=f"each needs a counterpart; {layout} names arrays LAYER{form.separator}ARRAY",
        )
    converted = {}
    for (name, parts), other in zip(ours.items(), order, strict=True):
        parts_by_name, array_names = {array.called: part for part, array in parts.items()}, theirs[other]
        if set(parts_by_name) != set(array_names):
            raise ShapeError(
                f"the layer {other!r} of the {layout} mapping has {', '.join(array_names)}; "
                f"for {name} it needs {', '.join(parts_by_name)}",
                hint=f"is {layout} the right layout? There are: {', '.join(LAYOUTS)}",
            )
        for key, part in parts_by_name.items():
            array, declared = _array(array_names[key], other, key), parts[part]
            shape = declared.shape[::-1] if declared.turned else declared.shape
            if array.shape != shape:
                raise ShapeError(
                    f"{key} of {other!r} has shape {array.shape}; "
                    f"for {name}.{part} {declared.shape} it must be {shape} in {layout}",
                    hint="PyTorch keeps weights as (out, in), Keras and gpumlp as (in, out)"
                    if len(declared.shape) == 2
                    else None,
                )
            converted[f"{name}.{part}"] = array.T if declared.turned else array
    _change_epsilon(model, converted, layout, epsilon)
    model.load(converted)


def _change_epsilon(model: Model, arrays: dict[str, Any], layout: str, epsilon: float | None) -> None:
    """Let norms compute with another epsilon than their own, by their arrays."""
    norms = {name: layer for name, layer in model.layers().items() if layer.epsilon is not None}
    if epsilon is None and norms and layout == "keras":
        warnings.warn(
            f"Keras' norms add 1e-3 to the variance by default, ours 1e-5: pass epsilon= what "
            f"those for {', '.join(norms)} were made with",
            stacklevel=3,
        )
    for name, layer in norms.items():
        if epsilon not in (None, layer.epsilon):
            norm_arrays = {key: arrays[f"{name}.{key}"] for key in layer.declare(layer.inputs)}
            arrays |= {f"{name}.{key}": array for key, array in layer.with_epsilon(norm_arrays, epsilon).items()}


def write(model: Model, layout: str, *, layers: Sequence[str] | None = None) -> dict[str, np.ndarray[Any, Any]]:
    """Return the parameters and running averages of a built model as another framework names and lays them out.

    ``layers`` are the names of their layers, in order; without it they have the model's own.
    Raises ShapeError where there are not as many names as layers with parameters.
    """
    form, ours, arrays = _layout(layout), _arrays(model, layout), model.arrays()
    names = list(ours) if layers is None else list(layers)
    if len(names) != len(ours):
        raise ShapeError(f"{len(names)} names were given for {len(ours)} layers: {', '.join(ours)}")
    converted = {}
    for (name, parts), other in zip(ours.items(), names, strict=True):
        for part, declared in parts.items():
            array = arrays[f"{name}.{part}"]
            converted[f"{other}{form.separator}{declared.called}"] = (
                np.ascontiguousarray(array.T) if declared.turned else array
            )
    return converted


def _layout(name: str) -> FrameworkLayout:
    if name not in LAYOUTS:
        raise ConfigError(f"unknown layout {name!r}", hint=choices(name, LAYOUTS))
    return LAYOUTS[name]


def _arrays(model: Model, layout: str) -> dict[str, dict[str, _Array]]:
    """Return all arrays of each layer that has any, by the names of both."""
    if not model.is_built:
        raise ConfigError("the model has no parameters yet", hint="build it first: model.build(p)")
    transposed = LAYOUTS[layout].transposed
    return {
        name: {
            key: _Array(array.shape, array.called.get(layout, key), array.matrix and transposed)
            for key, array in layer.declare(layer.inputs).items()
        }
        for name, layer in model.layers().items()
        if layer.parameters
    }


def _grouped(arrays: Mapping[str, Any], separator: str) -> dict[str, dict[str, Any]]:
    """Return the arrays by layer, then by their own name."""
    groups: dict[str, dict[str, Any]] = {}
    for name, array in arrays.items():
        layer, _, key = name.removesuffix(":0").rpartition(separator)  # Keras 2 ends its names so
        if key not in IGNORED:
            groups.setdefault(layer, {})[key] = array
    return groups


def _ordered(groups: Mapping[str, Any]) -> list[str]:
    """Return the names of the layers. Raises ShapeError where their numbers say that they were sorted as texts."""
    last: dict[str, tuple[str, list[int]]] = {}
    for name in groups:
        stem, numbers = re.sub(r"\d+", "#", name), [int(digits) for digits in re.findall(r"\d+", name)]
        if stem in last and numbers < last[stem][1]:
            raise ShapeError(
                f"in the mapping the layer {name!r} comes after {last[stem][0]!r}",
                hint="if that is right, pass layers=[...] with their names in the order of the model's",
            )
        last[stem] = name, numbers
    return list(groups)


def _listed(names: Iterable[str]) -> str:
    return listed(names) or "none"


def _array(values: Any, layer: str, name: str) -> np.ndarray[Any, Any]:
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:  # such as a tensor that still belongs to a graph
        raise ShapeError(f"{name} of {layer!r} cannot be read as an array: {error}") from None
    if array.dtype.kind not in "fiu":
        raise ShapeError(f"{name} of {layer!r} holds {array.dtype}, not numbers")
    return array
