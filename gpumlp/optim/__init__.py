"""Optimizers and learning-rate schedules."""

from gpumlp.optim.optimizers import OPTIMIZERS, Optimizer, OptimizerSpec
from gpumlp.optim.schedules import FACTORS, SCHEDULES, Schedule, ScheduleSpec

__all__ = ["FACTORS", "OPTIMIZERS", "SCHEDULES", "Optimizer", "OptimizerSpec", "Schedule", "ScheduleSpec"]
