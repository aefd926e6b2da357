"""Configuration: one YAML file to validated settings, with the line that each of them came from."""

from gpumlp.config.load import HEADER, Loaded, dump, json_schema, load
from gpumlp.config.settings import ClassificationLoss, EarlyStopping, Settings, Training

__all__ = [
    "HEADER",
    "ClassificationLoss",
    "EarlyStopping",
    "Loaded",
    "Settings",
    "Training",
    "dump",
    "json_schema",
    "load",
]
