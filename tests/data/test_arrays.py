"""Array files, and arrays as a source."""

from __future__ import annotations

import contextlib
import io
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpumlp.data import ArrayTable, prepare_files, read
from gpumlp.data.source import arrays
from gpumlp.errors import DataError


def save(folder, **arrays):
    np.savez(folder / "a.npz", **arrays)
    return folder / "a.npz"


def test_the_only_matrix_is_the_inputs(tmp_path):
    images = np.arange(24, dtype=np.uint8).reshape(4, 2, 3)
    found = read(save(tmp_path, pictures=images, y=np.arange(4), version=np.float64(1)))
    assert found.names == ("pictures", "y")
    name = found.choose_inputs(exclude={"y"})
    assert name == "pictures"
    block = found.block(name)
    assert block.dtype == np.uint8
    assert (block == images.reshape(4, 6)).all()


@pytest.mark.parametrize("name", ["x", "X", "inputs", "images"])
def test_of_several_matrices_the_name_decides(tmp_path, name):
    found = read(save(tmp_path, **{"other": np.zeros((4, 2)), name: np.zeros((4, 3))}))
    assert found.choose_inputs() == name
    assert found.choose_inputs(preferred="other") == "other"


@pytest.mark.parametrize(
    ("arrays", "what"),
    [
        ({"a": np.zeros((4, 2)), "b": np.zeros((4, 3))}, "several arrays could be the inputs"),
        ({"x": np.zeros((4, 2)), "X": np.zeros((4, 3))}, "several arrays could be the inputs"),
        ({"a": np.zeros(4)}, "there is no array of inputs"),
    ],
)
def test_inputs_that_cannot_be_told_are_listed(tmp_path, arrays, what):
    path = tmp_path / "a.npz"
    np.savez(path, **arrays)
    with pytest.raises(DataError, match=what) as caught:
        read(path).choose_inputs()
    for name, array in arrays.items():
        assert f"{name} {array.shape}" in str(caught.value)


def test_the_target_is_named_with_the_nearest_array(tmp_path):
    found = read(save(tmp_path, x=np.zeros((4, 2)), label=np.zeros(4)))
    with pytest.raises(DataError, match=r"there is no array 'lable'\n  did you mean 'label'\?"):
        found.resolve("lable")
    with pytest.raises(DataError, match=r"given by its name\n  it holds x \(4, 2\), label \(4,\)"):
        found.resolve(-1)


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        (np.array([3, 1], np.uint8), ["3", "1"]),
        (np.array([[3.0], [-1.0]]), ["3", "-1"]),
        (np.array([0.5, np.nan], np.float32), ["0.5", ""]),
        (np.array([" a", "b"]), ["a", "b"]),
        (np.array([True, False]), ["True", "False"]),
    ],
)
def test_labels_of_any_type_become_text(tmp_path, values, texts):
    found = read(save(tmp_path, y=values)).categories("y")
    assert found.texts[found.codes].tolist() == texts


def test_a_matrix_is_no_target(tmp_path):
    found = read(save(tmp_path, y=np.eye(3)))
    for method in (found.categories, found.numbers):
        with pytest.raises(DataError, match=r"one value per row, but its shape is \(3, 3\)"):
            method("y")


@pytest.mark.parametrize("values", [np.array(["a"]), np.array([1j]), np.array(["2020-01-01"], "M8[D]")])
def test_what_is_no_number(tmp_path, values):
    with pytest.raises(DataError, match="not real numbers"):
        read(save(tmp_path, y=values)).numbers("y")


@pytest.mark.parametrize("value", [np.inf, 1e39])
def test_numbers_must_be_finite_in_32_bits(tmp_path, value):
    found = read(save(tmp_path, y=np.array([1.0, np.nan, value])))
    with pytest.raises(DataError, match=r"a\.npz, row 2: array 'y' has .*, which is not a finite"):
        found.numbers("y")


def test_rows_are_taken_lazily_and_counted_in_the_file():
    whole = ArrayTable("a.npz", {"x": np.arange(12).reshape(6, 2), "names": np.zeros(2)})
    part = whole.take(np.array([1, 3, 5])).take(np.array([0, 2]))
    assert part.block("x").tolist() == [[2, 3], [10, 11]]
    assert part.where(1) == "a.npz, row 5"


def test_arrays_of_different_lengths(tmp_path):
    path = save(tmp_path, x=np.zeros((4, 2)), y=np.zeros(3))
    with pytest.raises(DataError, match="the arrays differ in their number of rows: x 4, y 3"):
        prepare_files(path.name, folder=tmp_path, task="regression", target="y")


def test_an_empty_array(tmp_path):
    with pytest.raises(DataError, match=r"array 'x' is empty, shape \(4, 0\)"):
        read(save(tmp_path, x=np.zeros((4, 0)))).block("x")


def test_npy_holds_inputs_only(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((3, 2, 2), np.float32))
    found = read(tmp_path / "a.npy")
    assert found.block("inputs").shape == (3, 4)
    with pytest.raises(DataError, match=r"there is no array 'y'\n  an \.npy file holds inputs only"):
        found.resolve("y")
    np.save(tmp_path / "a.npy", np.ones(3))
    with pytest.raises(DataError, match=r"expected an array \(rows, columns\), found shape \(3,\)"):
        read(tmp_path / "a.npy")


def test_objects_are_never_unpickled(tmp_path):
    objects = np.array([{}, []], dtype=object)
    np.savez(tmp_path / "a.npz", x=objects)
    np.save(tmp_path / "a.npy", objects)
    for use in (ArrayTable.block, ArrayTable.categories, ArrayTable.numbers):
        with pytest.raises(DataError, match="the file holds pickled Python objects"):
            use(read(tmp_path / "a.npz"), "x")
    with pytest.raises(DataError, match="the file holds pickled Python objects"):
        read(tmp_path / "a.npy")


def test_arrays_that_nobody_asks_for_are_not_read(tmp_path):
    arrays = {"x": np.arange(30.0).reshape(10, 3), "y": np.arange(10.0), "names": np.array([{}], object)}
    path = save(tmp_path, **arrays, junk=np.full(100_000, 7, np.uint8))
    content = path.read_bytes()
    path.write_bytes(content.replace(bytes([7] * 99_000), bytes([8] * 99_000)))  # its checksum is wrong now
    prepared = prepare_files(path.name, folder=tmp_path, task="regression", target="y", validation=0, test=0)
    assert len(prepared.train) == 10
    with pytest.raises(DataError, match="damaged"):
        read(path).numbers("junk")


@pytest.mark.parametrize(
    ("shape", "what"),
    [
        ("(10, 3)", "says 240 bytes, but 96 follow"),
        ("(4, 1)", "says 32 bytes, but 96 follow"),
        ("(99999999999, 3)", "says 2,399,999,999,976 bytes, but 96 follow"),
        ("(4294967296, 4294967296)", "says 147,573,952,589,676,412,928 bytes, but 96 follow"),
        ("(-1, 3)", r"shape \(-1, 3\)"),
        ("(-4, -3)", r"shape \(-4, -3\)"),
        ("(True, 12)", r"shape \(True, 12\)"),
        (f"(4, 3){' ' * 20_000}", "its header has more than 10,000 characters"),
        (f"{'(' * 3000}4{')' * 3000}", "damaged"),
    ],
)
@pytest.mark.parametrize("name", ["a.npz", "a.npy"])
def test_a_header_that_is_not_as_long_as_what_follows(tmp_path, shape, what, name):
    text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    content = b"\x93NUMPY\x02\0" + len(text).to_bytes(4, "little") + text + bytes(96)
    if name == "a.npz":
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("x.npy", content)
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=what) as caught:
        read(tmp_path / name)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("name", ["a.npz", "a.npy", "a.idx3"])
def test_an_array_larger_than_memory_is_refused_before_it_is_read(tmp_path, monkeypatch, name):
    path, images = tmp_path / name, np.zeros((10, 20, 30), np.uint8)
    if name == "a.idx3":
        path.write_bytes(b"".join(size.to_bytes(4, "big") for size in (2051, *images.shape)) + images.tobytes())
    else:
        np.savez_compressed(path, x=images) if name == "a.npz" else np.save(path, images)
    monkeypatch.setattr(arrays, "host_memory", lambda: 6000)
    assert read(path).block(read(path).choose_inputs()).shape == (10, 600)
    monkeypatch.setattr(arrays, "host_memory", lambda: 5999)
    match = "an array of 6,000 bytes is in this file; this machine has 5,999 bytes of memory"
    with pytest.raises(DataError, match=match):
        read(path).block("x")


def test_two_arrays_of_one_name(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", packed(np.save, np.ones((3, 2))))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("x.npy", packed(np.save, np.zeros((3, 2))))
    with pytest.raises(DataError, match="two arrays have the same name"):
        read(tmp_path / "a.npz")


@pytest.mark.parametrize("name", ["a.npz", "a.npy"])
def test_another_kind_of_file(tmp_path, write, name):
    write("x,y\n1,2\n", name)
    with pytest.raises(DataError, match="the array file is damaged or of another kind"):
        read(tmp_path / name)


def packed(save, *arrays):
    stream = io.BytesIO()
    save(stream, *arrays)
    return stream.getvalue()


FILES = {
    "npz": packed(np.savez, np.ones((3, 2)), np.arange(3)),
    "packed.npz": packed(np.savez_compressed, np.ones((3, 2)), np.arange(3)),
    "npy": packed(np.save, np.ones((3, 2))),
}


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from(list(FILES)),
    flips=st.lists(st.tuples(st.integers(0, 600), st.integers(0, 255)), max_size=4),
    end=st.integers(0, 1000),
)
@pytest.mark.filterwarnings("ignore:Reading `.npy` or `.npz` file required additional header parsing")
def test_any_damage_is_an_error_of_data(tmp_path_factory, kind, flips, end):
    content = bytearray(FILES[kind])
    for place, value in flips:
        content[place % len(content)] = value
    path = tmp_path_factory.getbasetemp() / f"damaged.{kind}"
    path.write_bytes(content[:end])
    with contextlib.suppress(DataError):
        found = read(path)
        assert isinstance(found, ArrayTable)
        for name in found.names:
            with contextlib.suppress(DataError):
                found.block(name)
