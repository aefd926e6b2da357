"""What may run side by side: dependencies read off from arrays, lanes, graphs whose order is nobody's."""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.fake_cupy import CUDARuntimeError, Cupy, installed
from backend.test_graph import state, trainer
from gpumlp.backend import CupyBackend
from gpumlp.backend.cuda import branches, launcher
from gpumlp.backend.cuda import graph as graphs
from gpumlp.backend.cuda.branches import CHAIN, OTHERS, PRODUCTS, Placement, arrange, dependencies, depth, longest
from gpumlp.backend.cuda.cublaslt import Epilogue
from gpumlp.backend.cuda.graph import CudaGraph
from gpumlp.backend.cuda.launcher import Launcher
from gpumlp.backend.host import builder
from gpumlp.backend.kernels import SUMMED, Texts, extent
from gpumlp.checks.examples import examples
from gpumlp.data import Dataset
from gpumlp.nn import Dense, Loss, Sequential
from gpumlp.ops import ACTIVATIONS, RECORDS
from gpumlp.optim import Optimizer, Schedule
from gpumlp.training.trainer import Trainer

compiled = pytest.mark.skipif(builder.compiler() is None, reason="no C++ compiler: install g++ or clang")


@dataclass
class Work:
    """A launch that does nothing."""

    reads: Sequence[Any] = ()
    writes: Sequence[Any] = ()
    multiplies: bool = False


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cupy]:
    with installed(monkeypatch) as module:
        yield module


# ---- dependencies ------------------------------------------------------------------------------------------------


def test_who_waits_for_whom() -> None:
    a, b, c = (np.zeros(4) for _ in range(3))
    works = [
        Work(writes=[a]),
        Work(writes=[b]),
        Work(reads=[a], writes=[c]),  # what 0 has written
        Work(reads=[a]),
        Work(writes=[a]),  # what 0 has written, 2 and 3 read
        Work(reads=[a, b]),
        Work(reads=[b], writes=[b]),
        Work(),
    ]
    assert dependencies(works) == [set(), set(), {0}, {0}, {0, 2, 3}, {4, 1}, {1, 5}, set()]
    assert dependencies([]) == []


@pytest.mark.parametrize(
    ("one", "other", "meet"),
    [
        (np.s_[:8], np.s_[8:], False),
        (np.s_[:9], np.s_[8:], True),
        (np.s_[3:3], np.s_[:], False),
        (np.s_[0:8:2], np.s_[7:9], False),  # 0, 2, 4, 6
        (np.s_[0:9:2], np.s_[7:9], True),
        (np.s_[8:3:-1], np.s_[:4], False),  # 8, 7, 6, 5, 4
        (np.s_[8:2:-1], np.s_[:4], True),
    ],
)
def test_parts_of_one_buffer(one: slice, other: slice, meet: bool) -> None:
    buffer = np.zeros(20, np.float32)
    works = [Work(writes=[buffer[one]]), Work(reads=[buffer[other]])]
    assert dependencies(works) == [set(), {0} if meet else set()]


def test_the_memory_of_views() -> None:
    m = np.zeros((6, 8), np.float32)
    start = m.ctypes.data
    assert extent(m) == extent(m.T) == (start, start + m.nbytes)
    assert extent(m[1:3, 2:4]) == (start + 4 * 10, start + 4 * 20)
    assert extent(m[::-1]) == extent(m)
    assert len(set(extent(m[2:2]))) == 1


def test_the_longest_chain() -> None:
    assert longest([]) == []
    assert longest([set(), {0}, {0}, {1, 2}]) == [0, 1, 3]  # of two as long the earlier one
    assert longest([set(), set(), {1}, {0}, {2}]) == [1, 2, 4]


# ---- lanes -------------------------------------------------------------------------------------------------------


def test_products_and_all_else_have_a_lane_each_beside_the_chain() -> None:
    a, b, c, d, e = (np.zeros(1) for _ in range(5))
    works = [
        Work(writes=[a]),
        Work(reads=[a], writes=[b]),
        Work(reads=[a], writes=[c], multiplies=True),
        Work(reads=[a], writes=[d]),
        Work(reads=[b], writes=[b]),
        Work(reads=[c], writes=[c], multiplies=True),
        Work(reads=[b, c, d, e]),
    ]
    assert arrange(works) == [
        Placement(CHAIN),
        Placement(CHAIN),
        Placement(PRODUCTS, (0,)),
        Placement(OTHERS[0], (0,)),
        Placement(CHAIN),
        Placement(PRODUCTS),
        Placement(CHAIN, (3, 5)),
    ]
    assert depth(arrange(works)) == 4
    assert (arrange([]), depth([])) == ([], 0)


def test_a_lane_begins_after_the_first_launch_even_if_it_waits_for_nothing() -> None:
    """A stream is in a capture by waiting for one that is."""
    a, b = np.zeros(1), np.zeros(1)
    works = [Work(writes=[a]), Work(reads=[a]), Work(writes=[b], multiplies=True), Work(reads=[b], multiplies=True)]
    assert arrange(works) == [Placement(), Placement(), Placement(PRODUCTS, (0,)), Placement(PRODUCTS)]


def test_all_else_has_two_lanes_and_takes_that_where_it_waits_less() -> None:
    a, b, c, d = (np.zeros(1) for _ in range(4))
    chain = [Work(reads=[a], writes=[a]) for _ in range(6)]
    beside = [
        Work(writes=[b]),
        Work(reads=[b], writes=[b]),
        Work(writes=[c]),
        Work(reads=[c], writes=[d]),
        Work(reads=[b, d]),
    ]
    assert arrange([*chain, *beside])[6:] == [
        Placement(OTHERS[0], (0,)),
        Placement(OTHERS[0]),
        Placement(OTHERS[1], (0,)),
        Placement(OTHERS[1]),
        Placement(OTHERS[0], (9,)),
    ]


def test_nobody_waits_twice() -> None:
    a, b = np.zeros(1), np.zeros(1)
    chain = [Work(reads=[a], writes=[a]) for _ in range(3)]
    beside = [Work(reads=[a], writes=[b]) for _ in range(2)]
    assert arrange([*chain, *beside]) == [Placement(), Placement(), Placement(), Placement(), Placement()]
    assert arrange([*chain, *beside, Work(reads=[a], multiplies=True), Work(reads=[a], multiplies=True)])[-2:] == [
        Placement(PRODUCTS, (2,)),
        Placement(PRODUCTS),
    ]


@st.composite
def programs(draw: st.DrawFn) -> list[tuple[list[slice], list[slice], bool]]:
    """Launches that read and write pieces of a buffer of 12."""
    piece = st.tuples(st.integers(0, 11), st.integers(1, 4)).map(lambda at: slice(at[0], min(sum(at), 12)))
    one = st.tuples(st.lists(piece, max_size=3), st.lists(piece, max_size=2), st.booleans())
    return draw(st.lists(one, max_size=14))


@given(programs(), st.randoms(use_true_random=False))
def test_any_order_that_the_places_allow_gives_the_same(
    program: list[tuple[list[slice], list[slice], bool]], chance: random.Random
) -> None:
    buffer = np.zeros(12)
    works = [Work([buffer[s] for s in r], [buffer[s] for s in w], multiplies) for r, w, multiplies in program]
    places = arrange(works)
    before: list[set[int]] = []
    last: dict[int, int] = {}
    for number, place in enumerate(places):
        assert all(other < number and places[other].lane != place.lane for other in place.after)
        assert number == 0 or place.lane in last or place.after or place.lane == CHAIN
        before.append({*place.after, *([last[place.lane]] if place.lane in last else [])})
        last[place.lane] = number

    def run(order: Sequence[int]) -> list[int]:
        cells = [0] * 12
        for number in order:
            reads, writes, _ = program[number]
            value = hash((number, *(tuple(cells[s]) for s in reads)))
            for s in writes:
                cells[s] = [value] * len(cells[s])
        return cells

    wanted, waiting, order = run(range(len(works))), set(range(len(works))), []
    while waiting:
        order.append(chance.choice([n for n in sorted(waiting) if not before[n] & waiting]))
        waiting.discard(order[-1])
    assert run(order) == wanted
    assert depth(places) <= len(works)
    assert not works or depth(places) >= len(longest(dependencies(works)))


# ---- what kernels read and write ---------------------------------------------------------------------------------


STAGED = [
    (op.name, direction)
    for op in RECORDS.values()
    for direction, made in op.directions.items()
    if made.stages and Texts().stages(op, direction)
]


@compiled
@pytest.mark.parametrize(("name", "direction"), STAGED)
def test_each_kernel_reads_and_writes_what_its_record_says(fake: Cupy, name: str, direction: str) -> None:
    """Everything that it does not read is poisoned first, and changes nothing; what it does not write stays."""
    backend, op = CupyBackend(), RECORDS[name]
    stages = Texts().stages(op, direction)
    made = op.directions[direction]
    assert {op.entry(direction) + stage.ending for stage in made.stages} == set(stages)
    for inputs, params in examples(op, direction, 13, 7, np.float32):
        given = [None if a is None else backend.asarray(a, copy=True) for a in inputs]
        specs = made.specs(*given, **params)
        outputs = [None if spec is None else backend.zeros(*spec) for spec in specs]
        launch: Any = backend.bind(op, direction, given, outputs, params)
        arrays = [a for a in launch.nodes[0].arguments if hasattr(a, "memory")]
        assert len(arrays) == sum(a is not None for a in (*given, *outputs)) + (made.launch in SUMMED)
        for node in launch.nodes:
            read, written = ([any(a is b for b in side) for a in arrays] for side in (node.reads, node.writes))
            kept = [a.memory.copy() for a in arrays]
            with backend.quiet():
                node.put()
            wanted = [a.memory.copy() for a in arrays]
            for a, was, used in zip(arrays, kept, [r or w for r, w in zip(read, written, strict=True)], strict=True):
                a.memory[...] = was if used else np.nan if a.dtype.kind == "f" else 1
            with backend.quiet():
                node.put()
            for a, was, found, makes in zip(arrays, kept, wanted, written, strict=True):
                if makes:
                    np.testing.assert_array_equal(a.memory, found)
                else:
                    np.testing.assert_array_equal(found, was)
                a.memory[...] = found


@compiled
def test_what_products_and_copies_read_and_write(fake: Cupy) -> None:
    backend = CupyBackend()
    a, b, out, vector = (backend.zeros(shape, np.float32) for shape in ((4, 4), (4, 4), (4, 4), (4,)))
    for epilogue, extra, read, written in (
        (Epilogue.DEFAULT, None, (a, b), (out,)),
        (Epilogue.BIAS, vector, (a, b, vector), (out,)),
        (Epilogue.RELU_BIAS, vector, (a, b, vector), (out,)),
        (Epilogue.BGRADA, vector, (a, b), (out, vector)),
    ):
        assert backend.lt is not None
        product = backend.lt.product(a, b, out, epilogue, extra)
        assert product is not None
        assert product.multiplies
        assert [id(each) for each in product.reads] == [id(each) for each in read]
        assert [id(each) for each in product.writes] == [id(each) for each in written]
    copied = launcher.CopyNode(fake.cuda.runtime, backend.stream, a, b)
    assert (copied.reads, copied.writes, copied.multiplies) == ((a,), (b,), False)


# ---- graphs ------------------------------------------------------------------------------------------------------


@compiled
@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu"])
@pytest.mark.parametrize("choose", [min, max])
def test_branches_change_no_bit(fake: Cupy, activation: str, choose: Callable[[list[int]], int]) -> None:
    fake.choose = choose
    ways = ({"graphs": False}, {"branches": False}, {"branches": True})
    runs = [trainer(CupyBackend(**way), activation=activation, together=4) for way in ways]
    for _ in range(2):
        for own in runs:
            own.run_epoch()
        assert len({tuple(state(own)) for own in runs}) == 1


def each_as_late_as_may_be(fake: Cupy, activation: str = "relu") -> bool:
    """Return whether two steps are the same whichever launch comes as late as may be: so every wait is needed once.

    Rows have weights, or what one batch has left behind would do for the next.
    """
    one, other = (trainer(CupyBackend(branches=way), activation=activation, weights=True) for way in (False, True))
    plans = [own.captured().times(2) for own in (one, other)]
    (graph,) = plans[1].runs
    assert isinstance(graph, CudaGraph)
    for late in range(len(graph.nodes)):
        fake.choose = partial(_unless, late)
        for own, plan in zip((one, other), plans, strict=True):
            own.captured()  # back to the first batch
            plan()
        if state(one) != state(other):
            return False
    return True


def _unless(late: int, ready: list[int]) -> int:
    return max((number for number in ready if number != late), default=late)


@compiled
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_each_launch_may_come_as_late_as_others_let_it(fake: Cupy, activation: str) -> None:
    assert each_as_late_as_may_be(fake, activation)


@compiled
def test_that_notices_whatever_wait_is_left_out(fake: Cupy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every wait for a launch of another lane, taken out by itself; the first launch of all is waited for instead."""
    (graph,) = trainer(CupyBackend(), weights=True).captured().times(2).runs
    assert isinstance(graph, CudaGraph)
    waits = [(number, other) for number, place in enumerate(graph.places) for other in place.after if other]
    assert len(waits) > 8
    for number, other in waits:

        def without(works: Sequence[Any], number: int = number, other: int = other) -> list[Placement]:
            places = arrange(works)
            if len(places) == len(graph.places):
                after = tuple(0 if each == other else each for each in places[number].after)
                places[number] = Placement(places[number].lane, after)
            return places

        monkeypatch.setattr(graphs, "arrange", without)
        assert not each_as_late_as_may_be(fake), (number, other)


@compiled
@pytest.mark.parametrize("known", ["nothing", "what is written"])
def test_the_fake_notices_a_launch_that_does_not_wait(
    fake: Cupy, monkeypatch: pytest.MonkeyPatch, known: str
) -> None:
    """What the test before relies on."""
    real = dependencies
    plain, other = trainer(CupyBackend(branches=False)), trainer(CupyBackend())
    monkeypatch.setattr(
        branches,
        "dependencies",
        lambda works: [set() for _ in works] if known == "nothing" else real([Work((), w.writes) for w in works]),
    )
    for own in (plain, other):
        own.run_epoch()
    assert state(other) != state(plain)


@compiled
@pytest.mark.parametrize("slow", ["branches", "no branches"])
def test_what_takes_less_time_is_kept_and_leaves_no_trace(
    fake: Cupy, monkeypatch: pytest.MonkeyPatch, slow: str
) -> None:
    """Several steps are taken by both graphs; weights, clock and sums are then what they were."""
    monkeypatch.delenv("GPUMLP_BRANCHES")
    monkeypatch.setattr(graphs, "REPLAYS", 1)
    first, second = (2, 1) if slow == "branches" else (1, 2)
    times, waited = itertools.cycle((0, first, 0, second)), []
    monkeypatch.setattr(graphs, "clock", lambda: (next(times), waited[0])[0])  # no compiler at work beside it
    monkeypatch.setattr(Launcher, "wait", lambda self: waited.append(self))
    plain, other = trainer(CupyBackend(branches=False)), trainer(CupyBackend())
    for own in (plain, other):
        own.run_epoch()
    assert state(other) == state(plain)
    kept = [run for (_, count, _), plan in other._plans.items() if count > 1 for run in plan.runs]
    assert kept
    for run in kept:
        assert isinstance(run, CudaGraph)
        assert any(place.lane for place in run.places) == (slow != "branches")


@compiled
@pytest.mark.parametrize("fails", ["capture", "copies"])
def test_a_trial_that_fails_leaves_the_graph_with_branches(
    fake: Cupy, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    """It is there to gain some time: without it a run goes on as it would have."""
    monkeypatch.delenv("GPUMLP_BRANCHES")
    real, state_of = graphs.CudaGraph, graphs.state_of

    def without_branches(xp: Any, streams: Any, launches: Any) -> CudaGraph:
        if len(streams) == 1:
            raise MemoryError("no more")
        return real(xp, streams, launches)

    class Large:  # an array that the device has no room to copy
        nbytes = 0

        def copy(self) -> Any:
            raise MemoryError("no more")

    if fails == "capture":
        monkeypatch.setattr(graphs, "CudaGraph", without_branches)
    else:
        monkeypatch.setattr(graphs, "state_of", lambda nodes: [Large() for _ in state_of(nodes)])
    plain, other = trainer(CupyBackend(branches=False, graphs=False)), trainer(CupyBackend())
    for own in (plain, other):
        own.run_epoch()
    assert state(other) == state(plain)
    kept = [run for (_, count, _), plan in other._plans.items() if count > 1 for run in plan.runs]
    assert any(place.lane for run in kept if isinstance(run, real) for place in run.places)


def test_the_state_of_a_step_is_what_it_reads_before_it_is_written() -> None:
    weights, gradient, sums = (np.zeros(4) for _ in range(3))
    works = [
        Work(reads=[weights[:2]], writes=[gradient]),
        Work(reads=[gradient], writes=[gradient]),
        Work(reads=[weights, gradient], writes=[weights]),
        Work(writes=[sums]),
        Work(reads=[sums]),
    ]
    (found,) = graphs.state_of(works)
    assert found is weights


@compiled
@pytest.mark.parametrize(
    ("activation", "nodes", "deep", "more"), [("relu", 19, 13, 12), ("tanh", 21, 15, 14), ("gelu", 21, 15, 14)]
)
def test_what_a_step_takes_one_after_the_other(fake: Cupy, activation: str, nodes: int, deep: int, more: int) -> None:
    """The gradients of weights, the loss itself and the next batch are made beside; of many steps each is shorter."""
    plan = trainer(CupyBackend(), activation=activation).captured()
    (one,), (many,) = plan.runs, plan.times(8).runs
    assert isinstance(one, CudaGraph)
    assert isinstance(many, CudaGraph)
    assert (len(one.nodes), one.depth) == (nodes, deep)
    assert (len(many.nodes), many.depth) == (8 * nodes, 7 * more + deep)


@compiled
@pytest.mark.parametrize(
    ("widths", "keeps_nan", "nodes", "deep"),
    [
        ((64, 256, 256, 256, 256, 10), True, 25, 16),
        ((784, 1024, 1024, 10), True, 17, 10),
        ((64, 256, 256, 256, 256, 10), False, 29, 20),
        ((784, 1024, 1024, 10), False, 19, 12),
    ],
)
def test_the_steps_that_the_guide_tells_of(
    fake: Cupy, widths: tuple[int, ...], keeps_nan: bool, nodes: int, deep: int
) -> None:
    """docs/gpu.md, "Branches"."""
    assert fake.lt is not None
    fake.lt.keeps_nan = keeps_nan
    rng = np.random.default_rng(0)
    data = Dataset(rng.standard_normal((64, widths[0])).astype(np.float32), np.zeros(64, np.int32), None)
    *hidden, last = widths[1:]
    model = Sequential([*(Dense(width, "relu") for width in hidden), Dense(last, "softmax")])
    model.build(widths[0], backend=CupyBackend())
    optimizer = Optimizer("adamw", model.parameters, model.context.clock)
    schedule = Schedule("constant", learning_rate=1e-3)
    own = Trainer(model, Loss("cross_entropy", model), optimizer, schedule, data, epochs=2, batch_size=8)
    (many,) = own.captured().times(8).runs
    assert isinstance(many, CudaGraph)
    assert (len(many.nodes), many.depth) == (8 * nodes, 8 * deep + 1)


@compiled
def test_each_lane_has_a_workspace_of_its_own(fake: Cupy) -> None:
    own = trainer(CupyBackend())
    own.run_epoch()
    assert fake.lt is not None
    found = fake.lt.workspaces
    assert len(found) == 2
    assert all(len(places) == 1 for places in found.values())
    assert len(set.union(*found.values())) == 2


@compiled
def test_copies_and_products_go_where_they_are_put(fake: Cupy, caplog: pytest.LogCaptureFixture) -> None:
    """Both are told their stream, unlike a kernel, which CuPy puts on that of the moment."""
    backend = CupyBackend()
    x, y, z = (backend.asarray(np.full((4, 4), n, np.float32)) for n in (1, 2, 3))

    def step() -> Any:
        (h,) = backend.run(ACTIVATIONS["tanh"], "forward", (x,))
        product = backend.matmul(x, y)
        backend.copy(x, z)
        for _ in range(3):
            backend.run(ACTIVATIONS["tanh"], "forward", (h,), (h,))
        return product

    with caplog.at_level(logging.WARNING, "gpumlp"):
        plan = backend.capture(step)
    assert not caplog.records
    (run,) = plan.runs
    assert isinstance(run, CudaGraph)
    assert [place.lane for place in run.places] == [CHAIN, PRODUCTS, OTHERS[0], CHAIN, CHAIN, CHAIN]
    backend.write(x, np.full((4, 4), 5.0))
    np.testing.assert_array_equal(backend.to_host(plan()), np.full((4, 4), 40.0))
    np.testing.assert_array_equal(backend.to_host(z), np.full((4, 4), 5.0))


@compiled
def test_without_branches_where_they_cannot_be_captured(fake: Cupy, caplog: pytest.LogCaptureFixture) -> None:
    fake.branch_error = CUDARuntimeError("cudaErrorStreamCaptureIsolation: dependency created on uncaptured work")
    runs = [trainer(CupyBackend(branches=way)) for way in (True, False)]
    with caplog.at_level(logging.WARNING, "gpumlp"):
        plans = [own.captured() for own in runs]
    (line,) = (record.getMessage() for record in caplog.records)
    assert line.startswith(
        "CUDA graphs without branches, so a step may take longer: the device failed: cudaErrorStream"
    )
    for plan in plans:
        (run,) = plan.runs
        assert isinstance(run, CudaGraph)
        assert run.depth == len(run.nodes)
    for own in runs:
        own.run_epoch()
    assert state(runs[0]) == state(runs[1])


@compiled
def test_the_branches_of_a_graph_come_together_at_its_end(fake: Cupy) -> None:
    """The fake knows what was left out, as CUDA does."""
    backend = CupyBackend()
    main, beside = fake.streams[1:3]
    event = fake.cuda.Event(disable_timing=True)
    main.begin_capture()
    main.give("one", partial(int))
    event.record(main)
    beside.wait_event(event)
    beside.give("two", partial(int))
    with pytest.raises(CUDARuntimeError, match="Unjoined"):
        main.end_capture()
    assert backend.to_host(backend.zeros((1,), np.float32)) == 0
