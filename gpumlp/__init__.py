"""gpumlp trains multilayer perceptrons: from one YAML file, or in a few lines of Python.

    from gpumlp import configure, load_trained, train      # a whole run: see docs/python.md
    from gpumlp import Dense, GradientTape, Sequential, Variable

Names are imported when they are first used, so ``import gpumlp`` costs nothing and needs no NumPy yet.
Every activation and loss is here under the name of its record: ``gpumlp.tanh(x)``, ``gpumlp.softmax(x)``.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from gpumlp.version import VERSION

if TYPE_CHECKING:
    from gpumlp import convert
    from gpumlp.autodiff import GradientTape, Tensor, Variable, gradcheck
    from gpumlp.config import configure, load
    from gpumlp.nn import Activation, BatchNorm, Dense, Dropout, Layer, LayerNorm, Loss, Model, Parameters
    from gpumlp.optim import Optimizer, Schedule
    from gpumlp.runs import evaluate, fit, load_ensemble, load_trained, plot, train
    from gpumlp.training.compiled import Sequential

__version__ = VERSION

_FROM = {
    "gpumlp.autodiff": (
        "GradientTape Tensor Variable gradcheck abs add argmax clip concat cos custom_gradient div einsum exp expm1 "
        "log log1p log_softmax matmul max maximum mean minimum mul power reshape sign sin split sqrt square stack "
        "stop_gradient sub sum transpose var where"
    ),
    "gpumlp.config": "configure load",
    "gpumlp.nn": "Activation BatchNorm Dense Dropout Layer LayerNorm Loss Model Parameters",
    "gpumlp.optim": "Optimizer Schedule",
    "gpumlp.training.compiled": "Sequential",
    "gpumlp.runs": "evaluate fit load_ensemble load_trained plot train",
}
_MODULES = ("convert",)
_HOME = {name: module for module, names in _FROM.items() for name in names.split()}

__all__ = [*_HOME, *_MODULES]

_CALLED_HERE = {
    "cast": "tensor.astype(dtype)",
    "clip_by_value": "gpumlp.clip",
    "concatenate": "gpumlp.concat",
    "constant": "gpumlp.Tensor",
    "convert_to_tensor": "gpumlp.Tensor",
    "divide": "gpumlp.div",
    "expand_dims": "tensor[:, None]",
    "function": "backend.capture(step, *inputs): docs/graphs.md",
    "gather": "tensor[indices]",
    "multiply": "gpumlp.mul",
    "ones_like": "tensor.ones_like()",
    "pow": "gpumlp.power",
    "reduce_max": "gpumlp.max",
    "reduce_mean": "gpumlp.mean",
    "reduce_sum": "gpumlp.sum",
    "squeeze": "gpumlp.reshape",
    "subtract": "gpumlp.sub",
    "zeros_like": "tensor.zeros_like()",
}
"""What functions of TensorFlow and NumPy are called here, by their names there."""


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"gpumlp.{name}")
    if not name.startswith("_"):
        fused = importlib.import_module("gpumlp.autodiff").FUSED
        if name in fused:
            return fused[name]
    hint = f"; use {_CALLED_HERE[name]}" if name in _CALLED_HERE else ""
    raise AttributeError(f"module 'gpumlp' has no attribute {name!r}{hint}", name=name, obj=sys.modules[__name__])


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *importlib.import_module("gpumlp.autodiff").FUSED})
