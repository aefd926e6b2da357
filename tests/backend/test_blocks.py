"""Steps of several small networks in one launch, a block each: on the stand-in for CuPy, and in the checked form."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checked.machine import KernelError, Machine, State

from backend import test_nvrtc as nvrtc
from backend.fake_cupy import PLACES, Cupy, installed, ndarray
from gpumlp.backend import CupyBackend
from gpumlp.backend.cuda import blocks, gpu
from gpumlp.backend.cuda.launcher import OPTIONS, Launcher
from gpumlp.backend.geometry import Geometry
from gpumlp.backend.host import builder
from gpumlp.backend.host.native import as_bits
from gpumlp.config import configure
from gpumlp.data import prepare, rows_of, with_columns
from gpumlp.errors import BackendError
from gpumlp.nn.losses import LOSSES
from gpumlp.ops import ACTIVATIONS
from gpumlp.ops.record import Op
from gpumlp.optim import OPTIMIZERS
from gpumlp.training import build as building
from gpumlp.training.build import build
from gpumlp.training.loop import Epoch, Loop
from gpumlp.training.members import MembersLoop

pytestmark = pytest.mark.skipif(builder.compiler() is None, reason="no C++ compiler: install g++ or clang")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cupy]:
    with installed(monkeypatch) as module:
        yield module


def members(*, regression: bool = False, classes: int = 3, weighted: bool = False, **given: Any) -> MembersLoop:
    """Return a loop over three networks on CuPy, on 70 rows with 5 columns."""
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((70, 5)).astype(np.float32), rng.integers(0, classes, 70)
    column = 0.5 + abs(x[:, 0]) if regression else np.array([f"class {each}" for each in y], object)
    task = "regression" if regression else "classification"
    wanted: dict[str, Any] = {"weights": "w"} if weighted else {}
    settings = configure(
        **{
            "task": task,
            "backend": "cupy",
            "data": {"train": "<rows>", "target": "y", **wanted},
            "model": {"hidden": [9, 6], "activation": "tanh"},
            "training": {"epochs": 3, "batch_size": 16},
            "members": {"count": 3, "learning_rate": [0.01, 0.02, 0.001]},
            **given,
        }
    ).settings
    more = {"w": rng.uniform(0.5, 2.0, 70)} if weighted else {}
    source = with_columns(rows_of(x), {"y": column, **more})
    data = prepare(source, task=task, target="y", validation=0.2, test=0.0, seed=0, goal=settings.goal, **wanted)
    return MembersLoop(build(settings, data))


CLASSIFICATION = ("cross_entropy", "focal", "hinge")
REGRESSION: dict[str, dict[str, Any]] = {
    **{name: {} for name in ("squared_error", "absolute_error", "huber", "absolute_percentage_error", "poisson")},
    "quantile": {"levels": [0.1, 0.5, 0.9]},
}
"""Losses with what they need besides."""


def weights(loop: Loop) -> dict[str, Any]:
    return loop.parts.model.parameters.arrays()


SMALL: dict[str, Any] = {
    "regression": True,
    "optimizer": {"name": "momentum"},
    "model": {"hidden": [9, 6], "activation": "relu"},
}
MORE: dict[str, Any] = {
    "optimizer": {"name": "adamw", "clip_norm": 0.5, "averaging": 0.9},
    "model": {"hidden": [9, 6], "activation": "gelu", "norm": "batch", "dropout": 0.2},
    "loss": {"label_smoothing": 0.1, "class_weight": "balanced"},
}

TOLERANCES = {"float32": (2e-4, 3e-4), "bf16": (2e-2, 2e-2), "float64": (1e-12, 1e-12)}
"""Of losses, relative, and of weights, absolute, by precision."""


@pytest.mark.parametrize(
    "more",
    [{}, MORE, {"regression": True}, MORE | {"precision": "bf16"}, {"precision": "float64"}],
    ids=["plain", "more", "regression", "bf16", "float64"],
)
def test_networks_in_blocks_are_those_in_turn(
    fake: Cupy, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any]
) -> None:
    rtol, atol = TOLERANCES[more.get("precision", "float32")]
    together = members(**more)
    rows = [event.row for event in together if isinstance(event, Epoch)]
    launches = [each for each in fake.launched if each.kernel == blocks.NAME]
    assert launches
    assert all(each.grid == (1, 1, 3) for each in launches)
    monkeypatch.setattr(building, "fits_a_block", lambda *_: False)
    in_turn = members(**more)
    for mine, alone in zip(rows, (e.row for e in in_turn if isinstance(e, Epoch)), strict=True):
        np.testing.assert_allclose(mine["member_losses"], alone["member_losses"], rtol=rtol)
    for one, other in zip(together.loops, in_turn.loops, strict=True):
        for name, values in weights(one).items():
            np.testing.assert_allclose(values, weights(other)[name], atol=atol, err_msg=name)


@pytest.mark.parametrize(
    "more",
    [
        {},
        MORE | {"precision": "bf16"},
        {"regression": True, "precision": "bf16"},
        {"model": {"hidden": [9], "activation": "relu", "norm": "batch", "dropout": 0.2}},
    ],
    ids=["plain", "more in bf16", "regression in bf16", "norm and dropout"],
)
def test_all_that_is_compiled_ahead_is_asked_for(
    fake: Cupy, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any]
) -> None:
    """And all that a step asks for in its own type is, but what gathers a batch and keeps averages."""
    ahead, asked = set(), set()
    prepare_kernels, compiled = Launcher.prepare, Launcher._compiled

    def prepared(self: Launcher, kernels: Iterable[tuple[Op, tuple[str, ...]]]) -> None:
        kernels = list(kernels)
        ahead.update((op.name, *types) for op, types in kernels)
        prepare_kernels(self, kernels)

    def wanted(self: Launcher, op: Op, types: tuple[str, ...]) -> dict[str, Any]:
        asked.add((op.name, *types))
        return compiled(self, op, types)

    monkeypatch.setattr(building, "fits_a_block", lambda *_: False)
    monkeypatch.setattr(Launcher, "prepare", prepared)
    monkeypatch.setattr(Launcher, "_compiled", wanted)
    list(members(**{"training": {"epochs": 1, "batch_size": 16}} | more))
    assert ahead <= asked
    own = "bf16" if "precision" in more else "float"
    assert {name for name, first, *_ in asked - ahead if first == own} <= {"gather", "identity", "moving_average"}


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"optimizer": {"name": "muon"}}, "muon momentum has no kernel"),
        ({"members": {"count": 3, "dropout": [0.2, 0.0, 0.0]}}, "they are not alike"),
    ],
    ids=["no kernel", "unlike networks"],
)
def test_what_blocks_cannot_take_the_whole_device_does(
    fake: Cupy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, more: dict[str, Any], why: str
) -> None:
    together = members(**more)
    list(together)
    assert not any(each.kernel == blocks.NAME for each in fake.launched)
    assert fake.graphs
    assert caplog.messages == [f"small networks are trained in turn, not in a block each: {why}"]
    monkeypatch.setattr(building, "fits_a_block", lambda *_: False)
    in_turn = members(**more)
    list(in_turn)
    for one, other in zip(together.loops, in_turn.loops, strict=True):
        for name, values in weights(one).items():
            np.testing.assert_allclose(values, weights(other)[name], atol=3e-4)


def kinds() -> Iterator[dict[str, Any]]:
    """Yield settings in which each loss, activation, optimizer, norm and option is met at least once."""
    by_task: list[dict[str, Any]] = [
        {"classes": classes, "loss": {"name": name}} for classes in (2, 3) for name in CLASSIFICATION
    ]
    by_task += [{"regression": True, "loss": {"name": name} | REGRESSION[name]} for name in REGRESSION]
    activations = itertools.cycle(name for name in ACTIVATIONS if name != "softmax")
    optimizers = itertools.cycle(name for name in OPTIMIZERS if name != "muon")
    options: Iterator[dict[str, Any]] = itertools.cycle(
        [{"norm": "layer", "dropout": 0.2}, {}, {"norm": "batch"}, {"trained_activation": True}]
    )
    for number, given in enumerate(by_task):
        yield {
            **given,
            "model": {"hidden": [9, 6], "activation": next(activations), **next(options)},
            "optimizer": {"name": next(optimizers), "clip_norm": 0.5 if number % 2 else None},
            "training": {"epochs": 1, "batch_size": 16},
            "precision": "bf16" if number % 3 == 0 else "float32",
            "weighted": number % 2 == 0,
        }


def named(more: dict[str, Any]) -> str:
    return f"{more['loss']['name']}-{more.get('classes', 1)}"


@pytest.mark.parametrize("more", [*kinds()], ids=named)
def test_every_kind_of_step_is_taken_in_blocks(
    fake: Cupy, caplog: pytest.LogCaptureFixture, more: dict[str, Any]
) -> None:
    loop = members(**more)
    (epoch,) = (event.row for event in loop if isinstance(event, Epoch))
    assert np.isfinite(epoch["member_losses"]).all()
    assert [
        each for each in caplog.messages if not each.startswith("compiling kernels")
    ] == []  # the first of a machine
    assert any(each.kernel == blocks.NAME for each in fake.launched)


def test_every_kind_is_met() -> None:
    met = [*kinds()]
    assert {each["optimizer"]["name"] for each in met} == set(OPTIMIZERS) - {"muon"}
    assert {each["model"]["activation"] for each in met} == set(ACTIVATIONS) - {"softmax"}
    assert {each["loss"]["name"] for each in met} == {name for name in LOSSES if not name.startswith("binary")}


def test_a_text_that_does_not_compile_is_done_without(
    fake: Cupy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> str:
        raise BackendError("too many registers")

    monkeypatch.setattr(blocks, "source", refuse)
    list(members())
    assert caplog.messages == ["small networks are trained in turn, not in a block each: too many registers"]
    assert fake.graphs


def test_a_network_that_has_ended_is_left_out(fake: Cupy) -> None:
    many = {"count": 3, "learning_rate": [0.5, 1e-6, 1e-6]}
    training = {"epochs": 8, "batch_size": 16, "early_stopping": {"patience": 1}}
    together = members(members=many, training=training, optimizer={"name": "sgd"})
    list(together)
    epochs = [loop.progress.epoch for loop in together.loops]
    assert len(set(epochs)) > 1
    ended = sorted(3 - sum(epoch < each for epoch in epochs) for each in range(1, max(epochs) + 1))
    grids = sorted({each.grid[2] for each in fake.launched if each.kernel == blocks.NAME})
    assert grids == sorted({*ended} - {0})


@pytest.mark.parametrize(("units", "name"), [(9, "native"), (300, "cupy")])
def test_auto_leaves_what_is_small_to_the_cpu(fake: Cupy, units: int, name: str) -> None:
    parts = members(backend="auto", members=2, model={"hidden": [units, units]}).parts
    assert parts.backend.name == name
    assert any("backend auto" in note for note in parts.notes) == (name == "native")


@pytest.mark.gpu
@pytest.mark.parametrize("more", [{}, MORE], ids=["plain", "more"])
def test_on_a_device(monkeypatch: pytest.MonkeyPatch, more: dict[str, Any]) -> None:
    """Near to networks in turn; bit for bit the same however many steps a launch takes."""
    try:
        CupyBackend()
    except BackendError as error:
        pytest.skip(str(error))
    found = []
    for change in ({}, {"MAX_STEPS_PER_GRAPH": 1}, {"fits_a_block": lambda *_: False}):
        for name, value in change.items():
            monkeypatch.setattr(gpu if name == "MAX_STEPS_PER_GRAPH" else building, name, value)
        loop = members(**more)
        list(loop)
        found.append([weights(each) for each in loop.loops])
    for many, one, in_turn in zip(*found, strict=True):
        for name, values in many.items():
            np.testing.assert_array_equal(values, one[name])
            np.testing.assert_allclose(values, in_turn[name], atol=3e-4)


def run_checked(machine: Machine, change: Callable[[str], str] = lambda text: text) -> Callable[..., None]:
    """Return what runs the text of a launch in blocks as a device would, thread by thread, with every access seen."""

    def run(text: str, grid: tuple[int, ...], block: tuple[int, int], arguments: tuple[Any, ...]) -> None:
        library = machine.make(
            "blocks", {"blocks.cu": change(text)}, [f"CHECKED_ENTRY({blocks.NAME}, {blocks.NAME})"]
        )
        values = [each.memory if isinstance(each, ndarray) else int(each) for each in arguments]
        assert library.signature(blocks.NAME) == "const int64*,const uint64*,int64,int64,int64,"
        slots = np.array([as_bits(value) for value in values], np.uint64)
        places = np.unique(np.concatenate([slots, values[1].ravel()]))
        reached = {start: each for start, each in PLACES.items() if np.any((places - start) < each.nbytes)}
        library.run(blocks.NAME, slots, Geometry(grid, block), State(list(reached.values())), 2)

    return run


def test_the_text_does_on_a_device_what_its_kernels_do_one_by_one(fake: Cupy, machine: Machine) -> None:
    found = []
    for run in (None, run_checked(machine)):
        fake.run_blocks = run
        loop = members(**MORE | {"training": {"epochs": 1, "batch_size": 20}})
        list(loop)
        found.append([weights(each) for each in loop.loops])
    for one, other in zip(*found, strict=True):
        for name, values in one.items():
            np.testing.assert_allclose(values, other[name], atol=1e-5, err_msg=name)


def test_a_barrier_between_calls_that_is_left_out_is_seen(fake: Cupy, machine: Machine) -> None:
    right = "            __syncthreads();\n        }\n}"
    fake.run_blocks = run_checked(machine, lambda text: replaced(text, right, right.replace("__syncthreads()", "")))
    with pytest.raises(KernelError, match="race"):
        list(members(**SMALL))


def replaced(text: str, right: str, wrong: str) -> str:
    assert text.count(right) == 1
    return text.replace(right, wrong)


@pytest.mark.skipif(nvrtc.library() is None, reason="no NVRTC here: pip install nvidia-cuda-nvrtc-cu12")
@pytest.mark.parametrize("architecture", nvrtc.ALL if nvrtc.ARCHITECTURES == nvrtc.ALL else [nvrtc.MAIN])
def test_nvidias_compiler_takes_the_text_within_its_budget(fake: Cupy, tmp_path: Path, architecture: int) -> None:
    """The text of a small step; of one with more in it where all architectures are asked for: a minute."""
    list(members(**(MORE if nvrtc.ARCHITECTURES == nvrtc.ALL else SMALL)))
    (text,) = (module.code for module in fake.modules if module.names == (blocks.NAME,))
    options = [*OPTIONS, f"-arch=sm_{architecture}", "-ftz=true", "--ptxas-options=-v"]
    kernel = nvrtc.Compiler(tmp_path)._compile("blocks", text, [blocks.NAME], options)[blocks.NAME]
    assert 0 < kernel.registers * nvrtc.THREADS <= 65536  # a multiprocessor takes one block
    assert kernel.spilled == 0
    assert kernel.shared <= nvrtc.MOST_SHARED
    assert kernel.parameters == "nnnnn"
