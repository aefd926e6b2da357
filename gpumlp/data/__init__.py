"""Data: files to arrays. Sources are read, rows divided, columns encoded by what the training rows say."""

from gpumlp.data.arrays import ArrayTable
from gpumlp.data.cells import DEFAULT_MISSING
from gpumlp.data.dataset import Dataset, Encoder, Prepared, Task, prepare
from gpumlp.data.delimited import Table, read_lines
from gpumlp.data.scaling import SCALINGS
from gpumlp.data.sources import ENDINGS, Source, read

__all__ = [
    "DEFAULT_MISSING",
    "ENDINGS",
    "SCALINGS",
    "ArrayTable",
    "Dataset",
    "Encoder",
    "Prepared",
    "Source",
    "Table",
    "Task",
    "prepare",
    "read",
    "read_lines",
]
