"""A trained model as one safetensors file: each array by its name, and what they are for as metadata."""

from __future__ import annotations

from pathlib import Path

from gpumlp.backend import Backend
from gpumlp.data import Encoder, News, Source
from gpumlp.export.trace import Computation
from gpumlp.nn import Architecture, Ensemble
from gpumlp.nn.ensemble import networks
from gpumlp.runs.model import SavedModel
from gpumlp.runs.predictor import Predictions
from gpumlp.store.formats import read_arrays, write_arrays
from gpumlp.training.calibration import Temperature


def write_tensors(path: Path, model: SavedModel, computed: Computation) -> None:
    """Write weights as ``layer.array``, the encoder's arrays as ``encoder.name``, all else as metadata."""
    encoder, network = model.encoder, model.network
    fields, fitted = encoder.to_state()
    arrays = network.arrays() | {f"encoder.{name}": array for name, array in fitted.items()}
    described = {
        "features": list(encoder.features),
        "classes": None if encoder.classes is None else list(encoder.classes),
        "target": encoder.target_name,
        "input_scale": encoder.input_scale,
        "network": {
            "inputs": encoder.width,
            **model.architecture.to_state(),
            "outputs": encoder.outputs,
            "link": network.link,
            **({"members": len(network.networks)} if isinstance(network, Ensemble) else {}),
        },
        "encoder": fields,
        "calibration": None if model.calibration is None else model.calibration.to_state(),
    }
    write_arrays(path, arrays, described)


def run_tensors(path: Path, model: SavedModel, source: Source) -> Predictions:
    """Return what a model predicts of raw rows that is made anew from a written file alone."""
    arrays, described = read_arrays(path)
    fitted = {name.removeprefix("encoder."): each for name, each in arrays.items() if name.startswith("encoder.")}
    encoder, net = Encoder.from_state(described["encoder"], fitted), described["network"]
    architecture = Architecture.from_state(net)
    network = networks(net.get("members"), architecture, net["outputs"], net["link"])
    weights = {name: array for name, array in arrays.items() if not name.startswith("encoder.")}
    network.build(net["inputs"], backend=Backend(), dtype=next(iter(weights.values())).dtype)
    network.load(weights)
    fitted_to = described["calibration"]
    calibration = None if fitted_to is None else Temperature.from_state(fitted_to)
    rebuilt = SavedModel(encoder, network, architecture, calibration=calibration)
    ((_, predictions),) = rebuilt.predictions([source], News())
    return predictions
