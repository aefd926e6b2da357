"""Runs on data larger than memory: the same files whoever interrupts them, and the metrics that memory gives."""

from __future__ import annotations

import csv
import gzip
import json
import signal
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command import run
from ranks.threads import by_threads

from gpumlp.config import Loaded, load
from gpumlp.config.settings import settings_of_member
from gpumlp.data import Dataset, PackedRows, Prepared
from gpumlp.data.packed import blocks as blocks_module
from gpumlp.data.source.read import read
from gpumlp.data.source.room import Room, reading_into
from gpumlp.errors import ConfigError, DataError, RunError, SignalError, WriteError
from gpumlp.nn.ensemble import prefix
from gpumlp.runs import evaluate, load_trained, plot, train
from gpumlp.training import rows as rows_module
from gpumlp.training.build import build, load_data
from gpumlp.training.device_data import DeviceData
from gpumlp.training.loop import Loop
from gpumlp.training.measure import measure
from runs.killed import Stop

ROWS = 400
BLOCK = 16


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks_module, "BLOCK_ROWS", BLOCK)


@pytest.fixture
def task(tmp_path: Path) -> Callable[..., Loaded]:
    """Return a function that makes a configuration of rows sorted by their class.

    No two rows are the same: the products of such ones differ by rounding where they are in blocks of other sizes.
    """
    random = np.random.default_rng(0)
    x, c, w = random.normal(size=(ROWS, 3)), random.integers(0, 3, ROWS), random.integers(1, 4, ROWS)
    y = np.sort(x[:, 0] + x[:, 1] * x[:, 2] + (c == 1) + random.normal(size=ROWS) / 2)
    rows = [
        f"{a:.5g},{b:.5g},{d:.5g},{'pqr'[c[i]]},{w[i]},{y[i]:.5g},{'no' if y[i] < 0 else 'yes'}"
        for i, (a, b, d) in enumerate(np.where((np.arange(ROWS)[:, None] + np.arange(3)) % 11 == 0, np.nan, x))
    ]
    (tmp_path / "t.csv").write_text("\n".join(["a,b,d,c,w,z,y", *rows]) + "\n")
    (tmp_path / "f.yaml").write_text("task: classification\ndata: {train: t.csv, target: y, drop: [z]}\n")

    def make(*more: str, packed: bool = True) -> Loaded:
        window = ("data.pack.window=96",) if packed else ()
        return load(
            tmp_path / "f.yaml",
            (
                "backend=numpy",
                f"data.pack.folder={tmp_path / 'packs'}",
                "model={hidden: [8], dropout: 0.2, norm: batch}",
                "training={epochs: 2, batch_size: 16, checkpoint_every: 5}",
                *window,
                *more,
            ),
        )

    return make


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "model").iterdir())}


SETTINGS = {
    "bins, weights, balanced, log_loss, intervals": (
        "data.weights=w",
        "loss.class_weight=balanced",
        "training.metric=log_loss",
        "training.conformal=0.3",
        "model.numbers={embedding: ple}",
        "model.categories={table_above: 2}",
    ),
    "a number, weights fitted to rows": (
        "task=regression",
        "data.target=z",
        "data.drop=[y]",
        "model.initializer=data",
        "model.clamp=true",
        "training.snapshots=3",
    ),
    "quantiles, members": (
        "task=regression",
        "data.target=z",
        "data.drop=[y]",
        "loss={name: quantile, levels: [0.1, 0.5, 0.9]}",
        "members={count: 2, share: weights}",
    ),
}


@pytest.mark.parametrize("settings", SETTINGS)
def test_metrics_are_those_that_memory_gives(settings: str, task: Callable[..., Loaded], tmp_path: Path) -> None:
    """The model of a packed run, measured on the same parts in memory."""
    done = train(task(*SETTINGS[settings]), tmp_path / "run")
    memory = load_data(task(*SETTINGS[settings], packed=False))
    model = load_trained(tmp_path / "run", "numpy")
    assert model.encoder.to_state()[0] == memory.encoder.to_state()[0]
    loss = build(task(*SETTINGS[settings]).settings, memory).loss
    for name, part in memory.parts.items():
        loss.model = model.network  # type: ignore[assignment]
        blocks = [DeviceData(model.network, part, memory.encoder.input_scale)]
        found = measure(model.network, loss, memory.encoder, blocks, probabilities=model.probabilities)
        for metric, value in found.items():
            assert done.summary["metrics"][name][metric] == pytest.approx(value, rel=1e-5, abs=1e-7), (name, metric)
    packs = [each for each in (tmp_path / "packs").iterdir() if each.is_dir()]
    assert len(packs) == 1
    again, notes = evaluate(tmp_path / "run")
    assert [each for each in (tmp_path / "packs").iterdir() if each.is_dir()] == packs
    assert again["test"]["loss"] == pytest.approx(done.summary["metrics"]["test"]["loss"], rel=1e-6)
    assert not [note for note in notes if "changed" in note]


class Held(PackedRows):
    """Rows that were read before, and are in memory."""

    def __init__(self, blocks: PackedRows) -> None:
        super().__init__(blocks.folder, blocks.name, blocks.layout, blocks.checksums)
        self.held = [blocks.read(block) for block in range(blocks.layout.blocks)]

    def read(self, block: int) -> Dataset:
        return self.held[block]


def test_blocks_in_memory_give_the_same_run(task: Callable[..., Loaded], tmp_path: Path) -> None:
    loaded = task("data.weights=w")
    train(loaded, tmp_path / "disk")
    data = load_data(loaded)
    held = {name: Held(part) for name, part in data.parts.items() if isinstance(part, PackedRows)}
    assert list(held) == ["train", "validation", "test"]
    prepared = Prepared(**held, encoder=data.encoder, notes=data.notes, window=data.window)
    for path in (tmp_path / "packs").rglob("*.numbers"):
        path.unlink()
    train(loaded, tmp_path / "memory", data=prepared)
    assert files(tmp_path / "disk") == files(tmp_path / "memory")
    rows = [
        [{**json.loads(line), "seconds": 0} for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("disk", "memory")
    ]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("after", [7, 20])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(
    after: int, task: Callable[..., Loaded], tmp_path: Path
) -> None:
    loaded = task()
    train(loaded, tmp_path / "whole")
    with pytest.raises(SignalError):
        train(loaded, tmp_path / "run", listener=Stop(signal.SIGTERM, after))
    train(loaded, tmp_path / "run", resume=True)
    assert files(tmp_path / "run") == files(tmp_path / "whole")
    run("predict", tmp_path / "run", tmp_path / "t.csv", "-o", tmp_path / "p.csv")
    assert len((tmp_path / "p.csv").read_text().splitlines()) == ROWS + 1


def test_the_window_that_was_chosen_stays(task: Callable[..., Loaded], tmp_path: Path) -> None:
    """Rows are packed where they take too much, and a run goes on with its window where there is more memory."""
    row = 4 * 9  # of 4 numbers, 3 flags, a column of categories, a target
    little = f"data.max_memory={ROWS * row / 1e9}"
    with pytest.raises(SignalError):
        train(task(little, packed=False), tmp_path / "run", listener=Stop(signal.SIGTERM, 7))
    window = load(tmp_path / "run" / "config.yaml").settings.data.pack.window
    assert window == ROWS // 8
    done = train(task(packed=False), tmp_path / "run", resume=True)
    told = [note for note in done.notes if "packed in" in note]
    assert len(told) == 1
    train(task(little, packed=False), tmp_path / "whole")
    assert files(tmp_path / "run") == files(tmp_path / "whole")
    train(task(packed=False), tmp_path / "memory")
    assert load(tmp_path / "memory" / "config.yaml").settings.data.pack.window is None
    assert files(tmp_path / "memory") != files(tmp_path / "whole")
    with pytest.raises(RunError, match=r"data\.pack\.window was null, is now 96"):
        train(task(), tmp_path / "memory", resume=True)


def test_a_damaged_block_is_one_message(task: Callable[..., Loaded], tmp_path: Path) -> None:
    load_data(task())
    (path,) = (tmp_path / "packs").rglob("train.numbers")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    given = (
        "--set",
        f"data.pack.folder={tmp_path / 'packs'}",
        "--set",
        "data.pack.window=96",
        "--set",
        "backend=numpy",
    )
    result = run("train", tmp_path / "f.yaml", *given, "--run-dir", tmp_path / "run", code=3)
    assert "is damaged" in result.stderr
    assert "delete this folder" in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.count("is damaged") == 1


def test_rows_are_packed_beforehand(
    task: Callable[..., Loaded], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run("pack", tmp_path / "f.yaml", "-o", tmp_path / "other")
    assert "280 train, 60 validation, 60 test rows" in result.stderr + result.stdout
    assert f"--set data.pack.folder={tmp_path / 'other'}" in result.stderr + result.stdout
    (index,) = (tmp_path / "other").rglob("pack.json")
    before = index.read_bytes()
    monkeypatch.setattr(rows_module.Packs, "pack", None)  # nothing is packed again
    loaded = task(f"data.pack.folder={tmp_path / 'other'}")
    assert train(loaded, tmp_path / "run").summary["status"] == "completed"
    run("pack", tmp_path / "f.yaml", "-o", tmp_path / "other")
    assert index.read_bytes() == before


def test_data_that_have_changed_are_packed_anew(task: Callable[..., Loaded], tmp_path: Path) -> None:
    train(task(), tmp_path / "run")
    lines = (tmp_path / "t.csv").read_text().splitlines()
    (tmp_path / "t.csv").write_text("\n".join([*lines, lines[-1]]) + "\n")
    assert len(load_data(task()).train) == 281
    _, notes = evaluate(tmp_path / "run")
    assert [note for note in notes if "the data have changed" in note]


def test_a_picture_of_labels_has_the_rows_of_all_blocks(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    x = np.random.default_rng(0).normal(size=(ROWS, 2))
    lines = [f"{a:.4g},{b:.4g},{int(a > 0)},{int(b > a)}" for a, b in x]
    (tmp_path / "t.csv").write_text("\n".join(["a,b,up,over", *lines]) + "\n")
    (tmp_path / "f.yaml").write_text("task: multilabel\ndata: {train: t.csv, target: [up, over]}\n")
    shared = ("model.hidden=[8]", "training.epochs=1", f"data.pack.folder={tmp_path / 'packs'}")
    for name, more in (("packed", ("data.pack.window=96",)), ("memory", ())):
        found = train(load(tmp_path / "f.yaml", (*shared, *more)), tmp_path / name)
        plot(found.folder, tmp_path / f"{name}.svg")
        assert (tmp_path / f"{name}.svg").read_text().count("<!-- over: ") == 1


def test_members_read_windows_of_their_own(task: Callable[..., Loaded], tmp_path: Path) -> None:
    """Each is trained as it would be alone, and goes on from the middle of an epoch."""
    loaded = task("members=2", "training.seed=3")
    train(loaded, tmp_path / "whole")
    with pytest.raises(SignalError):
        train(loaded, tmp_path / "run", listener=Stop(signal.SIGTERM, 9))
    train(loaded, tmp_path / "run", resume=True)
    assert files(tmp_path / "run") == files(tmp_path / "whole")
    ensemble = load_trained(tmp_path / "whole").network.arrays()
    for number in range(2):
        settings = settings_of_member(loaded.settings, number)
        loop = Loop(build(settings, load_data(loaded)))
        for _ in loop:
            pass
        assert {name: array.tobytes() for name, array in loop.best.items()} == {
            name: ensemble[prefix(number) + name].tobytes() for name in loop.best
        }


def test_what_packed_rows_cannot_do_is_told(task: Callable[..., Loaded], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="rows cannot be packed here"):
        load_data(task(f"data.pack.folder={tmp_path / 'file'}"))
    with pytest.raises(DataError, match=r"the packed rows take .* packs may take 1,000 bytes"):
        load_data(task("data.pack.max_size=1e-6", f"data.pack.folder={tmp_path / 'none'}"))
    for setting in ("data.max_memory=0", "data.max_memory=1e300", "data.pack.max_size=1e300"):
        with pytest.raises(ConfigError, match=setting.partition("=")[0]):
            task(setting)


def test_ranks_give_the_files_of_one(task: Callable[..., Loaded], tmp_path: Path) -> None:
    loaded = task("training.shards=4", "data.weights=w")
    train(loaded, tmp_path / "1")
    by_threads(2, lambda ranks: train(loaded, tmp_path / "2", ranks=ranks))
    assert files(tmp_path / "2") == files(tmp_path / "1")


def test_sweeps_share_the_packed_rows(task: Callable[..., Loaded], tmp_path: Path) -> None:
    task()
    settings = [
        part for each in ("backend=numpy", "training.epochs=1", "data.pack.window=96") for part in ("--set", each)
    ]
    pack = ["--set", f"data.pack.folder={tmp_path / 'packs'}"]
    run("sweep", tmp_path / "f.yaml", "--set", "model.hidden=[4],[8]", *settings, *pack, "--run-dir", tmp_path / "s")
    for point in ("point-0000", "point-0001"):
        assert load(tmp_path / "s" / point / "config.yaml").settings.data.pack.window == 96
    assert len([each for each in (tmp_path / "packs").iterdir() if each.is_dir()]) == 1


def test_folds_reports_and_exports_of_packed_rows(
    task: Callable[..., Loaded], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their raw rows stay on disk, and are predicted some at a time."""
    task()
    settings = [
        part for each in ("backend=numpy", "training.epochs=1", "data.pack.window=96") for part in ("--set", each)
    ]
    pack = ["--set", f"data.pack.folder={tmp_path / 'packs'}"]
    with monkeypatch.context() as small:
        small.setattr("gpumlp.runs.model.MAX_ENCODED_BYTES", 1000)
        run("cv", tmp_path / "f.yaml", "--folds", 2, *settings, *pack, "--run-dir", tmp_path / "cv")
    with (tmp_path / "cv" / "predictions.csv").open() as file:
        found = list(csv.DictReader(file))
    assert sorted(int(row["row"]) for row in found) == list(range(ROWS))
    for fold in ("1", "2"):
        own = [row for row in found if row["fold"] == fold]
        model = load_trained(tmp_path / "cv" / f"fold-{fold}")
        whole = model.predict_proba(tmp_path / "t.csv")[[int(row["row"]) for row in own], 1]
        np.testing.assert_allclose([float(row["probability yes"]) for row in own], whole, rtol=1e-5)
    folder = tmp_path / "cv" / "fold-1"
    assert "have changed" not in run("report", folder, "-o", tmp_path / "r.html").stderr
    run("export", folder, "-o", tmp_path / "m.py")
    assert len([each for each in (tmp_path / "packs").iterdir() if each.is_dir()]) == 2


def _images(images: np.ndarray, labels: np.ndarray, folder: Path) -> None:
    for name, kind, array in (("images-idx3", 2051, images), ("labels-idx1", 2049, labels)):
        head = struct.pack(f">{1 + array.ndim}I", kind, *array.shape)
        (folder / f"t-{name}-ubyte.gz").write_bytes(gzip.compress(head + array.tobytes()))


@pytest.mark.parametrize("kind", ["rows", "columns, compressed", "other bytes, three axes", "npy", "images"])
def test_arrays_beyond_memory_are_packed(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The encoding and the rows are those that memory gives, to the bit; a file that is cut short is one message."""
    monkeypatch.setattr("gpumlp.data.source.arrays.PIECE_BYTES", 500)
    monkeypatch.setattr("gpumlp.data.encoding.columns._FITTED_ELEMENTS", 1)
    random = np.random.default_rng(0)
    x, y = random.normal(size=(ROWS, 6)).astype(np.float32), random.integers(0, 2, ROWS)
    x[::7, 2] = np.nan
    name, target = "t.npz", "y"
    if kind == "rows":
        np.savez(tmp_path / name, x=x, y=y)
    elif kind == "columns, compressed":
        np.savez_compressed(tmp_path / name, x=np.asfortranarray(x), y=y)
    elif kind == "other bytes, three axes":
        np.savez(tmp_path / name, x=x.astype(">f8").reshape(ROWS, 2, 3), y=y)
    elif kind == "npy":  # which has inputs alone
        np.save(tmp_path / "t.npy", x)
    else:
        _images(random.integers(0, 256, (ROWS, 3, 4), np.uint8), y.astype(np.uint8), tmp_path)
        name, target = "t-images-idx3-ubyte.gz", "labels"
    little = Room(tmp_path, 50)
    if kind == "npy":
        with reading_into(little):
            found = read(tmp_path / "t.npy")
        assert found.is_in_file("inputs")
        assert found.take(np.array([5, 0])).block("inputs").tobytes() == x[[5, 0]].tobytes()
        return
    (tmp_path / "f.yaml").write_text(f"task: classification\ndata: {{train: {name}, target: {target}}}\n")
    wanted = load_data(load(tmp_path / "f.yaml"))
    limits = ("data.max_memory=1e-7", f"data.pack.folder={tmp_path / 'packs'}")
    packed = load_data(load(tmp_path / "f.yaml", limits))
    assert isinstance(packed.train, PackedRows)
    for (fields, arrays), (others, more) in [(packed.encoder.to_state(), wanted.encoder.to_state())]:
        assert fields == others
        assert {key: array.tobytes() for key, array in arrays.items()} == {
            key: a.tobytes() for key, a in more.items()
        }
    for part, rows in wanted.parts.items():
        blocks = np.concatenate([each.inputs for each in packed.parts[part].blocks()])
        order = np.lexsort(blocks.T), np.lexsort(rows.inputs.T)  # type: ignore[attr-defined]
        assert blocks[order[0]].tobytes() == rows.inputs[order[1]].tobytes()  # type: ignore[attr-defined]
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(
        gzip.compress(gzip.decompress(content)[:-9]) if kind == "images" else content[:-200]
    )
    with pytest.raises(DataError, match="damaged"):
        load_data(load(tmp_path / "f.yaml", limits))
