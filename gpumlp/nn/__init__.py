"""Networks: layers, models, initial weights, losses."""

from gpumlp.nn.ensemble import Ensemble
from gpumlp.nn.initializers import FITTED, INITIALIZERS
from gpumlp.nn.inputs import (
    EMBEDDINGS,
    BinnedEmbedding,
    CategoryTables,
    MissingVectors,
    PeriodicEmbedding,
    ScaledFlags,
    WavesAndBins,
)
from gpumlp.nn.layer import Declared, Equation, Layer
from gpumlp.nn.layers import (
    NORMS,
    PARAMETRIZATIONS,
    STANDARD,
    Activation,
    BatchNorm,
    Clamp,
    Dense,
    Dropout,
    LayerNorm,
    Residual,
)
from gpumlp.nn.losses import LOSSES, Loss
from gpumlp.nn.mlp import MAX_UNITS, NO_NORM, Architecture, Hidden, count_parameters, mlp
from gpumlp.nn.model import Model, Sequential
from gpumlp.nn.parameters import Group, Parameters
from gpumlp.nn.start import fit_start

__all__ = [
    "EMBEDDINGS",
    "FITTED",
    "INITIALIZERS",
    "LOSSES",
    "MAX_UNITS",
    "NORMS",
    "NO_NORM",
    "PARAMETRIZATIONS",
    "STANDARD",
    "Activation",
    "Architecture",
    "BatchNorm",
    "BinnedEmbedding",
    "CategoryTables",
    "Clamp",
    "Declared",
    "Dense",
    "Dropout",
    "Ensemble",
    "Equation",
    "Group",
    "Hidden",
    "Layer",
    "LayerNorm",
    "Loss",
    "MissingVectors",
    "Model",
    "Parameters",
    "PeriodicEmbedding",
    "Residual",
    "ScaledFlags",
    "Sequential",
    "WavesAndBins",
    "count_parameters",
    "fit_start",
    "mlp",
]
