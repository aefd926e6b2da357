"""Several runs that belong together: the folds of a cross-validation, the points of a sweep, and how they compare."""

from gpumlp.sweep.cv import cross_validate
from gpumlp.sweep.folder import PlanFolder, Template

__all__ = ["PlanFolder", "Template", "cross_validate"]
