"""Runs: from a configuration to a run folder, and from a run folder to predictions."""

from gpumlp.runs.evaluation import Metrics, Run, evaluate, load_ensemble, load_run, load_trained
from gpumlp.runs.in_memory import fit
from gpumlp.runs.listener import Listener
from gpumlp.runs.model import SavedModel, load_model
from gpumlp.runs.plots import plot
from gpumlp.runs.run import Result, train

__all__ = [
    "Listener",
    "Metrics",
    "Result",
    "Run",
    "SavedModel",
    "evaluate",
    "fit",
    "load_ensemble",
    "load_model",
    "load_run",
    "load_trained",
    "plot",
    "train",
]
