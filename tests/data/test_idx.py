"""IDX files."""

from __future__ import annotations

import gzip
import struct
import time

import numpy as np
import pytest

from gpumlp.data import prepare_files, read
from gpumlp.errors import DataError

IMAGES = np.arange(10 * 3 * 2, dtype=np.uint8).reshape(10, 3, 2)
LABELS = np.array([0, 1] * 5, np.uint8)


def idx(array: np.ndarray) -> bytes:
    magic = {3: 2051, 1: 2049}[array.ndim]
    return struct.pack(f">I{array.ndim}I", magic, *array.shape) + array.tobytes()


@pytest.mark.parametrize(
    ("images", "labels", "pack"),
    [
        ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz", gzip.compress),
        ("train-images.idx3-ubyte", "train-labels.idx1-ubyte", bytes),
        ("images.idx3", "labels.idx1", bytes),
        ("t10k-images.idx.gz", "t10k-labels.idx.gz", gzip.compress),
    ],
)
def test_labels_are_found_beside_the_images(tmp_path, write, images, labels, pack):
    write(pack(idx(IMAGES)), images)
    write(pack(idx(LABELS)), labels)
    found = read(tmp_path / images)
    assert found.resolve(None) == "labels"
    assert (found.block("images") == IMAGES.reshape(10, 6)).all()
    assert (found.arrays["labels"] == LABELS).all()


def test_images_stay_bytes(tmp_path, write):
    write(idx(IMAGES), "images.idx3")
    write(idx(LABELS), "labels.idx1")
    prepared = prepare_files(
        "images.idx3", folder=tmp_path, task="classification", target=None, validation=0.2, test=0
    )
    assert prepared.train.inputs.dtype == np.uint8
    assert prepared.train.features.shape == IMAGES.shape[1:]
    assert prepared.encoder.input_scale == 1 / 255
    assert prepared.encoder.width == 6
    assert prepared.encoder.features[5] == "images[5]"
    assert prepared.encoder.classes == ("0", "1")


def test_missing_labels_matter_only_if_they_are_needed(tmp_path, write):
    write(idx(IMAGES), "test-images-idx3-ubyte")
    found = read(tmp_path / "test-images-idx3-ubyte")
    assert found.block("images").shape == (10, 6)
    with pytest.raises(
        DataError,
        match=r"no array 'labels'\n  its target is called 'labels'; they were looked for in test-labels-idx1-ubyte",
    ):
        found.resolve(None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an IDX file of images"),
        (idx(IMAGES)[:9], "not an IDX file of images"),
        (b"x,y\n1,2\n3,4\n5,6\n", r"not an IDX file of images \(2051\) or labels \(2049\): it starts with"),
        (struct.pack(">II", 2050, 3) + b"abc", "it starts with 2050"),
        (idx(IMAGES)[:-1], "the header says 10 x 3 x 2 bytes = 60, but 59 follow"),
        (idx(IMAGES) + b"0", "the header says 10 x 3 x 2 bytes = 60, but 61 follow"),
    ],
)
def test_damage(tmp_path, write, content, message):
    write(content, "images.idx3")
    with pytest.raises(DataError, match=message):
        read(tmp_path / "images.idx3")


def test_images_in_place_of_labels(tmp_path, write):
    write(idx(IMAGES), "images.idx3")
    write(idx(IMAGES), "labels.idx1")
    with pytest.raises(DataError, match=r"labels\.idx1: this should be a file of labels"):
        read(tmp_path / "images.idx3")


def test_fewer_labels_than_images(tmp_path, write):
    write(idx(IMAGES), "images.idx3")
    write(idx(LABELS[:9]), "labels.idx1")
    with pytest.raises(DataError, match="differ in their number of rows: images 10, labels 9"):
        prepare_files("images.idx3", folder=tmp_path, task="classification", target=None)


def test_fashion_mnist_is_read_fast_and_never_as_floats(larger):
    start = time.process_time()
    found = read(larger / "fashion-mnist" / "train-images-idx3-ubyte.gz")
    assert time.process_time() - start < 2
    assert found.block("images").shape == (60000, 784)
    assert found.block("images").dtype == np.uint8
    assert np.bincount(found.arrays["labels"]).tolist() == [6000] * 10
