from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpumlp.backend import Backend
from gpumlp.config import Loaded
from gpumlp.data import News, read
from gpumlp.errors import BackendError, RunError, WriteError
from gpumlp.runs import load_model, load_trained, train
from gpumlp.runs.evaluation import load_run
from gpumlp.store.formats import keep_bytes, read_arrays, sealed, write_arrays

Task = Callable[..., Loaded]


@pytest.fixture
def model(task: Task, tmp_path: Path) -> Path:
    train(task("model.norm=batch", "model.hidden=[8, {units: 4, activation: selu, dropout: 0.1}]"), tmp_path / "run")
    return tmp_path / "run" / "model"


def test_a_model_predicts_raw_rows(model: Path, tmp_path: Path) -> None:
    saved = load_model(model, Backend())
    (tmp_path / "new.csv").write_text("b,a\n0,0\n0,3\n3,0\n")  # other order, no target
    news = News()
    probabilities = saved.predict_proba(read(tmp_path / "new.csv"), news=news)
    assert probabilities.shape == (3, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-6)
    assert saved.predict(tmp_path / "new.csv").tolist() == ["x", "y", "z"]
    assert news.notes() == []


def test_a_run_folder_or_its_model_folder(model: Path) -> None:
    first, second = load_trained(model), load_trained(model.parent)
    np.testing.assert_array_equal(first.network.parameters.values, second.network.parameters.values)
    with pytest.raises(RunError, match="no model"):
        load_trained(model.parent.parent)


@pytest.mark.parametrize("read_run", [load_trained, load_run])
def test_a_misspelt_run_folder_gets_the_nearest_run(model: Path, read_run: Callable[[Path], Any]) -> None:
    folder = model.parent
    (folder.parent / "ran").mkdir()  # nearer than nothing, but no run
    with pytest.raises(RunError) as raised:
        read_run(folder.with_name("rum"))
    assert raised.value.hint == f"did you mean {str(folder)!r}? allowed: {folder}"
    with pytest.raises(RunError, match="such as runs/digits"):
        read_run(folder / "nowhere" / "run")


def changed(model: Path, change: Callable[[dict[str, Any]], None]) -> None:
    description = json.loads((model / "model.json").read_text())
    change(description)
    (model / "model.json").write_text(json.dumps(sealed({k: v for k, v in description.items() if k != "sha256"})))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format=99), "update gpumlp"),
        (lambda d: d.update(format="x"), "format 'x'"),
        (lambda d: d.update(weights="0" * 64), "do not match"),
        (lambda d: d["network"].update(inputs=10**12), "10000000000"),
        (lambda d: d["network"].update(inputs=3), "shapes"),
        (lambda d: d["network"].update(hidden=[{"units": 9}]), "shapes|parameters do not agree"),
        (lambda d: d["network"].update(hidden=[{"units": 8, "activation": "__import__"}]), "__import__"),
        (lambda d: d["network"].update(hidden=[{"unit": 8}]), "unit"),
        (lambda d: d["network"].update(dtype="object"), "object"),
        (lambda d: d["network"].update(link="os.system"), "os.system"),
        (lambda d: d.pop("encoder"), "encoder"),
        (lambda d: d.update(encoder=[]), "damaged|mapping|section"),
        (lambda d: d.pop("network"), "network"),
    ],
)
def test_a_description_is_not_trusted(model: Path, change: Callable[[dict[str, Any]], None], message: str) -> None:
    changed(model, change)
    with pytest.raises(RunError, match=message):
        load_model(model, Backend())


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"3", b"{", b"\xff\xfe", b'{"format": 1}'])
def test_a_description_that_is_none(model: Path, content: bytes) -> None:
    (model / "model.json").write_bytes(content)
    with pytest.raises(RunError, match=r"model\.json"):
        load_model(model, Backend())


def test_weights_of_another_model(model: Path) -> None:
    arrays, _ = read_arrays(model / "weights.safetensors")
    name = next(name for name in arrays if name.endswith(".b"))
    arrays[name] = arrays[name] + 1
    write_arrays(model / "weights.safetensors", arrays, {"format": 1})
    with pytest.raises(RunError, match="do not match"):
        load_model(model, Backend())


def test_missing_weights(model: Path) -> None:
    (model / "weights.safetensors").unlink()
    with pytest.raises(RunError, match=r"weights\.safetensors.*missing"):
        load_model(model, Backend())


def test_a_device_that_is_full_is_not_a_damaged_model(model: Path) -> None:
    class Full(Backend):
        def zeros(self, shape: tuple[int, ...], dtype: Any) -> Any:
            raise BackendError("the device has no memory left")

    with pytest.raises(BackendError, match=r"^the device has no memory left$"):
        load_model(model, Full())


def test_a_model_is_replaced_whole_or_not_at_all(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved, folder = load_model(model, Backend()), tmp_path / "kept"
    saved.save(folder)
    before = {each.name: each.read_bytes() for each in folder.iterdir()}

    kept: list[Path] = []

    def fails_then(path: Path, content: bytes) -> None:
        if kept:
            raise WriteError("cannot be written", where=str(path))
        kept.append(path)
        keep_bytes(path, content[:-1])

    with monkeypatch.context() as patch:
        patch.setattr("gpumlp.runs.model.keep_bytes", fails_then)
        with pytest.raises(WriteError):
            saved.save(folder)
    assert len(kept) == 1
    assert {each.name: each.read_bytes() for each in folder.iterdir()} == before
    (folder / "mine").touch()
    saved.save(folder)
    assert {each.name for each in folder.iterdir()} == {*before, "mine"}
