"""Data: files to arrays. Sources are read, rows divided, columns encoded by what the training rows say."""

from gpumlp.data.arrays import ArrayTable
from gpumlp.data.cells import FLOAT32_MAX, FLOAT32_TINY, USUAL_MISSING, Missing
from gpumlp.data.dataset import Dataset, Encoder, Prepared, prepare
from gpumlp.data.delimited import read_bytes, read_lines
from gpumlp.data.dialect import DECIMALS, QUOTES, Dialect, is_encoding, is_separator
from gpumlp.data.roles import MisfitError, MisfitProblems, misfits
from gpumlp.data.scaling import SCALINGS
from gpumlp.data.sources import ENDINGS, Source, read
from gpumlp.data.table import Table

__all__ = [
    "DECIMALS",
    "ENDINGS",
    "FLOAT32_MAX",
    "FLOAT32_TINY",
    "QUOTES",
    "SCALINGS",
    "USUAL_MISSING",
    "ArrayTable",
    "Dataset",
    "Dialect",
    "Encoder",
    "MisfitError",
    "MisfitProblems",
    "Missing",
    "Prepared",
    "Source",
    "Table",
    "is_encoding",
    "is_separator",
    "misfits",
    "prepare",
    "read",
    "read_bytes",
    "read_lines",
]
