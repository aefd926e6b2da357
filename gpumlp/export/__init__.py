"""Exporting a run as a file that others use without gpumlp: a Python script, ONNX, safetensors."""

from gpumlp.export.files import FORMATS, Agreement, export, format_of

__all__ = ["FORMATS", "Agreement", "export", "format_of"]
