"""Training: the parts of a run, the steps over its rows, and how good the network has become."""

from gpumlp.training.trainer import EpochReport, Trainer

__all__ = ["EpochReport", "Trainer"]
