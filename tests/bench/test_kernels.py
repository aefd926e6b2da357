"""The kernel benchmark leaves no kernel out, counts bytes as one does by hand, and believes no wrong kernel."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from backend.fake_cupy import installed
from click.testing import CliRunner

from gpumlp.backend import Backend, CupyBackend, NativeBackend
from gpumlp.backend.host import builder
from gpumlp.backend.kernels import folder, kernels_of
from gpumlp.bench import clock as clocks
from gpumlp.bench import kernels, peers
from gpumlp.bench.clock import Clock, Times, times
from gpumlp.bench.copies import Copy
from gpumlp.bench.goals import missed, size_text
from gpumlp.bench.kernels import LADDER, KernelTimes, bench, bytes_moved, entries
from gpumlp.bench.peers import PEERS
from gpumlp.checks.agreement import fault, faults
from gpumlp.cli import main
from gpumlp.errors import BackendError, ConfigError

needs_compiler = pytest.mark.skipif(builder.compiler() is None, reason="no C++ compiler: install g++ or clang")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little time for each kernel, and a cache that is soon read through."""
    monkeypatch.setattr(clocks, "MIN_SAMPLE_S", 1e-6)
    monkeypatch.setattr(clocks, "last_cache", lambda backend: 1 << 16)


def entry(name: str) -> kernels.Entry:
    return next(e for e in entries() if e.name == name)


@needs_compiler
def test_everything_is_done_on_the_stream_of_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one would not wait until the arrays are there: indices, say, would be whatever was there before."""
    once = Times(1.0, 1.0, 1.0)
    clock: Any = SimpleNamespace(turns=lambda size: 2, warm=lambda call: once, cold=lambda calls, size: once)
    with installed(monkeypatch) as fake:
        backend = CupyBackend()
        monkeypatch.setattr(kernels, "fault", lambda *_: "" if fake.stream is backend.stream else "another stream")
        for name in ("relu_forward", "layer_norm_backward", "softmax_cross_entropy_forward"):
            kernels._measure(backend, clock, entry(name), 4096, None)
        assert fake.streams[0].used == []


@needs_compiler
def test_a_wrong_kernel_may_be_told_among_the_right_ones(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    said = iter(["y differs", "", ""])
    monkeypatch.setattr(kernels, "fault", lambda *_: next(said))
    wrong: dict[str, str] = {}
    chosen = [entry("relu_forward"), entry("tanh_forward")]
    rows = list(bench(NativeBackend(), chosen, (4096, 8192), 1e-6, wrong))
    assert [(row.entry.op.name, row.size) for row in rows] == [("tanh", 4096), ("tanh", 8192)]
    assert list(wrong) == ["relu_forward"]
    assert "does not agree with its formula: y differs" in wrong["relu_forward"]


def test_an_operation_that_fails_does_not_end_the_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = Backend()

    def to_host(array: Any) -> Any:
        raise BackendError("the device failed")

    monkeypatch.setattr(backend, "to_host", to_host)
    found = dict(faults(backend, "relu_", ((3, 1),), (np.float32,)))
    assert len(found) > 4
    assert set(found.values()) == {"float32 (3, 1): the device failed"}


@pytest.mark.parametrize("cuda", [True, False])
def test_pytorch_is_timed_on_the_stream_whose_events_time_it(monkeypatch: pytest.MonkeyPatch, cuda: bool) -> None:
    used = []
    module = SimpleNamespace(
        is_available=lambda: cuda,
        ExternalStream=lambda place, device: (place, device),
        stream=lambda chosen: contextlib.nullcontext(used.append(chosen)),
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=module))
    with installed(monkeypatch):
        backend = CupyBackend()
        with peers.stream(backend):
            assert used == ([(backend.stream.ptr, 0)] if cuda else [])
        assert (peers.installed(backend) is None) != cuda
    with peers.stream(Backend()):
        assert len(used) == cuda


# ---- completeness ------------------------------------------------------------------------------------------------


def test_every_kernel_is_part_of_an_entry() -> None:
    place = folder()
    assert place is not None
    names = {e.name for e in entries()}
    for path in place.glob("*.cu"):
        for kernel in kernels_of(path.read_text()):
            assert any(kernel == name or kernel.startswith(f"{name}_") for name in names), kernel


@needs_compiler
def test_every_entry_is_checked_and_timed(small: None) -> None:
    rows = list(bench(NativeBackend(), entries(), (4096,), 1e-6))
    assert [row.entry.name for row in rows] == [e.name for e in entries()]
    for row in rows:
        counts = not row.entry.has_sizes
        assert (row.size, row.copy is None) == ((0, True) if counts else (4096, False))
        assert row.cold.median > 0 < row.warm.median
        walked = 4 * int(np.prod(row.shape))
        assert counts or walked == 4096
        assert row.gain("formula") or row.entry.op.name == "identity"


def test_every_peer_is_one_of_a_kernel() -> None:
    assert set(PEERS) <= {e.name for e in entries()}


def test_only() -> None:
    assert [e.name for e in entries("adam")] == ["adam_forward"]
    assert [e.name for e in entries("gelu_*_backward")] == ["gelu_bias_backward"]
    errors = {"squared_error", "absolute_error", "absolute_percentage_error"}
    assert {e.op.name for e in entries("*_error_*")} == errors  # as --help has it
    with pytest.raises(ConfigError, match="did you mean 'adam'"):
        entries("adma")


# ---- what is counted ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "by_hand"),
    [
        ("relu_forward", lambda n: 8 * n),
        ("relu_backward", lambda n: 12 * n),
        ("gelu_bias_forward", lambda n: 12 * n + 4 * 32),
        ("relu_bias_backward", lambda n: 12 * n + 4 * 32),
        ("softmax_cross_entropy_forward", lambda n: 8 * n + 4 * 32 + 4 + 4 * 8),
        ("softmax_cross_entropy_evaluate", lambda n: 4 * n + 4 * 32 + 4 + 4 * 8),
        ("adam_forward", lambda n: 28 * n + 3 * 4 + 9 * 8),
        ("sgd_forward", lambda n: 12 * n + 3 * 4 + 9 * 8),
        ("gather_forward", lambda n: 8 * n + 2 * 4 * 32 + 3 * 8),
        ("gradient_norm_forward", lambda n: 4 * n + 4),
    ],
)
def test_bytes_moved(name: str, by_hand: Callable[[int], int]) -> None:
    chosen = entry(name)
    inputs, params = chosen.example(4096)
    outputs = Backend().run(chosen.op, chosen.direction, inputs, None, **params)
    assert bytes_moved(chosen.definition, inputs, outputs) == by_hand(1024)


@pytest.mark.parametrize("size", LADDER[:5])
def test_examples_have_the_size_they_are_asked_for(size: int) -> None:
    (x, *_), _ = entry("softmax_forward").example(size)
    assert x.nbytes == size
    assert x.shape[1] in (x.shape[0], 1024)


# ---- what is believed --------------------------------------------------------------------------------------------


class Wrong(NativeBackend if builder.compiler() else Backend):  # type: ignore[misc]
    """A backend whose kernels leave out the last element."""

    def bind(self, op: Any, direction: str, inputs: Any, outputs: Any, params: Any) -> Any:
        launch = super().bind(op, direction, inputs, outputs, params)

        def but_the_last() -> None:
            last = outputs[0].reshape(-1)[-1:].copy()
            launch()
            outputs[0].reshape(-1)[-1:] = last

        return but_the_last


@needs_compiler
def test_a_wrong_kernel_is_not_timed(small: None) -> None:
    with pytest.raises(BackendError, match=r"tanh_forward on \(32, 32\) does not agree with its formula: y: 1 of"):
        list(bench(Wrong(), entries("tanh_forward"), (4096,), 1e-6))


@needs_compiler
def test_faults_are_found_and_none_where_there_is_none() -> None:
    assert dict(faults(Wrong(), "tanh_forward")) == {"tanh_forward": "float32 (1, 1): y: 1 of 1 differ"}
    found = dict(faults(NativeBackend(), "layer_norm"))
    assert found == {"layer_norm_forward": "", "layer_norm_backward": ""}


@pytest.mark.parametrize(
    ("name", "output", "factor"),
    [
        ("softmax_cross_entropy_forward", 2, 1.0001),  # a gradient has small values, the smaller the more rows
        ("squared_error_forward", 2, 1.0001),
        ("adam_forward", 0, 1.0001),
        ("batch_norm_forward", 1, 1.5),
        ("relu_bias_backward", 0, 1.0001),
        ("relu_bias_backward", 1, 1.01),
    ],
)
def test_a_small_fault_shows_at_any_size(name: str, output: int, factor: float) -> None:
    chosen = entry(name)
    for size in (4096, 1 << 22):
        inputs, params = chosen.example(size)
        right = Backend().run(chosen.op, chosen.direction, inputs, None, **params)
        assert fault(np, chosen.definition, inputs, right, right) == ""
        off = [a if i != output or a is None else a * np.asarray(factor, a.dtype) for i, a in enumerate(right)]
        name_of_output = chosen.definition.outputs[output].rstrip("?")
        assert fault(np, chosen.definition, inputs, off, right).startswith(name_of_output), size


def test_the_reference_has_nothing_to_time() -> None:
    with pytest.raises(ConfigError, match="numpy has no kernels"):
        bench(Backend(), entries())  # before a row is asked for


# ---- times -------------------------------------------------------------------------------------------------------


def test_median_and_quartiles() -> None:
    found = times([5.0, 1.0, 2.0, 3.0, 4.0])
    assert found == Times(3.0, 2.0, 4.0)
    assert found.spread == pytest.approx(2 / 3)


def test_cold_calls_find_nothing_in_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small arrays wait until enough else has been read; large ones only for their turn, and all have one."""
    monkeypatch.setattr(clocks, "last_cache", lambda backend: 1 << 20)
    clock, said = Clock(Backend(), 0.01), []
    monkeypatch.setattr(clock, "_evict", lambda: said.append("evict"))
    clock.cold([lambda: said.append("a"), lambda: said.append("b")], 1000)
    timed = said[4:]  # once to warm up, once to see how long it takes
    assert timed[:6] == ["evict", "a", "b", "evict", "a", "b"]
    said.clear()
    clock.cold([lambda: said.append("a"), lambda: said.append("b")], 1 << 20)
    assert set(said) == {"a", "b"}
    assert clock.turns(1 << 20) == 2
    assert clock.turns(1 << 19) == 3
    assert clock.turns(8) == clocks.MAX_SAMPLES


class Event:
    """An event on a device on which every launch takes a millisecond."""

    now = 0.0

    def record(self) -> None:
        self.at = Event.now

    def synchronize(self) -> None:
        pass


class Device(ModuleType):
    """As much of CuPy as a clock needs, on the host."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def RawKernel(self, text: str, name: str) -> Any:  # noqa: N802
        return lambda *_: self.launch("ahead")

    def launch(self, name: str) -> None:
        self.launched.append(name)
        Event.now += 1e-3


def test_a_device_is_timed_by_its_events_while_the_host_runs_ahead() -> None:
    device = Device("cupy")
    device.launched, backend = [], Backend()
    backend.xp = device
    runtime = SimpleNamespace(
        getDevice=lambda: 0,
        getDeviceProperties=lambda _: {"l2CacheSize": 4096},
        memGetInfo=lambda: (1 << 20, 1 << 20),
    )
    elapsed = lambda start, stop: 1e3 * (stop.at - start.at)  # noqa: E731
    device.cuda = SimpleNamespace(Event=Event, get_elapsed_time=elapsed, runtime=runtime)
    taken = Clock(backend, 0.01).warm(lambda: device.launch("kernel"))
    assert taken.median == pytest.approx(1e-3)
    assert device.launched[:4] == ["kernel", "ahead", "kernel", "ahead"]


# ---- goals -------------------------------------------------------------------------------------------------------


def row(name: str, size: int, seconds: float, formula: float) -> KernelTimes:
    """A row of a machine that copies 10 GB a second."""
    taken = Times(seconds, seconds, seconds)
    copy = Copy(size, 1e10, 1e10, "", "")
    return KernelTimes(
        entry(name), size, (1, 1), 2 * size, taken, taken, copy, Times(formula, formula, formula), None
    )


def test_goals_on_a_cpu() -> None:
    size = LADDER[-1]
    at_copy = 2 * size / 1e10
    assert missed([row("relu_forward", size, at_copy / 0.86, at_copy * 3)], on_device=False) == []
    assert missed([row("relu_forward", size, at_copy / 0.84, at_copy * 3)], on_device=False) == [
        "84% of copy at 64 MiB"
    ]
    assert missed([row("adam_forward", 4096, 1.0, 1.5)], on_device=False) == ["1.5 x at 4 KiB"]
    assert missed([row("softmax_forward", size, 9 * at_copy, at_copy)], on_device=False) == []


def test_goals_on_a_device() -> None:
    size = LADDER[-1]
    at_copy = 2 * size / 1e10
    assert missed([row("relu_forward", size, at_copy / 0.96, 0.0)], on_device=True) == ["96% of copy at 64 MiB"]
    assert missed([row("softmax_forward", size, at_copy / 0.96, 0.0)], on_device=True) == []
    assert missed([row("softmax_forward", size, at_copy / 0.94, 0.0)], on_device=True) == ["94% of copy at 64 MiB"]
    assert missed([row("layer_norm_forward", size, 9 * at_copy, 0.0)], on_device=True) == []


def test_sizes_are_told_in_the_units_of_memory() -> None:
    assert [size_text(size) for size in LADDER[::3]] == ["4 KiB", "256 KiB", "16 MiB"]


# ---- the command -------------------------------------------------------------------------------------------------


@needs_compiler
def test_the_command_prints_a_table_and_writes_what_it_is_asked_for(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr("gpumlp.cli.bench.QUICK", (4096,))
    file, picture = tmp_path / "k.json", tmp_path / "k.png"
    command = ["bench", "kernels", "--only", "relu_*", "--quick", "--json", str(file), "--plot", str(picture)]
    result = CliRunner().invoke(main, [*command, "--backend", "native"])
    assert result.exit_code == 0, result.stderr
    assert "relu_bias_backward" in result.stdout
    assert "85% of the copy bandwidth" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 120
    found = json.loads(file.read_text())
    assert {k["kernel"] for k in found["kernels"]} == {e.name for e in entries("relu_*")}
    assert found["machine"]["backend"] == "native"
    assert {"date", "processor", "cores", "numpy", "gpumlp"} <= found["machine"].keys()
    (first, *_) = found["kernels"]
    assert first["bytes_moved"] == 8192
    assert first["warm"]["bandwidth"] == pytest.approx(8192 / first["warm"]["seconds"]["median"])
    (copy,) = found["copies"]
    assert first["cold"]["share_of_copy"] == pytest.approx(first["cold"]["bandwidth"] / copy["cold"])
    assert picture.read_bytes().startswith(b"\x89PNG")
    again = CliRunner().invoke(main, command)
    assert again.exit_code == 1
    assert "the file exists" in again.stderr


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--only", "nothing"], 2, "no kernel matches 'nothing'"),
        (["--backend", "numpy"], 2, "has no kernels"),
        (["--plot", "k.bmp"], 2, "cannot draw .bmp"),
        (["--plot", "k.png", "--only", "advance"], 2, "advance_forward has a single size, so there is no curve"),
    ],
)
def test_what_the_command_refuses(options: list[str], code: int, said: str) -> None:
    result = CliRunner().invoke(main, ["bench", "kernels", *options])
    assert (result.exit_code, said in result.stderr) == (code, True), result.stderr
    assert (result.stdout, result.stderr.startswith("error: ")) == ("", True)  # nothing was begun
