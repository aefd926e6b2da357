"""Rows in blocks on disk: what is read is what was written, and what is not is told."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from gpumlp.data import Dataset, Divided, PackedRows, Packs, Prepared, SourceCache, prepare_files
from gpumlp.data.packed import blocks as blocks_module
from gpumlp.data.packed.packs import ENCODER, INDEX, key_of
from gpumlp.data.source.room import Room, is_in_file, reading_into
from gpumlp.errors import DataError

ROWS = 300


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks_module, "BLOCK_ROWS", 16)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Return a file of numbers, gaps, categories, dates, a class and weights."""
    random = np.random.default_rng(0)
    x, gaps = random.normal(size=(ROWS, 2)), random.random(ROWS) < 0.1
    lines = ["a,b,c,day,w,y"]
    for i in range(ROWS):
        number = "" if gaps[i] else f"{x[i, 1]:.6g}"
        word = "xyz"[int(random.integers(3))]
        lines.append(
            f"{x[i, 0]:.6g},{number},{word},2024-0{1 + i % 9}-1{i % 7},{1 + i % 5},{'no' if i < 150 else 'yes'}"
        )
    path = tmp_path / "t.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def prepared(path: Path, **given: object) -> Prepared:
    return prepare_files(path.name, folder=path.parent, **({"task": "classification", "target": "y"} | given))  # type: ignore[arg-type]


def packed(path: Path, packs: Packs, key: str = "k", **given: object) -> Prepared:
    return prepared(path, encode=lambda divided: packs.pack(divided, key, seed=7), **given)


def all_rows(blocks: PackedRows) -> list[tuple[object, ...]]:
    found = []
    for block in blocks.blocks():
        weights = block.weights if block.weights is not None else np.zeros(len(block), np.float32)
        assert block.targets is not None
        for row, target, weight in zip(block.features.stored, block.targets, weights, strict=True):
            found.append((row.tobytes(), target.tobytes(), weight.tobytes()))
    return found


def rows_of(data: Dataset) -> list[tuple[object, ...]]:
    weights = data.weights if data.weights is not None else np.zeros(len(data), np.float32)
    assert data.targets is not None
    return [
        (row.tobytes(), target.tobytes(), weight.tobytes())
        for row, target, weight in zip(data.features.stored, data.targets, weights, strict=True)
    ]


@pytest.mark.parametrize(
    "given", [{}, {"weights": "w"}, {"task": "regression", "target": "b", "missing_target": "drop"}]
)
@pytest.mark.parametrize("memory", [1 << 28, 1500])
def test_blocks_have_the_rows_that_memory_has(
    table: Path, tmp_path: Path, given: dict[str, object], memory: int
) -> None:
    """The same rows, encoded alike to the bit; those for training in another order, the others in theirs."""
    whole, found = prepared(table, **given), packed(table, Packs(tmp_path / "p", memory=memory), **given)
    assert found.encoder.to_state()[0] == whole.encoder.to_state()[0]
    assert found.notes == whole.notes
    for name, part in whole.parts.items():
        blocks = found.parts[name]
        assert isinstance(part, Dataset)
        assert isinstance(blocks, PackedRows)
        assert len(blocks) == len(part)
        rows, wanted = all_rows(blocks), rows_of(part)
        assert rows != wanted if name == "train" else rows == wanted
        assert sorted(rows) == sorted(wanted)
        assert blocks.features.width == part.features.width
        assert isinstance(blocks.targets, np.ndarray)
        assert sorted(blocks.targets.tolist()) == sorted(part.targets.tolist())  # type: ignore[union-attr]


def test_each_block_is_like_all_rows(table: Path, tmp_path: Path) -> None:
    """The file is sorted by its target, and blocks are not."""
    train = packed(table, Packs(tmp_path)).train
    shares = [block.targets.mean() for block in train.blocks() if block.targets is not None][:-1]
    assert 0.0 < min(shares) < max(shares) < 1.0


def test_chunks_of_rows_change_no_byte(table: Path, tmp_path: Path) -> None:
    one, other = Packs(tmp_path / "1"), Packs(tmp_path / "2", memory=1500)
    assert packed(table, one).fingerprint == packed(table, other).fingerprint
    for file in (tmp_path / "1" / "k").iterdir():
        assert file.read_bytes() == (tmp_path / "2" / "k" / file.name).read_bytes()


def test_codes_take_as_few_bytes_as_they_can(table: Path, tmp_path: Path) -> None:
    layout = packed(table, Packs(tmp_path)).train.layout  # type: ignore[attr-defined]
    assert layout.arrays["codes"] == ("|u1", 1)
    assert (tmp_path / "k" / "train.codes").stat().st_size == layout.count


@pytest.mark.parametrize("array", ["numbers", "codes", "targets", "weights"])
def test_damage_is_told_with_its_place(table: Path, tmp_path: Path, array: str) -> None:
    path = tmp_path / "k" / f"train.{array}"
    train = packed(table, Packs(tmp_path), weights="w").train
    assert isinstance(train, PackedRows)
    content = bytearray(path.read_bytes())
    content[train.layout.bytes_of(array) * 16 * 3] ^= 1  # the first byte of block 4
    path.write_bytes(content)
    train = Packs(tmp_path).find("k").train  # type: ignore[union-attr]
    assert isinstance(train, PackedRows)
    train.read(2)
    with pytest.raises(DataError, match=rf"train\.{array}: block 4 of 14 is damaged.*\n.*delete this folder"):
        list(train.blocks())


def test_a_short_file_is_told(table: Path, tmp_path: Path) -> None:
    packed(table, Packs(tmp_path))
    path = tmp_path / "k" / "train.numbers"
    os.truncate(path, path.stat().st_size - 1)
    found = Packs(tmp_path).find("k")
    assert found is not None
    with pytest.raises(DataError, match=r"block 14 of 14 ends too early"):
        list(found.train.blocks())


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"format": 1}', b"\0\0"])
def test_a_damaged_index_is_told(table: Path, tmp_path: Path, content: bytes) -> None:
    packed(table, Packs(tmp_path))
    (tmp_path / "k" / INDEX).write_bytes(content)
    with pytest.raises(DataError, match="damaged packed rows"):
        Packs(tmp_path).find("k")


def test_a_pack_is_whole_or_not_there(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packs = Packs(tmp_path / "p")
    monkeypatch.setattr(blocks_module.Writer, "flush", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        packed(table, packs)
    assert packs.find("k") is None
    assert not [each for each in packs.folder.iterdir() if each.is_dir()]


def test_what_a_killed_process_left_is_cleared(table: Path, tmp_path: Path) -> None:
    (tmp_path / "p" / f".{'e' * 24}.part").mkdir(parents=True)
    packed(table, Packs(tmp_path / "p"))
    assert {each.name for each in (tmp_path / "p").iterdir() if each.is_dir()} == {"k"}


def test_the_pack_used_longest_ago_makes_room(table: Path, tmp_path: Path) -> None:
    """Of packs, and of nothing else that lies beside them."""
    packs, keys = Packs(tmp_path), ["a" * 24, "b" * 24, "c" * 24, "d" * 24]
    packed(table, packs, keys[0])
    size = sum(file.stat().st_size for file in (tmp_path / keys[0]).iterdir())
    packs = Packs(tmp_path, max_bytes=int(2.2 * size))
    for other in ("own", ".own.part"):
        (tmp_path / other).mkdir()
        (tmp_path / other / INDEX).write_text("{}")
        os.utime(tmp_path / other / INDEX, (0, 0))
    packed(table, packs, keys[1])
    os.utime(tmp_path / keys[1] / INDEX, (1, 1))
    assert packs.find(keys[0]) is not None
    packed(table, packs, keys[2])
    left = sorted(each.name for each in tmp_path.iterdir() if (each / INDEX).exists())
    assert left == [".own.part", keys[0], keys[2], "own"]
    with pytest.raises(DataError, match=r"packs may take 10 bytes"):
        packed(table, Packs(tmp_path, max_bytes=10), keys[3])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes of this kind")
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_what_is_no_file_is_not_read(table: Path, tmp_path: Path, kind: str) -> None:
    packs = Packs(tmp_path)
    packed(table, packs)
    numbers = tmp_path / "k" / "train.numbers"
    numbers.rename(tmp_path / "k" / "elsewhere")
    numbers.symlink_to("elsewhere") if kind == "link" else os.mkfifo(numbers)
    with pytest.raises(DataError, match=f"the packed rows cannot be read: this is a {kind}, not a file"):
        packs.find("k")


def test_an_encoding_of_other_rows_is_damage(table: Path, tmp_path: Path) -> None:
    packs = Packs(tmp_path)
    packed(table, packs, "a")
    packed(table, packs, "b", scaling="standard")
    shutil.copy(tmp_path / "b" / ENCODER, tmp_path / "a" / ENCODER)
    with pytest.raises(DataError, match="damaged packed rows: the encoding is that of other rows"):
        packs.find("a")


def test_open_blocks_outlive_their_pack(table: Path, tmp_path: Path) -> None:
    train = packed(table, Packs(tmp_path, max_bytes=30_000), "a").train
    assert isinstance(train, PackedRows)
    before = all_rows(train)
    for file in (tmp_path / "a").iterdir():
        file.unlink()
    assert all_rows(train) == before


def test_another_encoding_finds_no_pack(table: Path, tmp_path: Path) -> None:
    found = packed(table, Packs(tmp_path))
    other = prepared(table, scaling="standard").encoder
    assert Packs(tmp_path).find("k", found.encoder) is not None
    assert Packs(tmp_path).find("k", other) is None


def test_some_rows_are_taken_by_their_numbers(table: Path, tmp_path: Path) -> None:
    validation = packed(table, Packs(tmp_path)).validation
    rows = np.array([0, 3, 17, 31, 44])
    assert isinstance(validation, PackedRows)
    assert all_rows(validation.take(rows)) == [all_rows(validation)[row] for row in rows]
    assert validation.take(rows).targets.tolist() == validation.targets[rows].tolist()


def test_the_key_changes_with_a_file(table: Path) -> None:
    before = key_of({"task": "regression"}, [SourceCache().state_of(table)])
    assert key_of({"task": "regression"}, [SourceCache().state_of(table)]) == before
    assert key_of({"task": "classification"}, [SourceCache().state_of(table)]) != before
    os.utime(table, (5, 5))
    assert key_of({"task": "regression"}, [SourceCache().state_of(table)]) != before


@pytest.mark.parametrize("limit", [0, 4000, 1 << 30])
@pytest.mark.parametrize("several", [False, True])
def test_columns_in_a_file_change_no_bit(
    table: Path, tmp_path: Path, limit: int, several: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever of the columns lies on disk, all that comes of them is the same."""
    monkeypatch.setattr("gpumlp.data.source.delimited.START_CELLS", 100)
    if several:
        (tmp_path / "t-2.csv").write_bytes(table.read_bytes().replace(b"x", b"u"))
        table = tmp_path / "t*.csv"
    whole, kept = prepared(table, weights="w"), list[Divided]()

    def encode(divided: Divided) -> Prepared:
        kept.append(divided)
        return divided.encoded()

    with reading_into(Room(tmp_path, limit)):
        found = prepared(table, weights="w", encode=encode)
    assert found.fingerprint == whole.fingerprint
    assert found.notes == whole.notes
    numbers = kept[0].parts["train"].columns["a"].source  # type: ignore[union-attr]
    if limit != 4000:  # which some of the columns fit into
        assert is_in_file(numbers) == (limit == 0)  # type: ignore[arg-type]
    assert not list(tmp_path.glob("tmp*"))


def test_arrays_of_unknown_length_move_to_the_file_as_they_grow(tmp_path: Path) -> None:
    room = Room(tmp_path, 1000)
    a, b = room.growing(np.float64, 0), room.growing(np.int32, 4)
    for i in range(50):
        a.extend(np.arange(i, i + 7, dtype=np.float64))
        b.extend(np.arange(i, i + 7, dtype=np.int32))
    wanted = np.concatenate([np.arange(i, i + 7) for i in range(50)])
    for each in (a, b):
        assert each.whole().tolist() == wanted.tolist()
        assert is_in_file(each.whole())
    assert room.growing(np.float64, 0).whole().tolist() == []
