"""Training in bfloat16 on the fake CuPy: kernels alone, but for products, and what the reference comes to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from backend import test_bfloat16 as narrow
from backend.fake_cupy import Cupy, installed
from gpumlp.backend import Backend, CupyBackend
from gpumlp.backend.host import builder
from gpumlp.data import Dataset
from gpumlp.nn import Activation, BatchNorm, BinnedEmbedding, Dense, Dropout, LayerNorm, Loss, Sequential
from gpumlp.optim import Optimizer, Schedule
from gpumlp.training.trainer import Trainer

pytestmark = pytest.mark.skipif(builder.compiler() is None, reason="no C++ compiler: install g++ or clang")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cupy]:
    with installed(monkeypatch) as module:
        yield module


def trainer(backend: Backend, kind: str, rows: int = 50) -> Trainer:
    rng = np.random.default_rng(3)
    data = Dataset(rng.standard_normal((rows, 5)).astype(np.float32), rng.integers(0, 3, rows).astype(np.int32), None)
    norm: list[Any] = {"layer": [LayerNorm()], "batch": [BatchNorm()]}.get(kind, [])
    embedding = [BinnedEmbedding(5, 4, bins=4)] if kind == "embedding" else []
    first = [*embedding, Dense(16, bias=kind != "batch"), *norm]
    layers = [*first, Activation("relu"), Dropout(0.2), Dense(8, "gelu")]
    model = Sequential([*layers, Dense(3, "softmax")]).build(5, backend=backend, dtype="bfloat16")
    optimizer = Optimizer("adamw", model.parameters, model.context.clock, clip_norm=1.0, averaging=0.9)
    schedule = Schedule("cosine", learning_rate=1e-2, warmup=0.1)
    return Trainer(model, Loss("cross_entropy", model), optimizer, schedule, data, epochs=4, batch_size=8)


@pytest.mark.parametrize("kind", ["none", "layer", "batch", "embedding"])
def test_epochs_are_those_of_the_reference(fake: Cupy, kind: str) -> None:
    on_device, reference = trainer(CupyBackend(), kind), trainer(Backend(), kind)
    host, parameters = on_device.backend.to_host, on_device.model.parameters
    for _ in range(2):
        found, expected = on_device.run_epoch(), reference.run_epoch()
        assert found is not None
        assert expected is not None
        assert found.loss == pytest.approx(expected.loss, abs=2.0**-6)
    shadow, values = host(parameters.shadow), host(parameters.values)
    np.testing.assert_array_equal(shadow.view(np.uint16), values.astype(shadow.dtype).view(np.uint16))
    rows = np.ones((3, 5), np.float32)
    # Where an activation is 0 or not may hang on a rounding, and a batch norm remembers it.
    np.testing.assert_allclose(on_device.model.predict(rows), reference.model.predict(rows), atol=2.0**-5)


@pytest.mark.parametrize("kind", ["none", "layer", "batch", "embedding"])
def test_a_step_has_a_kernel_for_everything_but_products(fake: Cupy, kind: str) -> None:
    names = trainer(CupyBackend(), kind).captured().names()
    own = [name for name in names if not name.startswith(("matmul", "dense_", "cast", "copy"))]
    launched = {launch.kernel for launch in fake.launched}
    assert {"gather_forward", "adam_forward", "softmax_cross_entropy_forward", "accumulate_forward"} <= set(own)
    assert all(any(kernel.startswith(name) for kernel in launched) for name in own)


def test_what_is_asked_of_every_backend_can_be_asked_of_a_device(fake: Cupy) -> None:
    """The tests of narrow kernels bring their arrays to the device and their results back."""
    backend = CupyBackend()
    for name, direction in narrow.DIRECTIONS:
        narrow.test_a_narrow_kernel_agrees_with_the_formula_in_float64(backend, name, direction, (9, 32))
        if name in narrow.SIMPLE:
            narrow.test_a_narrow_kernel_of_simple_arithmetic_leaves_the_bits_of_the_formula(backend, name, direction)
    narrow.test_the_shadow_is_the_parameters_rounded(backend, "adam", 1)
    narrow.test_rounding_is_to_the_nearest_and_of_two_to_the_even(backend)
    assert fake.launched
