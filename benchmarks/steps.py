"""What a step of training takes: as graphs, call by call and eagerly, beside what the machine needs at least.

A replay is timed over at least 200 steps, or for five seconds, by a clock that waits for the device before and after.
The floor is counted: the operations of the products at the rate of a large product, or the bytes (every operand and
result of a product once, the batch once from the data and once more as a batch, 28 for each parameter of AdamW) at
the rate of a large copy, whichever takes longer; both rates are measured here, in the same precision.
"""

from __future__ import annotations

import importlib.util
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Any, cast

import numpy as np
from peers import Work
from recipes import RECIPES, Recipe

from gpumlp import backend as backends
from gpumlp.backend import Backend, CupyBackend, Plan
from gpumlp.backend.cuda.graph import CudaGraph
from gpumlp.bench.clock import Clock
from gpumlp.bench.copies import Copies
from gpumlp.bench.machine import on_device
from gpumlp.data import Dataset
from gpumlp.nn import Dense, Loss, Sequential
from gpumlp.ops.precision import PRECISIONS
from gpumlp.optim import Optimizer, Schedule
from gpumlp.training import Trainer
from gpumlp.training.build import is_small_step

STEPS = 200
"""Replays that a time is taken over, at least, unless that takes too long."""
LONG = 1.0
"""Seconds after which a sample is long enough, however few its steps."""
TOGETHER = 16
ADAMW = 28
"""Bytes for each parameter: it, its gradient and two moments are read, all but the gradient written."""
WORKLOADS = {
    "784-1024-1024-10, batch 1024": Work(32 * 1024, (784, 1024, 1024, 10), "relu", 1024),
    "64-256x4-10, batch 256": Work(32 * 256, (64, 256, 256, 256, 256, 10), "relu", 256),
    "64-256x4-10, batch 4096": Work(32 * 4096, (64, 256, 256, 256, 256, 10), "relu", 4096),
    "4096x4-10, batch 8192": Work(16 * 8192, (4096, 4096, 4096, 4096, 4096, 10), "relu", 8192),
}
SMALL = {
    "784-256-10, batch 128": Work(32 * 128, (784, 256, 10), "relu", 128),
    "64-256x4-10, batch 256": WORKLOADS["64-256x4-10, batch 256"],
    "784-1024-1024-10, batch 1024": WORKLOADS["784-1024-1024-10, batch 1024"],
}
DATA = lru_cache(1)(Work.data)
TINY = {"16-32-4, batch 32": Work(32 * 32, (16, 32, 4), "relu", 32)}
SIZES = {
    "4-16-3, batch 32": Work(64 * 32, (4, 16, 3), "tanh", 32),
    "64-32-10, batch 32": Work(64 * 32, (64, 32, 10), "tanh", 32),
    "64-128-10, batch 128": Work(64 * 128, (64, 128, 10), "relu", 128),
    "64-256x2-10, batch 128": Work(64 * 128, (64, 256, 256, 10), "relu", 128),
    "784-256-10, batch 128": Work(64 * 128, (784, 256, 10), "relu", 128),
    "784-1024-10, batch 256": Work(32 * 256, (784, 1024, 10), "relu", 256),
}
"""Steps on both sides of where ``backend: auto`` changes from the CPU to the device."""
IN_GRAPHS = ("tabular, mixup", "strong, 32 members", "bf16, members", "categories read by code", "schedule-free")
"""Recipes whose steps are compared, as graphs and eagerly."""
FAILED = "failed"
"""What is told of a workload in place of times, with the reason, where there are none."""
Found = dict[str, Any]


def examine(name: str, *, tiny: bool = False) -> Iterator[tuple[str, Found]]:
    """Yield what was found for each workload in each precision, by a name that says both."""
    having = backends.get(name)
    works = TINY if tiny else WORKLOADS if on_device(having) else SMALL
    rounded = ["tf32"] if backends.get(name, tf32=True).tf32 else []  # elsewhere tf32 is float32
    narrow = ["bf16"] if importlib.util.find_spec("ml_dtypes") else []
    precisions = [PRECISIONS[each] for each in (*rounded, *narrow, "float32")]
    machines = [Machine(backends.get(name, tf32=each.tf32), each.dtype, small=tiny) for each in precisions]
    # What takes the longest comes last: the time may run out.
    asked: list[tuple[str, Callable[[], Found]]] = [("graph and eager", partial(same_bits, name, small))]
    recipes = {title: RECIPES[title] for title in IN_GRAPHS}
    for title, recipe in recipes.items():
        asked.append((f"graph and eager, {title}", partial(same_bits, name, partial(of_recipe, recipe))))
    for title, recipe in recipes.items():
        asked.append((title, partial(times_of_recipe, name, recipe, 8 if tiny else STEPS)))
    for work, sizes in works.items():
        for precision, machine in zip(precisions, machines, strict=True):
            asked.append((f"{work}, {precision.name}", partial(measure, machine, sizes, 8 if tiny else STEPS)))
    for about, fact in asked:
        try:
            yield about, fact()
        except Exception as error:  # the others may work
            yield about, {FAILED: f"{type(error).__name__}: {error}"}


def beside(name: str, other: str, *, tiny: bool = False) -> Iterator[tuple[str, Found]]:
    """Yield for each size the time of a step in an epoch on two backends, and which ``auto`` would take."""
    backends_of = {each: backends.get(each) for each in (name, other)}
    for about, work in (TINY if tiny else SIZES).items():
        found: Found = {}
        for each, backend in backends_of.items():
            own = trainer(backend, work, TOGETHER)
            own.run_epoch()
            reports = [own.run_epoch() for _ in range(1 if tiny else 5)]
            taken = statistics.median(report.seconds for report in reports if report is not None)
            found[f"µs a step on {each}"] = round(1e6 * taken / own.batches, 2)
        parameters = sum((p + 1) * h for p, h in itertools.pairwise(work.widths))
        found["operations"] = 6 * parameters * work.batch
        found["auto takes"] = other if is_small_step(found["operations"]) else name
        found["faster is"] = min(backends_of, key=lambda each: found[f"µs a step on {each}"])
        yield about, found


@dataclass
class Machine:
    """A backend, what it computes with, and the rates that it reaches at best."""

    backend: Backend
    dtype: np.dtype[Any]
    small: bool

    @cached_property
    def clock(self) -> Clock:
        return Clock(self.backend, 0.02 if self.small else 0.2)

    @cached_property
    def copy(self) -> float:
        """Bytes read and written in a second."""
        large = 256 if on_device(self.backend) else 64
        return Copies(self.backend, self.clock).at((1 if self.small else large) << 20).cold

    @cached_property
    def product(self) -> float:
        """Operations of a product in a second."""
        n = 64 if self.small else 8192 if on_device(self.backend) else 1024
        rng = np.random.default_rng(0)
        a, b = (self.backend.asarray(rng.standard_normal((n, n), np.float32).astype(self.dtype)) for _ in range(2))
        out = self.backend.empty((n, n), self.dtype)
        return 2 * n**3 / self.clock.warm(partial(self.backend.matmul, a, b, out)).median


def trainer(backend: Backend, work: Work, together: int, rows: int | None = None, dtype: Any = np.float32) -> Trainer:
    """Return a trainer of a workload, on all of its rows or so many of them."""
    x, y = DATA(work)
    data = Dataset(x[:rows], y[:rows], None)
    pairs = zip(work.widths[1:], (*(work.activation for _ in work.widths[2:]), "softmax"), strict=True)
    model = Sequential([Dense(width, name) for width, name in pairs])
    model.build(work.widths[0], backend=backend, dtype=dtype)
    optimizer = Optimizer("adamw", model.parameters, model.context.clock)
    schedule = Schedule("constant", learning_rate=1e-3)
    loss = Loss("cross_entropy", model)
    return Trainer(model, loss, optimizer, schedule, data, epochs=99, batch_size=work.batch, together=together)


def floor(machine: Machine, work: Work) -> float:
    """Return the seconds that a step takes at least."""
    batch, widths = work.batch, work.widths
    pairs = list(itertools.pairwise(widths))
    weights = sum(p * h for p, h in pairs)
    operations = 6 * batch * weights - 2 * batch * widths[0] * widths[1]  # the inputs need no gradient
    touched = [batch * p + p * h + batch * h for p, h in pairs]
    numbers = 3 * sum(touched) - touched[0] + 2 * batch * widths[0]
    moved = machine.dtype.itemsize * numbers + ADAMW * (weights + sum(widths[1:]))
    return max(operations / machine.product, moved / machine.copy)


def measure(machine: Machine, work: Work, steps: int) -> Found:
    """Return the times of :func:`times_of`, and how near a step comes to the floor."""
    found = times_of(trainer(machine.backend, work, TOGETHER, dtype=machine.dtype), steps)
    least = floor(machine, work)
    found["floor, µs"] = round(1e6 * least, 2)
    found["share of the floor"] = round(1e6 * least / found["many steps a launch, µs"], 3)
    return found


def times_of(own: Trainer, steps: int) -> Found:
    """Return counts of calls, and the times of a step in µs and of an epoch in ms (medians of five)."""
    backend, plan = own.backend, own.captured()
    many = plan.times(min(TOGETHER, own.batches))
    eager = partial(own._define_step, own.batch_size)
    singly = [call.launch for call in plan.calls]

    def uncaptured() -> None:
        with backend.quiet():
            for launch in singly:
                launch()

    count = len(many.calls) // len(plan.calls)
    ways: dict[str, tuple[Callable[[], object], int]] = {
        "many steps a launch": (many, count),
        **({"many steps a launch, in one branch": (in_one_branch(plan, count), count)} if _branches(many) else {}),
        "one step a launch": (plan, 1),
        "call by call": (uncaptured, 1),
        "eager": (eager, 1),
    }
    found: Found = {
        "calls a step": len(plan.calls),
        "kernels and products a step": sum(len(getattr(call.launch, "nodes", (0,))) for call in plan.calls),
        "launches a step": len(plan.runs),
        "launches for many steps": f"{len(many.runs)} for {count}",
        "one after the other, a step of many": round(_depth(many) / count, 2),
    }
    for name, (way, count) in ways.items():
        step, host = _timed(own, way, count, steps)
        found[f"{name}, µs"], found[f"{name}, µs of the host"] = round(1e6 * step, 2), round(1e6 * host, 2)
    own.run_epoch()
    epochs = [report.seconds for _ in range(5) if (report := own.run_epoch()) is not None]
    found[f"epoch of {own.batches} steps, ms"] = round(1e3 * statistics.median(epochs), 3)
    return found


def times_of_recipe(name: str, recipe: Recipe, steps: int) -> Found:
    """Return the times of a recipe's steps. There are as many launches as calls without a kernel cut a step into."""
    return times_of(of_recipe(recipe, backends.get(name)), steps)


def in_one_branch(plan: Plan, count: int) -> Plan:
    """Return the plan of so many steps in graphs whose launches come one after the other."""
    backend = cast(CupyBackend, plan.backend)
    before, backend.branches = backend.branches, False
    try:
        return plan.times(count)
    finally:
        backend.branches = before


def _branches(plan: Plan) -> bool:
    return any(isinstance(run, CudaGraph) and run.depth < len(run.nodes) for run in plan.runs)


def _depth(plan: Plan) -> int:
    """Return how many launches come one after the other at the most."""
    return sum(run.depth if isinstance(run, CudaGraph) else 1 for run in plan.runs)


def _timed(own: Trainer, way: Callable[[], object], count: int, steps: int) -> tuple[float, float]:
    """Return the seconds of a step, and those after which the host was free again: medians of five.

    Each time an epoch is begun again, as a step goes on to the next batch.
    """
    backend, calls = own.backend, own.batches // count
    samples = []
    for _ in range(6):  # the first warms up
        taken = host = 0.0
        done = 0
        while done * 5 < steps and taken < LONG:
            own.captured()
            backend.synchronize()
            started = time.perf_counter()
            for _ in range(calls):
                way()
            host += time.perf_counter() - started
            backend.synchronize()
            taken += time.perf_counter() - started
            done += calls * count
        samples.append((taken / done, host / done))
    return tuple(statistics.median(column) for column in zip(*samples[1:], strict=True))


def same_bits(name: str, make: Callable[[Backend], Trainer]) -> Found:
    """Train two epochs of a small network in several ways, a short last batch included, and compare every byte."""
    results: dict[str, tuple[bytes, ...]] = {}
    for way in ("eager", "call by call", "one step a launch", "many steps a launch", "in one branch"):
        backend = backends.get(name)
        if isinstance(backend, CupyBackend):
            backend.branches = way != "in one branch"
        own = make(backend)
        if way == "one step a launch":
            own._most = 1
        for _ in range(2):
            if way in ("eager", "call by call"):
                _epoch_by_hand(own, replayed=way != "eager")
            else:
                own.run_epoch()
        state = (own.model.parameters.values, *own.optimizer.state.values())
        results[way] = tuple(own.backend.to_host(array).tobytes() for array in state)
    return {way: "the same bits" if result == results["eager"] else "DIFFERS" for way, result in results.items()}


def small(backend: Backend) -> Trainer:
    """Return a trainer of a small network, on rows that its batches do not divide."""
    return trainer(backend, Work(100 * 16, (16, 32, 24, 4), "relu", 16), TOGETHER, rows=37 * 16 + 5)


def of_recipe(recipe: Recipe, backend: Backend) -> Trainer:
    """Return the trainer of a recipe."""
    from gpumlp.training.build import build, load_data

    loaded = recipe.load("training.epochs=2")
    return build(loaded.settings, load_data(loaded), backend).trainer


def _epoch_by_hand(own: Trainer, *, replayed: bool) -> None:
    """Train an epoch without any graph: each step recorded anew, or its calls made one by one."""
    own._begin()
    calls: dict[int, list[Callable[[], None]]] = {}
    for batch in range(own.batches):
        rows = min(own.batch_size, own.rows - batch * own.batch_size)
        if not replayed:
            own._define_step(rows)
        elif rows not in calls:
            calls[rows] = [call.launch for call in own.backend.capture(partial(own._define_step, rows)).calls]
        else:
            with own.backend.quiet():
                for launch in calls[rows]:
                    launch()
    own.epoch, own.batch = own.epoch + 1, 0
