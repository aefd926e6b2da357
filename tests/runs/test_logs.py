"""Logs for TensorBoard and MLflow: what their writers are given, what is missing, what fails."""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest

from gpumlp.cli.main import main
from gpumlp.config import configure
from gpumlp.errors import RunError
from gpumlp.runs import train
from gpumlp.runs.logs import EVENTS, LOGS, Listeners, Log, log_to

SECTIONS: dict[str, Any] = {
    "task": "regression",
    "data": {"train": "rows.csv", "target": "y"},
    "model": {"hidden": [4]},
    "training": {"epochs": 3},
    "backend": "numpy",
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.csv").write_text("x,y\n" + "".join(f"{i},{3 * i % 7}\n" for i in range(40)))
    return tmp_path


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return what TensorBoard reads of the event files of a folder: steps and values by tag."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    found: dict[str, list[tuple[int, float]]] = {}
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        while content:
            (size,) = struct.unpack("<Q", content[:8])
            event = event_pb2.Event.FromString(content[12 : 12 + size])
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
            content = content[16 + size :]
    return found


def test_tensorboard_has_each_epoch_and_the_result(place: Path) -> None:
    pytest.importorskip("tensorboardX")
    log = log_to("tensorboard")
    listener = Listeners([log])
    result = train(configure(**SECTIONS), place / "run", listener=listener)
    listener.finished(result.summary)
    listener.close(failed=False)
    found = scalars(place / "run" / EVENTS)
    assert [step for step, _ in found["loss/train"]] == [1, 2, 3]
    assert found["result/test/rmse"] == [(3, pytest.approx(result.summary["metrics"]["test"]["rmse"]))]
    assert {"loss/validation", "rmse/validation", "learning_rate"} <= set(found)


class Client:
    """What MLflow's client is asked for; ``runs`` by their number."""

    runs: ClassVar[dict[str, dict[str, Any]]] = {}

    def __init__(self, tracking_uri: str) -> None:
        if "unreachable" in tracking_uri:
            raise OSError("no route to host\nand more")

    def get_experiment_by_name(self, name: str) -> Any:
        return None

    def create_experiment(self, name: str) -> str:
        return "1"

    def create_run(self, experiment: str, tags: dict[str, str]) -> Any:
        number = str(len(self.runs))
        self.runs[number] = {"tags": tags, "metrics": {}, "params": {}, "files": [], "status": "RUNNING"}
        return SimpleNamespace(info=SimpleNamespace(run_id=number))

    def search_runs(self, experiments: list[str], text: str, max_results: int) -> list[Any]:
        found = [n for n, run in self.runs.items() if f"'{run['tags']['gpumlp.folder']}'" in text]
        return [SimpleNamespace(info=SimpleNamespace(run_id=number)) for number in found[-1:]]

    def update_run(self, run: str, status: str) -> None:
        self.runs[run]["status"] = status

    def log_metric(self, run: str, name: str, value: float, step: int) -> None:
        self.runs[run]["metrics"].setdefault(name, []).append(step)

    def log_param(self, run: str, name: str, value: str) -> None:
        self.runs[run]["params"][name] = value

    def log_artifact(self, run: str, path: str) -> None:
        self.runs[run]["files"].append(Path(path).name)

    def log_artifacts(self, run: str, folder: str, place: str) -> None:
        self.runs[run]["files"].append(place)

    def set_terminated(self, run: str, status: str) -> None:
        self.runs[run]["status"] = status


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> type[Client]:
    module = ModuleType("mlflow")
    module.MlflowClient = Client  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mlflow", module)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(Client, "runs", {})
    return Client


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["train", "rows.csv", "--target", "y", *arguments])
    return int(ended.value.code or 0)


def test_mlflow_has_settings_epochs_results_and_the_model(place: Path, mlflow: type[Client]) -> None:
    quick = ("--set", "backend=numpy", "--set", "model.hidden=[4]", "--run-dir", "run", "--log", "mlflow")
    assert run(*quick, "--set", "training.epochs=2") == 0
    (found,) = mlflow.runs.values()
    assert found["metrics"]["train_loss"] == [1, 2]
    assert found["params"]["model.hidden"] == "[4]"
    assert found["files"] == ["config.yaml", "summary.json", "model"]
    assert found["status"] == "FINISHED"
    assert any(name.startswith("test/") for name in found["metrics"])
    assert run(*quick, "--set", "training.epochs=3", "--resume") == 0  # goes on in the same run of MLflow
    (found,) = mlflow.runs.values()
    assert found["metrics"]["train_loss"] == [1, 2, 3]


def test_what_is_missing_or_cannot_be_reached_ends_before_anything_is_written(
    place: Path, mlflow: type[Client], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://unreachable")
    assert run("--log", "mlflow", "--run-dir", "run") == 1
    assert "MLflow has no store at http://unreachable: no route to host\n" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    assert run("--log", "tensorboard", "--run-dir", "run") == 1
    assert "pip install 'gpumlp[tensorboard]'" in capsys.readouterr().err
    assert run("--log", "wandb", "--run-dir", "run") == 2
    error = capsys.readouterr().err
    assert all(f"'{name}'" in error for name in LOGS)
    assert not (place / "run").exists()


def test_a_log_that_fails_does_not_end_the_run(place: Path) -> None:
    class Full(Log):
        def epoch(self, row: dict[str, Any], best: bool) -> None:
            raise OSError("disk full")

    notes: list[str] = []
    witness = Log()
    witness.note = lambda note: notes.append(str(note))  # type: ignore[method-assign, assignment]
    result = train(configure(**SECTIONS), place / "run", listener=Listeners([Full(), witness]))
    assert result.summary["epochs"] == 3
    assert [note for note in notes if "log" in note] == ["the log of Full has ended: disk full"]


def test_a_listener_that_is_no_log_may_fail(place: Path) -> None:
    class Stop:
        def note(self, note: object) -> None:
            raise RunError("stop")

    with pytest.raises(RunError, match="stop"):
        Listeners([Stop()]).note("note")  # type: ignore[list-item, arg-type]
