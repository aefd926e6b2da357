# Everything a developer runs. `make check` is what CI runs.
PYTHON ?= $(if $(wildcard .venv/bin/python),.venv/bin/python,python3)

.PHONY: check lint types test bench gpu wheel clean

check: lint types test

lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

types:
	$(PYTHON) -m mypy

test:
	$(PYTHON) -m pytest -n auto --dist loadfile --no-loadscope-reorder $(PYTEST_FLAGS)

bench:
	$(PYTHON) benchmarks/capture.py

# Everything that only a machine with a GPU can show; a report in benchmarks/results, within nine minutes.
gpu:
	-$(PYTHON) -m gpumlp doctor
	$(PYTHON) benchmarks/gpu.py

# A wheel for x86-64 with compiled kernels, which needs no compiler where it is installed (a few minutes).
wheel:
	$(PYTHON) -m gpumlp.backend.host.prebuild
	$(PYTHON) -m build --wheel

clean:
	rm -rf build dist gpumlp/prebuilt *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
