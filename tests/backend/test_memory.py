"""Memory of the host: where arrays begin, and what a captured step lends again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpumlp.autodiff import GradientTape, Tensor
from gpumlp.backend import NativeBackend
from gpumlp.backend.host import builder
from gpumlp.backend.host.memory import Pool, aligned, owners, shaped
from gpumlp.backend.kernels import address
from gpumlp.nn import Dense, Loss, Sequential


def place(array: Any) -> int:
    return address(np.asarray(array))


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 1 << 20])
def test_memory_begins_with_a_line(size: int) -> None:
    block = aligned(size)
    assert block.size == size
    assert size == 0 or place(block) % 64 == 0


@pytest.mark.parametrize("size", [4 << 20, (4 << 20) + 1, 7 << 20])
def test_much_memory_begins_with_a_large_page(size: int) -> None:
    block = aligned(size)
    assert block.size == size
    assert place(block) % (2 << 20) == 0


def test_what_is_held_is_not_lent_again() -> None:
    pool = Pool()
    first, second = pool.lend(640), pool.lend(640)
    assert place(first) != place(second)
    held = shaped(first, (10, 16), np.float32).T[2:4]
    where = place(first)
    del first
    third = pool.lend(640)
    assert place(third) != where  # a view of a view holds it still
    del held
    assert place(pool.lend(640)) == where


def test_the_smallest_block_that_fits_is_lent() -> None:
    pool = Pool()
    sizes = (3000, 1000, 1200, 100)
    blocks = [pool.lend(size) for size in sizes]
    places = dict(zip(sizes, map(place, blocks), strict=True))
    del blocks
    kept = [pool.lend(size) for size in (900, 1100)]
    assert list(map(place, kept)) == [places[1000], places[1200]]
    assert place(pool.lend(1000)) not in places.values()  # 3000 is too large to be wasted on it
    assert kept[0].size == 900


def test_owners_keep_the_memory_and_let_the_arrays_go() -> None:
    pool = Pool()
    lent = pool.lend(256)
    where, kept = place(lent), owners([shaped(lent, (64,), np.float32)[3:], None, np.ones(3)[1:]])
    lent[...] = 7
    del lent
    again = pool.lend(256)
    assert place(again) == where
    assert again.tolist() == [7] * 256
    assert np.shares_memory(kept[0], again)
    assert kept[1] is None
    np.testing.assert_array_equal(kept[2], np.ones(3))


@pytest.mark.skipif(builder.compiler() is None, reason="no C++ compiler: install g++ or clang")
def test_gradients_of_many_layers_share_the_memory_of_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    monkeypatch.setattr(
        "gpumlp.backend.host.memory.aligned", lambda size: made.append(size) or np.empty(size, np.uint8)
    )
    depth, batch, width = 12, 64, 32
    backend = NativeBackend()
    model = Sequential([*[Dense(width, "relu") for _ in range(depth)], Dense(3, "softmax")]).build(8, backend=backend)
    loss, rng = Loss("cross_entropy", model), np.random.default_rng(0)
    x, y = rng.standard_normal((batch, 8), np.float32), rng.integers(0, 3, batch).astype(np.int32)

    def step(x: Any, y: Any) -> None:
        with GradientTape() as tape:
            value, _ = loss(model.forward(x, training=True), y)
        model.parameters.collect(tape, value)

    plan = backend.capture(step, Tensor(x, backend), Tensor(y, backend))
    layer = batch * width * 4
    assert made.count(layer) <= depth + 4  # each activation, and not each gradient
    captured = model.parameters.gradients.copy()
    for view in model.parameters.views:
        view.fill(np.nan)
    plan(x, y)
    assert model.parameters.gradients.tobytes() == captured.tobytes()
    other = rng.standard_normal((batch, 8), np.float32)
    plan(other, y)
    replayed = model.parameters.gradients.copy()
    step(Tensor(other, backend), Tensor(y, backend))
    assert model.parameters.gradients.tobytes() == replayed.tobytes()
