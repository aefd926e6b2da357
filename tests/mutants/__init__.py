"""Bugs planted one by one in a copy of the project, and whether the tests see them: ``python -m tests.mutants``."""
