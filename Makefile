# Everything a developer runs. `make check` is what CI runs.
PYTHON ?= $(if $(wildcard .venv/bin/python),.venv/bin/python,python3)

.PHONY: check lint types test bench gpu clean

check: lint types test

lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

types:
	$(PYTHON) -m mypy

test:
	$(PYTHON) -m pytest

bench:
	$(PYTHON) benchmarks/capture.py

# This version has no backend for a GPU, so there is nothing that could run on one yet.
gpu:
	@echo "gpumlp $$($(PYTHON) -c 'import gpumlp; print(gpumlp.__version__)') computes on the CPU only: nothing to run on a GPU"

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
