"""Ranks on GPUs, behind stand-ins for CuPy and NCCL: the same bits as by one rank, and clear messages."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpumlp.backend import CupyBackend
from gpumlp.config import load
from gpumlp.errors import BackendError, RunError, SignalError
from gpumlp.ranks import Ranks
from gpumlp.ranks.devices import Nccl as Exchange
from gpumlp.ranks.devices import connect
from gpumlp.runs import train
from ranks.cases import written
from ranks.devices import Nccl, NcclError, on_devices
from ranks.test_runs import SETTINGS, config

__all__ = ["config"]  # a fixture


@pytest.mark.parametrize("way", ["NCCL", "no NCCL", "GPUMLP_NCCL=0"])
def test_devices_exchange_as_hosts_do(
    way: str, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is that of one rank on one device; each has its own, and is asked to end as one."""
    loaded = load(config, [*SETTINGS[1:], "backend=cupy", "training.epochs=2"])
    if way == "GPUMLP_NCCL=0":
        monkeypatch.setenv("GPUMLP_NCCL", "0")

    def run(ranks: Ranks, nccl: Nccl) -> tuple[Any, ...]:
        result = train(loaded, tmp_path / f"{ranks.size}", ranks=ranks)
        return nccl.cupy.graphs, nccl.calls, [str(note) for note in result.notes if "NCCL" in str(note)]

    (alone,) = on_devices(1, run, monkeypatch)
    found = on_devices(2, run, monkeypatch, available=way != "no NCCL")
    assert written(tmp_path / "2") == written(tmp_path / "1"), found
    assert alone[1:] == ([], [])
    for graphs, calls, _ in found:
        assert graphs
        assert (set(calls) == {"group", "allGather"}) == (way == "NCCL")
    if way == "no NCCL":
        assert "CuPy has no NCCL on rank 0, rank 1: gradients go through the memory of the hosts" in found[0][2][0]
    else:
        assert found[0][2] == []


def test_a_signal_to_one_ends_all_after_the_same_step(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load(config, [*SETTINGS[1:], "backend=cupy", "training.epochs=2"])

    def run(ranks: Ranks, nccl: Nccl) -> None:
        exchange, left = ranks.allgather, iter(range(4))

        def allgather(source: Any, *, out: Any) -> Any:
            if ranks.number and next(left, None) is None:
                ranks.wish, source = signal.SIGTERM, np.array([signal.SIGTERM])
            return exchange(source, out=out)

        ranks.allgather = allgather  # type: ignore[method-assign]
        train(loaded, tmp_path / "run", ranks=ranks)

    assert [type(each) for each in on_devices(2, run, monkeypatch)] == [SignalError] * 2
    assert max((tmp_path / "run" / "checkpoints").iterdir()).stem == "step-000000005"
    for place in ("run", "whole"):
        on_devices(1, lambda _, __, to=place: train(loaded, tmp_path / to, resume=True), monkeypatch)
    assert written(tmp_path / "run") == written(tmp_path / "whole")


@pytest.mark.parametrize(
    ("fault", "code", "message"),
    [
        ("one device", 2, "rank 0 and rank 1 have the same GPU\n  start one rank for each GPU, or set"),
        ("NCCL fails", 1, "NCCL, which exchanges gradients between GPUs, has failed (NCCL_ERROR_SYSTEM"),
        ("other backend", 1, "rank 1 has another backend: numpy there, cupy on rank 0"),
    ],
)
def test_devices_that_cannot_meet_are_one_message_before_data_are_read(
    fault: str, code: int, message: str, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load(config, [*SETTINGS[1:], "backend=cupy"])
    monkeypatch.setattr("gpumlp.runs.run.load_data", None)

    def run(ranks: Ranks, nccl: Nccl) -> None:
        there = loaded
        if fault == "one device":
            ranks.local = 0
        elif fault == "NCCL fails":
            nccl.error = NcclError("NCCL_ERROR_SYSTEM_ERROR: unhandled system error")
        elif ranks.number:
            there = replace(loaded, settings=loaded.settings.model_copy(update={"backend": "numpy"}))
        train(there, tmp_path / "run", ranks=ranks)

    for found in on_devices(2, run, monkeypatch):
        assert found.exit_code == code, found
        assert message in str(found)
    assert not (tmp_path / "run").exists()


def test_processes_take_the_devices_of_a_machine_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(ranks: Ranks, nccl: Nccl) -> list[int]:
        return [CupyBackend(device, turn=turn).device.id for device, turn in ((0, 0), (0, 1), (2, 1), (1, 3), (3, 6))]

    assert on_devices(1, chosen, monkeypatch) == [[0, 1, 3, 0, 1]]


@pytest.mark.parametrize("fault", ["stands still", "fails"])
def test_a_wait_for_the_device_ends(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a rank whose GPU is lost: its process answers, but nothing arrives."""

    def run(ranks: Ranks, nccl: Nccl) -> str:
        ranks.limit = 0.01
        backend = CupyBackend(turn=ranks.number)
        assert connect(ranks, backend) is None
        exchange, sent = ranks.exchange, backend.asarray(np.arange(8) + 10 * ranks.number)
        assert isinstance(exchange, Exchange)
        with backend.quiet():
            received = exchange.alltoall(sent, out=backend.allocate((8,), np.int64))
        exchange.keep_pace()
        exchange.keep_pace()
        event = exchange._before
        event.done = False
        if fault == "fails":
            nccl.error = NcclError("NCCL_ERROR_REMOTE_ERROR: remote process exited or there was a network error")
        with pytest.raises(RunError if fault == "stands still" else BackendError) as found:
            exchange.keep_pace()
        assert nccl.aborted
        return f"{backend.to_host(received).tolist()}: {found.value}"

    for number, text in enumerate(on_devices(2, run, monkeypatch)):
        own = [part + 10 * rank for rank in range(2) for part in range(4 * number, 4 * number + 4)]
        assert text.startswith(f"{own}: "), text
        said = {"stands still": "waited 0.01 s for the exchange between GPUs", "fails": "NCCL_ERROR_REMOTE_ERROR"}
        assert said[fault] in text


def test_one_rank_that_lacks_nccl_is_named_and_all_go_by_their_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(ranks: Ranks, nccl: Nccl) -> tuple[str, str]:
        nccl.available = ranks.number != 1
        note = connect(ranks, CupyBackend(turn=ranks.number))
        return type(ranks.exchange).__name__, str(note)

    for exchange, note in on_devices(2, run, monkeypatch):
        assert exchange == "Staged"
        assert note.startswith("CuPy has no NCCL on rank 1: ")
