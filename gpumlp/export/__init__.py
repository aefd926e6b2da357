"""Exporting a run as a file that others use without gpumlp: a Python script, ONNX, safetensors."""

from gpumlp.export.files import FORMATS, Comparison, export, format_of

__all__ = ["FORMATS", "Comparison", "export", "format_of"]
