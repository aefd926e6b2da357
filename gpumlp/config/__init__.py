"""Configuration: one YAML file to validated settings, with the line that each of them came from."""

from gpumlp.config.load import Loaded, dump, json_schema, load
from gpumlp.config.settings import ClassificationLoss, EarlyStopping, Settings

__all__ = ["ClassificationLoss", "EarlyStopping", "Loaded", "Settings", "dump", "json_schema", "load"]
