"""A trained model as files: ``model.json`` says what it is, ``weights.safetensors`` holds the numbers.

Nothing in them is executed, and nothing is trusted: a file from a stranger is safe to open.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpumlp.autodiff import Tensor
from gpumlp.backend import Backend
from gpumlp.data import Encoder, Features, News, Source, read
from gpumlp.errors import BackendError, GpumlpError, RunError
from gpumlp.nn import MAX_UNITS, Hidden, Sequential, mlp
from gpumlp.ops.precision import PRECISIONS
from gpumlp.phases import phase
from gpumlp.store.formats import (
    Arrays,
    is_whole,
    keep_folder,
    read_arrays,
    read_json,
    write_arrays,
    write_sealed,
)
from gpumlp.training.device_data import outputs
from gpumlp.training.measure import rows_at_once
from gpumlp.training.metrics import most_probable

FORMAT = 1
DESCRIPTION, WEIGHTS = "model.json", "weights.safetensors"


@dataclass(frozen=True)
class Predictions:
    """What a model says of some rows.

    Parameters
    ----------
    values : (N,) class numbers, or float64 in the units of the target
    probabilities : (N, classes) float64; None in regression
    """

    values: np.ndarray[Any, Any]
    probabilities: np.ndarray[Any, Any] | None


@dataclass(frozen=True)
class SavedModel:
    """A network with the encoding of its inputs: from raw rows to predictions."""

    encoder: Encoder
    network: Sequential
    hidden: tuple[Hidden, ...]

    def predict(self, source: Any) -> tuple[np.ndarray[Any, Any], list[str]]:
        """Return predictions (N, K) for raw rows, and notes on them.

        The rows are what ``data.read`` returned, a file, or what ``data.rows_of`` takes, such as a DataFrame.

        For classes these are probabilities (of the second class where there are two); for numbers they are
        (N, 1) in units of the target.
        """
        if isinstance(source, str | Path):
            source = read(source, self.encoder.dialect, texts=self.encoder.texts)
        data, notes = self.encoder.encode(source, targets=False)
        outputs = np.concatenate(list(self.outputs(data.features)))
        if self.encoder.task == "regression":
            outputs = self.encoder.restore(outputs)[:, None]
        return outputs, notes

    def outputs(self, features: Features) -> Iterator[np.ndarray[Any, Any]]:
        """Yield what the network makes of encoded rows, (n, K), some at a time: probabilities, or scaled numbers."""
        return (self.network.answer(each).numpy() for each in self._linear(features))

    def predictions(self, sources: Iterable[Source], news: News) -> Iterator[tuple[Source, Predictions]]:
        """Yield each block of raw rows with its predictions. ``news`` collects what a user should know about them.

        Raises
        ------
        DataError : if a block does not fit the model
        """
        for source in sources:
            data, _ = self.encoder.encode(source, targets=False, news=news)
            values, probabilities = [], []
            for linear in self._linear(data.features):
                answers = self.network.answer(linear).numpy()
                if self.encoder.classes is None:
                    values.append(self.encoder.restore(answers))
                else:
                    values.append(most_probable(answers))
                    probabilities.append(_probabilities(linear.numpy().astype(np.float64)))
            classes = self.encoder.classes
            yield (
                source,
                Predictions(np.concatenate(values), None if classes is None else np.concatenate(probabilities)),
            )

    def _linear(self, features: Features) -> Iterator[Tensor]:
        return outputs(self.network, features, self.encoder.input_scale, rows_at_once(self.encoder.outputs))

    def labels(self, probabilities: np.ndarray[Any, Any]) -> list[str]:
        """Return the name of the most probable class of each row."""
        classes = self.encoder.classes or ()
        return [classes[i] for i in most_probable(probabilities)]


def _probabilities(linear: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the probability of each class, (N, classes), from (N, K) linear values, of two classes (N, 1).

    Both of two come from the value itself: 1 - p is 0 for every p that float32 rounds to 1.
    """
    both = np.concatenate([-linear, np.zeros_like(linear)], axis=1) if linear.shape[1] == 1 else linear
    powers = np.exp(both - both.max(axis=1, keepdims=True))
    shares: np.ndarray[Any, Any] = powers / powers.sum(axis=1, keepdims=True)
    return shares


@phase("save")
def save_model(
    folder: Path, network: Sequential, hidden: tuple[Hidden, ...], encoder: Encoder, weights: Arrays
) -> str:
    """Write a model; return its checksum. ``weights`` are the arrays of ``network.arrays()`` that are to be kept.

    The description is written last and names the checksum of the weights, so a pair that does not belong
    together is found when it is read.
    """
    keep_folder(folder)
    fields, fitted = encoder.to_state()
    arrays = {f"network/{k}": v for k, v in weights.items()} | {f"encoder/{k}": v for k, v in fitted.items()}
    checksum = write_arrays(folder / WEIGHTS, arrays, {"format": FORMAT})
    description = {
        "format": FORMAT,
        "weights": checksum,
        "network": {
            "inputs": encoder.width,
            "hidden": [asdict(h) for h in hidden],
            "outputs": encoder.outputs,
            "link": network.link,
            "dtype": network.context.dtype.name,
        },
        "encoder": fields,
    }
    return str(write_sealed(folder / DESCRIPTION, description)["sha256"])


def load_model(folder: Path, backend: Backend, *, checksum: str | None = None) -> SavedModel:
    """Read a model. Raises RunError where a file is missing, damaged or made by a later version.

    ``checksum`` is what :func:`save_model` returned, where it is known: another model is refused then.
    """
    path = folder / DESCRIPTION
    description = read_json(path)
    arrays, meta = read_arrays(folder / WEIGHTS)
    try:
        version = description["format"]
        if not isinstance(version, int) or version > FORMAT:
            raise RunError(
                f"the model has format {version!r}; this version of gpumlp reads formats up to {FORMAT}",
                where=str(path),
                hint="update gpumlp",
            )
        if not is_whole(description):
            raise RunError("the file is damaged: its content does not match its checksum", where=str(path))
        if checksum not in (None, description["sha256"]):
            raise RunError("this is not the model that the run wrote", where=str(folder))
        if description["weights"] != meta["sha256"]:
            raise RunError("model.json and the weights do not match", where=str(folder))
        net = description["network"]
        hidden = tuple(Hidden(**h) for h in net["hidden"])
        _check_sizes(net, hidden)
        encoder = Encoder.from_state(description["encoder"], _under("encoder/", arrays))
        weights = _under("network/", arrays)
        network = mlp(hidden, net["outputs"], net["link"])
        _check_weights(network, weights, net["inputs"], str(folder))
        network.build(net["inputs"], backend=backend, dtype=net["dtype"])
        network.load(weights)
        if (encoder.width, encoder.outputs) != (net["inputs"], net["outputs"]):
            raise RunError("the encoder and the network have different widths", where=str(path))
    except (RunError, BackendError):  # a device without memory says nothing against the model
        raise
    except (GpumlpError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(f"not a gpumlp model, or damaged: {error}", where=str(path)) from None
    return SavedModel(encoder, network, hidden)


def _under(prefix: str, arrays: Mapping[str, Any]) -> Arrays:
    return {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}


def _check_sizes(net: Mapping[str, Any], hidden: tuple[Hidden, ...]) -> None:
    for size in (net["inputs"], net["outputs"], *(h.units for h in hidden)):
        if type(size) is not int or not 0 < size <= MAX_UNITS:
            raise ValueError(f"a layer of width {size!r}")
    if net["dtype"] not in {precision.stored for precision in PRECISIONS.values()}:
        raise ValueError(f"dtype {net['dtype']!r}")


def _check_weights(network: Sequential, weights: Arrays, inputs: int, where: str) -> None:
    """Compare the arrays with those that the network declares, before any memory of these sizes is taken."""
    declared = {name: array.shape for name, array in network.declare(inputs).items()}
    if declared != {name: array.shape for name, array in weights.items()}:
        raise RunError("the shapes of the weights do not match model.json", where=where)
    for name, array in weights.items():
        if not np.isfinite(array).all():
            what = f"{name} has values that are not finite, so the model cannot predict"
            raise RunError(what, where=where, hint="train it again")
