"""The backends that run kernels: compiled for the processor, checked, on a device."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from checked.machine import CheckedBackend, Machine, reason_to_skip
from support import FLOATS, directions, examples

from gpumlp import backend as backends
from gpumlp.backend import Backend
from gpumlp.backend.host import native
from gpumlp.backend.kernels import template_types
from gpumlp.errors import GpumlpError
from gpumlp.ops import RECORDS


@pytest.fixture(scope="session")
def machine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """The checked form of the kernels. What the tests that were chosen will ask for is compiled ahead of them."""
    if reason := reason_to_skip():
        pytest.skip(reason)
    kept = getattr(request.config, "cache", None)
    made = Machine(kept.mkdir("checked") if kept else tmp_path_factory.mktemp("checked"))
    specs_of = (getattr(item, "callspec", None) for item in request.session.items)
    chosen = {spec.params.get("name") for spec in specs_of if spec is not None}
    for name, direction in directions():
        made_for = RECORDS[name].directions[direction]
        for dtype in FLOATS if name in chosen else ():
            for inputs, params in examples(RECORDS[name], direction, 3, 5, dtype):
                specs = made_for.specs(*inputs, **params)
                outputs = [None if spec is None else np.empty(*spec) for spec in specs]
                if types := template_types(made_for, inputs, outputs):
                    made.ask(RECORDS[name], types)
    yield made
    made.close()


@pytest.fixture(
    scope="session", params=["native", "native in parts", "checked", pytest.param("cupy", marks=pytest.mark.gpu)]
)
def kernels(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """Each backend that runs kernels; skipped, with the reason, where this machine does not have it."""
    if request.param == "checked":
        yield CheckedBackend(request.getfixturevalue("machine"))
        return
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "native in parts":
            patch.setattr(native, "PART_ELEMENTS", 64)
        try:
            made = backends.get(request.param.split()[0])
        except GpumlpError as error:
            pytest.skip(str(error))
        yield made
