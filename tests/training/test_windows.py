"""Training on rows that are on disk: the same bits as in memory in the same order, from any step on, on any rank."""

from __future__ import annotations

import copy
import gc
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ranks.threads import by_threads
from support import BACKENDS

from gpumlp import backend as backends
from gpumlp.backend import Backend
from gpumlp.data import Dataset, Features, PackedRows
from gpumlp.data.packed import blocks as blocks_module
from gpumlp.data.packed.blocks import BlockLayout, Writer
from gpumlp.data.packed.packs import _dealt
from gpumlp.errors import CaptureError, DataError
from gpumlp.nn import BatchNorm, Dense, Dropout, Loss, Sequential
from gpumlp.ops import batches
from gpumlp.ops.random import permute
from gpumlp.optim import Optimizer, Schedule
from gpumlp.ranks import Ranks
from gpumlp.seeds import ORDER, PACK, generator
from gpumlp.training.shards import ranges
from gpumlp.training.trainer import Trainer
from gpumlp.training.windows import Cut, Windows

BLOCK = 8


def dataset(rows: int, kind: str = "numbers") -> Dataset:
    """Return random rows; the first number of each is its place."""
    random = np.random.default_rng(3)
    weights = random.random(rows, np.float32) if "weights" in kind else None
    targets: Any = random.integers(0, 3, rows).astype(np.int32)
    if "bytes" in kind:
        return Dataset(random.integers(0, 256, (rows, 5), np.uint8), targets, weights)
    x = random.standard_normal((rows, 5)).astype(np.float32)
    x[:, 0] = np.arange(rows)
    if "categories" not in kind:
        return Dataset(x, targets, weights)
    codes = random.integers(2, 6, (rows, 2)).astype(np.float32)
    return Dataset(Features(np.ascontiguousarray(np.hstack([x[:, :2], codes])), 2, 5), targets, weights)


def on_disk(folder: Path, data: Dataset, name: str = "train") -> PackedRows:
    """Write rows to blocks as they come."""
    blocks_module.BLOCK_ROWS, before = BLOCK, blocks_module.BLOCK_ROWS
    try:
        layout = BlockLayout.of(len(data), data)
    finally:
        blocks_module.BLOCK_ROWS = before
    writer = Writer(folder, name, layout)
    writer.add(data)
    return PackedRows(folder, name, layout, writer.checksums)


def trainer(
    data: Any,
    *,
    batch: int = 6,
    window: int | None = None,
    shards: int = 1,
    ranks: Ranks | None = None,
    backend: Backend | None = None,
    dtype: Any = np.float32,
    **more: Any,
) -> Trainer:
    layers = [Dense(8, "tanh"), Dropout(0.2), BatchNorm(), Dense(3, "softmax")]
    model = Sequential(layers).build(5, backend=backend or Backend(), dtype=dtype)
    loss = Loss("cross_entropy", model)
    optimizer = Optimizer("adam", model.parameters, model.context.clock, clip_norm=1.0, averaging=0.9)
    schedule = Schedule("cosine", learning_rate=1e-2, warmup=0.1)
    scale = 1 / 255 if data.features.stored.dtype == np.uint8 else 1.0
    given = {"epochs": 3, "batch_size": batch, "input_scale": scale, "shards": shards, "ranks": ranks}
    return Trainer(model, loss, optimizer, schedule, data, window=window, **{**given, **more})


def bits(made: Trainer) -> dict[str, bytes]:
    arrays = made.model.arrays() | {k: made.backend.to_host(v) for k, v in made.optimizer.state.items()}
    return {name: array.tobytes() for name, array in arrays.items()}


def rows_of_block(rows: int, block: int, number: int, key: int) -> np.ndarray[Any, Any]:
    here = np.arange(block * BLOCK, min((block + 1) * BLOCK, rows))
    return here[permute(np, np.arange(len(here)), len(here), np.array([number]), key)]


def sequence(rows: int, batch: int, window: int, shards: int, epoch: int, last: int) -> np.ndarray[Any, Any]:
    """Return the rows that an epoch visits, in their order, worked out by the definition."""
    key, inner = (int(generator(0, PACK, i).integers(2**32)) for i in (1, 2))
    order = int(generator(0, ORDER).integers(2**32))
    count, together = -(-rows // BLOCK), max(1, window // batch)
    turn = permute(np, np.arange(count), count, np.array([epoch]), key)
    line = np.concatenate([rows_of_block(rows, b, epoch * count + b, inner) for b in turn])[:last]
    found, windows = [], len(range(0, last, together * batch))
    for number in range(windows):
        here = line[number * together * batch :][: together * batch]
        sizes = [len(here[start : start + batch]) for start in range(0, len(here), batch)]
        parts = [ranges(size, -(-batch // shards), shards) for size in sizes]
        drawn, start = [], 0
        for shard in range(shards):
            size = sum(len(part[shard]) for part in parts)
            own = here[start : start + size]
            start += size
            if size:
                spread = (order + shard * 0x9E3779B9) & 0xFFFFFFFF
                own = own[permute(np, np.arange(size), size, np.array([epoch * windows + number]), spread)]
            drawn.append(own)
        taken = [0] * shards
        for part in parts:
            for shard in range(shards):
                found.append(drawn[shard][taken[shard] :][: len(part[shard])])
                taken[shard] += len(part[shard])
    return np.concatenate(found)


@pytest.mark.parametrize(
    ("kind", "rows", "batch", "window", "shards", "drop_last"),
    [
        ("numbers", 50, 6, 18, 1, False),
        ("bytes, weights", 50, 6, 18, 1, False),
        ("categories, weights", 50, 6, 18, 1, True),
        ("numbers", 48, 8, 16, 1, False),
        ("numbers", 50, 6, 5, 1, False),
        ("categories", 50, 6, 1000, 1, False),
        ("numbers", 7, 16, 16, 1, False),
        ("categories, weights", 50, 7, 21, 4, False),
        ("numbers, weights", 51, 8, 24, 2, False),
    ],
)
def test_blocks_train_as_memory_does_in_the_same_order(
    kind: str,
    rows: int,
    batch: int,
    window: int,
    shards: int,
    drop_last: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data, size = dataset(rows, kind), min(batch, rows)
    last = rows - rows % size if drop_last else rows
    blocks = on_disk(tmp_path, data)
    given = {"batch": batch, "shards": shards, "drop_last": drop_last}
    packed = trainer(blocks, window=window, **given)
    reports = [packed.run_epoch() for _ in range(3)]
    orders = [sequence(rows, size, window, shards, epoch, last) for epoch in range(3)]
    for number, order in enumerate(orders):
        assert len(set(order.tolist())) == last
        assert number == 0 or rows <= batch or order.tolist() != orders[0].tolist()
    monkeypatch.setattr(batches, "permute", lambda xp, positions, n, epoch, key: orders[int(epoch[0])][positions])
    memory = trainer(data, **given)
    assert [memory.run_epoch().loss for _ in range(3)] == [report.loss for report in reports if report]  # type: ignore[union-attr]
    assert bits(memory) == bits(packed)


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_draws_from_a_window_as_from_a_dataset(backend: str, tmp_path: Path) -> None:
    """Where a window is an epoch, its rows are a dataset."""
    dtype = "float32"
    if backend == "numpy":
        pytest.importorskip("ml_dtypes")
        dtype = "bfloat16"
    data = dataset(50, "categories, weights")
    packed = trainer(on_disk(tmp_path, data), window=50, backend=backends.get(backend), dtype=dtype)
    assert isinstance(packed.data, Windows)
    turn, inner = packed.data.order(0), packed.data._key_of_blocks
    line = np.concatenate([rows_of_block(50, b, b, inner) for b in turn])
    memory = trainer(data.take(line), backend=backends.get(backend), dtype=dtype)
    packed.run_epoch()
    memory.run_epoch()
    assert bits(memory) == bits(packed)


@pytest.mark.parametrize(("batch", "window"), [(6, 18), (8, 16), (5, 5)])
def test_each_block_is_read_once_an_epoch(batch: int, window: int, tmp_path: Path) -> None:
    blocks = on_disk(tmp_path, dataset(50))
    made, whole = trainer(blocks, batch=batch, window=window), 50 * blocks.layout.row_bytes
    for epoch in range(3):
        made.run_epoch()
        made.data._pool.submit(lambda: None).result()  # type: ignore[union-attr]
        ahead = blocks.bytes_read - (epoch + 1) * whole
        first = -(-window // batch) * batch // BLOCK + 2  # blocks that the next epoch begins with, if there is one
        assert 0 <= ahead <= (first * BLOCK * blocks.layout.row_bytes if epoch < 2 else 0)


def test_windows_of_a_sorted_file_have_the_shares_of_all_rows(tmp_path: Path) -> None:
    """Also where they are smaller than a block."""
    data = dataset(4096)
    data = Dataset(data.features, np.sort(np.arange(4096) % 2).astype(np.int32), None)
    layout = replace(BlockLayout.of(4096, data), size=64)
    writer = Writer(tmp_path, "train", layout, _dealt(layout, 0))
    for start in range(0, 4096, 1024):
        writer.add(data.take(slice(start, start + 1024)))
    made = trainer(PackedRows(tmp_path, "train", layout, writer.checksums), batch=32, window=32).data
    assert isinstance(made, Windows)
    for batch in range(128):
        made.go_to(0, batch)
        assert 0.1 < made._backend.to_host(made._arrays[1]).mean() < 0.9


@pytest.mark.parametrize("batch", range(9))
def test_training_goes_on_from_any_step(batch: int, tmp_path: Path) -> None:
    def go(made: Trainer, epochs: int) -> dict[str, bytes]:
        for _ in range(epochs):
            made.run_epoch()
        return bits(made)

    blocks = on_disk(tmp_path, dataset(50))
    wanted = go(trainer(blocks, window=18), 3)
    first, second = trainer(blocks, window=18), trainer(blocks, window=18)
    first.run_epoch()
    while first.batch < batch:
        first.advance(until=batch)
    first.pause()
    second.model.load(first.model.arrays())
    for name, target in second.optimizer.state.items():
        second.backend.write(target, first.backend.to_host(first.optimizer.state[name]))
    second.go_to(first.epoch, first.batch, 0.0, first.backend.to_host(first.totals))
    assert go(second, 2) == wanted
    second.go_to(0, 0, 0.0, np.zeros(4))  # and back again
    assert second.run_epoch() is not None


def test_a_copy_made_before_the_first_step_reads_by_itself(tmp_path: Path) -> None:
    first = trainer(on_disk(tmp_path, dataset(50)), window=18)
    twin = copy.deepcopy(first)
    for made in (first, twin):
        made.run_epoch()
    assert bits(twin) == bits(first)
    with pytest.raises(CaptureError, match="cannot be copied"):
        copy.deepcopy(first)


def test_ranks_read_their_own_rows_and_change_no_bit(tmp_path: Path) -> None:
    data, parts = dataset(400, "weights"), list[PackedRows]()
    on_disk(tmp_path, data)

    def train(ranks: Ranks | None) -> dict[str, bytes]:
        folder = tmp_path / ("alone" if ranks is None else f"{ranks.number}-of-{ranks.size}")
        folder.mkdir()
        blocks = on_disk(folder, data)
        made = trainer(blocks, batch=32, window=320, shards=4, ranks=ranks, epochs=2)
        made.run_epoch()
        made.run_epoch()
        parts.append(blocks)
        return bits(made)

    wanted, whole = train(None), 400 * parts[0].layout.row_bytes * 2
    for size in (2, 4):
        parts.clear()
        assert by_threads(size, train) == [wanted] * size
        for blocks in parts:
            assert blocks.bytes_read < whole * (1 / size + 0.15)


def damaged(blocks: PackedRows, folder: Path) -> None:
    path = folder / "train.targets"
    content = bytearray(path.read_bytes())
    content[BLOCK * 4 * 3] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("together", [False, True])
def test_a_damaged_block_ends_training_with_its_place(together: bool, tmp_path: Path) -> None:
    blocks = on_disk(tmp_path, dataset(50))
    damaged(blocks, tmp_path)
    made = trainer(blocks, window=50 if together else 6)
    with pytest.raises(DataError, match=r"train\.targets: block 4 of 7 is damaged"):
        made.run_epoch()
    if not together:
        assert made.batch > 0 or made.data._here is None  # type: ignore[union-attr]


def test_no_thread_stays(tmp_path: Path) -> None:
    before = threading.active_count()
    made = trainer(on_disk(tmp_path, dataset(50)), window=12)
    made.run_epoch()
    del made
    gc.collect()
    for thread in threading.enumerate():
        if thread.name.startswith("ThreadPool"):
            thread.join(5)
    assert threading.active_count() <= before


@pytest.mark.parametrize("shards", [1, 2, 4])
def test_windows_have_whole_batches(shards: int) -> None:
    cut = Cut(rows=103, batch_size=10, batches=11, together=3, shards=shards)
    assert cut.windows == 4
    places: list[int] = []
    for window in range(cut.windows):
        parts = cut.cut(window)
        assert len(parts) == shards
        places += [place for part in parts for place in part]
        assert sum(map(len, parts)) == (30 if window < 3 else 13)
    assert places == list(range(103))


def test_steps_of_several_networks_in_one_launch_are_those_of_the_window(tmp_path: Path) -> None:
    class InOneLaunch(Backend):
        def side_by_side(self, plans: Any) -> Any:
            return lambda count: [plan() for plan in plans for _ in range(count)]

    data = on_disk(tmp_path, dataset(44))
    alone = [trainer(data, window=18, seed=seed) for seed in (0, 1)]
    both = [trainer(data, window=18, seed=seed, backend=InOneLaunch()) for seed in (0, 1)]
    for each in alone:
        for _ in range(3):
            each.run_epoch()
    first, *others = both
    for _ in range(3):
        while first.batch < first.batches:
            first.advance(beside=others)
        for each in both:
            each.end_epoch()
    assert list(map(bits, both)) == list(map(bits, alone))
