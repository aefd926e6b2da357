"""Optimizers and learning-rate schedules."""

from gpumlp.optim.optimizers import OPTIMIZERS, Optimizer, OptimizerSpec
from gpumlp.optim.schedules import SCHEDULES, Schedule, ScheduleSpec

__all__ = ["OPTIMIZERS", "SCHEDULES", "Optimizer", "OptimizerSpec", "Schedule", "ScheduleSpec"]
