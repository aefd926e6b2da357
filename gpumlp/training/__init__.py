"""Training: from a configuration to a run folder, and from a run folder to predictions."""

from gpumlp.training.plots import plot
from gpumlp.training.run import Listener, Result, train
from gpumlp.training.saved import SavedModel, load_model
from gpumlp.training.trainer import EpochReport, Trainer
from gpumlp.training.use import Run, evaluate, load_run, load_trained

__all__ = [
    "EpochReport",
    "Listener",
    "Result",
    "Run",
    "SavedModel",
    "Trainer",
    "evaluate",
    "load_model",
    "load_run",
    "load_trained",
    "plot",
    "train",
]
