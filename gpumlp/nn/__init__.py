"""Networks: layers, models, initial weights, losses."""

from gpumlp.nn.initializers import INITIALIZERS
from gpumlp.nn.layers import Activation, BatchNorm, Dense, Dropout, Layer, LayerNorm
from gpumlp.nn.losses import LOSSES, Loss
from gpumlp.nn.mlp import MAX_UNITS, Hidden, count_parameters, mlp
from gpumlp.nn.model import Model, Sequential
from gpumlp.nn.parameters import Parameters

__all__ = [
    "INITIALIZERS",
    "LOSSES",
    "MAX_UNITS",
    "Activation",
    "BatchNorm",
    "Dense",
    "Dropout",
    "Hidden",
    "Layer",
    "LayerNorm",
    "Loss",
    "Model",
    "Parameters",
    "Sequential",
    "count_parameters",
    "mlp",
]
