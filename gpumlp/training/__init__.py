"""Training: the parts of a run, the loop over epochs and steps, and how good the network has become."""

from gpumlp.training.loop import Diverged, Epoch, Loop, Step
from gpumlp.training.trainer import EpochReport, Trainer

__all__ = ["Diverged", "Epoch", "EpochReport", "Loop", "Step", "Trainer"]
