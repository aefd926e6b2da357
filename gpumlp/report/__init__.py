"""A report on a model: one HTML file with what it learned from what, how good it is, and how it decides."""

from gpumlp.report.analysis import Rows
from gpumlp.report.page import Section, code, page, paragraph, table, write
from gpumlp.report.sections import of_data, of_history, of_network, of_rows

__all__ = [
    "Rows",
    "Section",
    "code",
    "of_data",
    "of_history",
    "of_network",
    "of_rows",
    "page",
    "paragraph",
    "table",
    "write",
]
