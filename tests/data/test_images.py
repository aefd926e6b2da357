"""Images moved by some pixels: which rows they are, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ranks.threads import by_threads
from scipy import ndimage

from gpumlp.config import Loaded, configure
from gpumlp.data import MIN_SIDE, Dataset, Features, copies_moved_by, moved, side_of
from gpumlp.errors import ConfigError, DataError, RunError
from gpumlp.runs import Listener, train
from gpumlp.training import build as build_module
from gpumlp.training.build import backend_of, build, load_data
from gpumlp.training.device_data import DeviceData
from gpumlp.training.members import loop_over


@pytest.mark.parametrize("pixels", [1, 2, 4])
def test_every_row_is_followed_by_itself_moved(pixels: int) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(1, 256, (3, 5, 5)).astype(np.uint8)
    rows = Dataset(images.reshape(3, 25), np.arange(3, dtype=np.int32), np.array([0.5, 0.25, 0.75], np.float32))
    found = moved(rows, pixels)
    steps = [(0, 0)]
    for by in range(1, pixels + 1):
        steps += [(by, 0), (-by, 0), (0, by), (0, -by)]
    wanted = np.concatenate([ndimage.shift(images, (0, *step), order=0) for step in steps])
    assert len(found) == 3 * copies_moved_by(pixels)
    np.testing.assert_array_equal(found.inputs, wanted.reshape(-1, 25))
    np.testing.assert_array_equal(found.targets, np.tile([0, 1, 2], len(steps)))
    np.testing.assert_array_equal(found.weights, np.tile(rows.weights, len(steps)))
    assert found.inputs.dtype == np.uint8


def test_numbers_of_several_targets_go_with_their_row() -> None:
    targets = np.arange(6, dtype=np.float32).reshape(3, 2)
    found = moved(Dataset(np.ones((3, 4), np.uint8), targets, None), 1)
    np.testing.assert_array_equal(found.targets, np.tile(targets, (5, 1)))
    assert found.weights is None


@pytest.mark.parametrize(
    ("shape", "dtype", "side"),
    [
        ((7, 7), np.uint8, 7),
        ((7, 7, 1), np.uint8, 7),
        ((1, 7, 7), np.uint8, 7),
        ((7, 7), np.float32, None),
        ((5, 10), np.uint8, None),
        ((8, 8, 4), np.uint8, None),
        ((4, 8, 8), np.uint8, None),
        ((4, 16), np.uint8, None),
        ((1, 49), np.uint8, None),
    ],
)
def test_images_are_one_square_plane_of_bytes(shape: tuple[int, ...], dtype: type, side: int | None) -> None:
    rows = Dataset(Features.of_array(np.ones((2, math.prod(shape)), dtype), shape), None, None)
    assert [side_of(rows), side_of(rows, flat=True), side_of(rows.take(slice(1)))] == [side] * 3


def test_flat_rows_are_images_for_whoever_says_so() -> None:
    rows = Dataset(np.ones((2, 49), np.uint8), None, None)
    assert (side_of(rows), side_of(rows, flat=True)) == (None, 7)
    assert side_of(Dataset(np.ones((2, 50), np.uint8), None, None), flat=True) is None


def loaded_of(folder: Path, shape: tuple[int, ...], dtype: type = np.uint8, **more: Any) -> Loaded:
    """Return settings of 40 rows of two classes, half of them to train on."""
    rng = np.random.default_rng(0)
    np.savez(folder / "rows.npz", x=rng.integers(0, 256, (40, *shape)).astype(dtype), y=np.arange(40) % 2)
    split = {"validation": 0.25, "test": 0.25}
    data = {"train": "rows.npz", "target": "y", "folder": str(folder), "split": split, **more.pop("data", {})}
    training = {"epochs": 2, "batch_size": 16}
    training |= {name: more.pop(name) for name in ("shift", "checkpoint_every") if name in more}
    return configure(task="classification", data=data, training=training, model={"hidden": [4]}, **more)


@pytest.mark.parametrize("more", [{}, {"members": 2}], ids=["one", "members"])
def test_training_on_them_is_training_on_these_rows(tmp_path: Path, more: dict[str, Any]) -> None:
    loaded, plain = (loaded_of(tmp_path, (9,), shift=shift, backend="numpy", **more) for shift in (1, 0))
    data = load_data(loaded)
    given = replace(data, train=moved(data.train.some(), 1))
    found, wanted = build(loaded.settings, data), build(plain.settings, given)
    assert any(
        "100 training rows: rows of 9 bytes, as 3 x 3 images, each also moved by up to 1 pixel (" in note
        for note in found.notes
    )
    loops = [loop_over(parts) for parts in (found, wanted)]
    for loop in loops:
        assert list(loop)
    for name, array in wanted.model.arrays().items():
        np.testing.assert_array_equal(found.model.arrays()[name], array)
    one, other = (loop.measure() for loop in loops)
    assert one["test"] == other["test"]
    assert one["train"] != other["train"]  # the rows as they are


@pytest.mark.parametrize(
    ("shift", "shape", "rows", "note"),
    [
        ("auto", (MIN_SIDE, MIN_SIDE), 100, "100 training rows: 16 x 16 images, each also moved by up to 1 pixel"),
        ("auto", (MIN_SIDE - 1, MIN_SIDE - 1), 20, "15 x 15 images are not moved, since they are smaller"),
        ("auto", (MIN_SIDE * MIN_SIDE,), 20, "rows of 256 bytes are not moved; if they are 16 x 16 images, set"),
        ("auto", (300,), 20, "rows of 300 inputs are not square images of one byte a pixel in memory, and not moved"),
        ("auto", (16, 16, 4), 20, "rows of shape (16, 16, 4) are not square images of one byte a pixel in memory"),
        ("auto", (8, 32), 20, "rows of shape (8, 32) are not square images"),
        (2, (3, 3, 1), 180, "180 training rows: 3 x 3 images, each also moved by up to 2 pixels"),
        (0, (16, 16), 20, ""),
    ],
)
def test_auto_moves_what_is_known_to_be_images(
    tmp_path: Path, shift: Any, shape: tuple[int, ...], rows: int, note: str
) -> None:
    loaded = loaded_of(tmp_path, shape, shift=shift)
    parts = build(loaded.settings, load_data(loaded))
    assert (parts.trainer.rows, parts.shift) == (rows, {20: 0, 100: 1, 180: 2}[rows])
    assert [note in each for each in parts.notes if "training.shift" in each] == [True] * bool(note)
    assert not any("dropout" in each for each in parts.notes)


def test_unmoved_rows_of_the_preset_are_told_the_better_dropout(tmp_path: Path) -> None:
    notes = {}
    for shift in ("auto", 0):
        loaded = loaded_of(tmp_path, (256,), shift=shift, preset="images")
        notes[shift] = [each for each in build(loaded.settings, load_data(loaded)).notes if "dropout 0.4" in each]
        assert loaded.settings.model.blocks[0].dropout == (0.2 if shift else 0.4)
    assert [len(each) for each in notes.values()] == [1, 0]


def test_memory_counts_all_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = loaded_of(tmp_path, (16, 16), shift="auto", backend="numpy")
    data = load_data(loaded)
    backend, counted, require = backend_of(loaded.settings), [], build_module.require_memory

    def counting(*arguments: Any, **more: int) -> None:
        counted.append(arguments[-1])
        require(*arguments, **more)

    monkeypatch.setattr(build_module, "require_memory", counting)
    parts = build(loaded.settings, data, backend)
    loop = loop_over(parts)
    assert list(loop)
    loop.measure()
    held = {id(data.train.features.stored): data.train.nbytes}  # the rows as they are, in host memory
    for rows in parts.on_device.values():
        assert isinstance(rows, DeviceData)
        for array in rows.arrays:
            if array is not None:
                owner = array if array.base is None else array.base
                held[id(owner)] = owner.nbytes
    assert {"train", "validation", "test"} <= parts.on_device.keys()
    assert sum(held.values()) <= max(counted) <= 1.02 * sum(held.values())

    room = max(counted) - 1
    for owner, name, value in (
        (type(backend), "memory", property(lambda self: room)),
        (build_module, "host_memory", lambda: room),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, value)
            still = build(loaded.settings, data, backend)
            assert (still.shift, still.trainer.rows) == (0, 20)
            assert any("16 x 16 images as they are and moved take" in each for each in still.notes)
            asked = loaded_of(tmp_path, (16, 16), shift=1, backend="numpy")
            with pytest.raises(ConfigError, match=r"too much for this machine") as caught:
                build(asked.settings, data, backend)
            assert (caught.value.where, caught.value.hint) == ("training.shift", "set shift: 0")


class Interrupting(Listener):
    """Ends a run as a kill does, in the middle of its second epoch."""

    steps = 0

    def batch(self, done: int, of: int) -> None:
        self.steps += 1
        if self.steps == of + 3:
            raise KeyboardInterrupt


def test_what_auto_came_to_stays_when_a_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    loaded = loaded_of(tmp_path, (16, 16), shift="auto", checkpoint_every=2, backend="numpy")
    train(loaded, whole)
    with pytest.raises(KeyboardInterrupt):
        train(loaded, parted, listener=Interrupting())
    assert list((parted / "checkpoints").iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(build_module, "host_memory", lambda: 0)
        with pytest.raises(ConfigError, match=r"training\.shift"):
            train(loaded, parted, resume=True)
    train(loaded, parted, resume=True)
    weights = [folder / "model" / "weights.safetensors" for folder in (whole, parted)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_ranks_that_differ_in_it_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, room = loaded_of(tmp_path, (16, 16), shift="auto", backend="numpy"), iter((0, None))
    monkeypatch.setattr(build_module, "host_memory", lambda: next(room))
    for error in by_threads(2, lambda ranks: train(loaded, tmp_path / "run", ranks=ranks)):
        assert isinstance(error, RunError)
        assert "rank 1 has another training.shift" in str(error)


@pytest.mark.parametrize(
    ("shape", "dtype", "more", "message"),
    [
        ((10,), np.uint8, {}, "rows of 10 inputs are not square images of one byte a pixel in memory"),
        ((9,), np.float32, {}, "rows of 9 inputs are not square images"),
        ((4,), np.uint8, {}, "images of 2 x 2 pixels cannot be moved by 2"),
        ((9,), np.uint8, {"pack": {"window": 8}}, "rows on disk are not square images of one byte a pixel in memory"),
        ((8, 8, 4), np.uint8, {}, "rows of shape (8, 8, 4) are not square images of one byte a pixel in memory"),
    ],
)
def test_other_rows_are_refused(
    tmp_path: Path, shape: tuple[int, ...], dtype: type, more: dict[str, Any], message: str
) -> None:
    if more:
        more["pack"]["folder"] = str(tmp_path / "packs")
    loaded = loaded_of(tmp_path, shape, dtype, shift=2, data=more)
    with pytest.raises(DataError, match=r"training\.shift") as caught:
        load_data(loaded)
    assert message in str(caught.value)
    assert "set shift: 0, or auto" in str(caught.value)
