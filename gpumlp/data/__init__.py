"""Data: files to arrays. Sources are read, rows divided, columns encoded by what the training rows say."""

from gpumlp.data.dataset import Dataset, EncodedRows
from gpumlp.data.encoder import Encoder
from gpumlp.data.encoding.columns import News, remarks_on
from gpumlp.data.encoding.features import Features
from gpumlp.data.encoding.scaling import SCALINGS
from gpumlp.data.encoding.targets import Goal
from gpumlp.data.encoding.transforms import TRANSFORMS
from gpumlp.data.images import MIN_SIDE, copies_moved_by, moved, side_of
from gpumlp.data.packed.blocks import PackedRows
from gpumlp.data.packed.packs import Packs, key_of
from gpumlp.data.preparation import Divided, Prepared, prepare, prepare_files
from gpumlp.data.roles import MisfitError, MisfitProblems, Target, misfits
from gpumlp.data.source.arrays import ArrayTable
from gpumlp.data.source.cache import SourceCache
from gpumlp.data.source.cells import FLOAT32_MAX, FLOAT32_TINY, USUAL_MISSING, Missing
from gpumlp.data.source.delimited import read_bytes, read_lines, stream_blocks
from gpumlp.data.source.dialect import DECIMALS, QUOTES, Dialect, is_encoding, is_separator
from gpumlp.data.source.files import Files
from gpumlp.data.source.files import all_files as files_of
from gpumlp.data.source.frame import Frame
from gpumlp.data.source.kinds import Kind
from gpumlp.data.source.query import query_files
from gpumlp.data.source.read import ENDINGS, Source, count_of, in_parts, read, read_blocks, read_start
from gpumlp.data.source.rows import rows_of, with_columns
from gpumlp.data.splits import Fold
from gpumlp.data.survey import ColumnReport, number_formats, survey

__all__ = [
    "DECIMALS",
    "ENDINGS",
    "FLOAT32_MAX",
    "FLOAT32_TINY",
    "MIN_SIDE",
    "QUOTES",
    "SCALINGS",
    "TRANSFORMS",
    "USUAL_MISSING",
    "ArrayTable",
    "ColumnReport",
    "Dataset",
    "Dialect",
    "Divided",
    "EncodedRows",
    "Encoder",
    "Features",
    "Files",
    "Fold",
    "Frame",
    "Goal",
    "Kind",
    "MisfitError",
    "MisfitProblems",
    "Missing",
    "News",
    "PackedRows",
    "Packs",
    "Prepared",
    "Source",
    "SourceCache",
    "Target",
    "copies_moved_by",
    "count_of",
    "files_of",
    "in_parts",
    "is_encoding",
    "is_separator",
    "key_of",
    "misfits",
    "moved",
    "number_formats",
    "prepare",
    "prepare_files",
    "query_files",
    "read",
    "read_blocks",
    "read_bytes",
    "read_lines",
    "read_start",
    "remarks_on",
    "rows_of",
    "side_of",
    "stream_blocks",
    "survey",
    "with_columns",
]
