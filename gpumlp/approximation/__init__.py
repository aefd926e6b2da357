"""Universal approximation, measured: what small networks reach in the sup norm as they grow wider or deeper."""

from gpumlp.approximation.study import Curve, Fit, Study, study
from gpumlp.approximation.targets import TARGETS, Target, grid, target_of

__all__ = ["TARGETS", "Curve", "Fit", "Study", "Target", "grid", "study", "target_of"]
