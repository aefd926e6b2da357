"""Configuration: one YAML file to validated settings, with the line that each of them came from."""

from gpumlp.config.load import HEADER, Loaded, configure, dump, json_schema, load
from gpumlp.config.presets import PLAIN, PRESETS
from gpumlp.config.settings import WITHOUT_PRESET, Settings, settings_of_member
from gpumlp.config.starter import columns_of, guessed_task, starter
from gpumlp.config.training_settings import ClassificationLoss, EarlyStopping, QuantileLoss, SearchSettings, Training

__all__ = [
    "HEADER",
    "PLAIN",
    "PRESETS",
    "WITHOUT_PRESET",
    "ClassificationLoss",
    "EarlyStopping",
    "Loaded",
    "QuantileLoss",
    "SearchSettings",
    "Settings",
    "Training",
    "columns_of",
    "configure",
    "dump",
    "guessed_task",
    "json_schema",
    "load",
    "settings_of_member",
    "starter",
]
