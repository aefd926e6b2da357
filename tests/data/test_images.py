"""Images moved by some pixels: which rows they are, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from gpumlp.config import Loaded, configure
from gpumlp.data import MIN_SIDE, Dataset, copies_moved_by, moved, side_of
from gpumlp.errors import DataError
from gpumlp.training.build import build, load_data
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


def test_images_are_square_and_of_bytes() -> None:
    assert side_of(Dataset(np.ones((2, 49), np.uint8), None, None)) == 7
    assert side_of(Dataset(np.ones((2, 50), np.uint8), None, None)) is None
    assert side_of(Dataset(np.ones((2, 49), np.float32), None, None)) is None


def loaded_of(folder: Path, width: int, dtype: type = np.uint8, **more: Any) -> Loaded:
    """Return settings of 40 rows of two classes, half of them to train on."""
    rng = np.random.default_rng(0)
    np.savez(folder / "rows.npz", x=rng.integers(0, 256, (40, width)).astype(dtype), y=np.arange(40) % 2)
    split = {"validation": 0.25, "test": 0.25}
    data = {"train": "rows.npz", "target": "y", "folder": str(folder), "split": split, **more.pop("data", {})}
    training = {"epochs": 2, "batch_size": 16, "shift": more.pop("shift")}
    return configure(task="classification", data=data, training=training, model={"hidden": [4]}, **more)


@pytest.mark.parametrize("more", [{}, {"members": 2}], ids=["one", "members"])
def test_training_on_them_is_training_on_these_rows(tmp_path: Path, more: dict[str, Any]) -> None:
    loaded, plain = (loaded_of(tmp_path, 9, shift=shift, backend="numpy", **more) for shift in (1, 0))
    data = load_data(loaded)
    given = replace(data, train=moved(data.train.some(), 1))
    found, wanted = build(loaded.settings, data), build(plain.settings, given)
    assert any("100 training rows" in str(note) for note in found.notes)
    loops = [loop_over(parts) for parts in (found, wanted)]
    for loop in loops:
        assert list(loop)
    for name, array in wanted.model.arrays().items():
        np.testing.assert_array_equal(found.model.arrays()[name], array)
    one, other = (loop.measure() for loop in loops)
    assert one["test"] == other["test"]
    assert one["train"] != other["train"]  # the rows as they are


@pytest.mark.parametrize(
    ("shift", "width", "rows"),
    [("auto", MIN_SIDE**2, 100), ("auto", (MIN_SIDE - 1) ** 2, 20), ("auto", 300, 20), (2, 9, 180), (0, 256, 20)],
)
def test_auto_moves_images_that_are_large_enough(tmp_path: Path, shift: Any, width: int, rows: int) -> None:
    loaded = loaded_of(tmp_path, width, shift=shift)
    assert build(loaded.settings, load_data(loaded)).trainer.rows == rows


@pytest.mark.parametrize(
    ("width", "dtype", "more", "message"),
    [
        (10, np.uint8, {}, "rows of 10 inputs are not square images of bytes in memory"),
        (9, np.float32, {}, "rows of 9 inputs are not square images"),
        (4, np.uint8, {}, "images of 2 x 2 pixels cannot be moved by 2"),
        (9, np.uint8, {"pack": {"window": 8}}, "rows on disk are not square images of bytes in memory"),
    ],
)
def test_other_rows_are_refused(tmp_path: Path, width: int, dtype: type, more: dict[str, Any], message: str) -> None:
    if more:
        more["pack"]["folder"] = str(tmp_path / "packs")
    loaded = loaded_of(tmp_path, width, dtype, shift=2, data=more)
    with pytest.raises(DataError, match=r"training\.shift") as caught:
        load_data(loaded)
    assert message in str(caught.value)
    assert "set shift: 0, or auto" in str(caught.value)
