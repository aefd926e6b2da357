"""A captured step as a graph: the kernels and products that it really runs, in order, with what each takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

from gpumlp.autodiff import GradientTape, Tensor, Variable, add
from gpumlp.autodiff import sum as tensor_sum
from gpumlp.backend import Call, Plan
from gpumlp.drawing.diagram import DiagramNode, Edge
from gpumlp.drawing.graph import Graph, results_of
from gpumlp.errors import TapeError

WARM_UP = 5  # replays that are not counted
REPLAYS = 200  # at most, and
SECONDS = 1.0  # at most


def capture_step(function: Callable[..., Any], *inputs: Tensor) -> Plan:
    """Capture a step of ``function(*inputs)``: what it returns, and the gradients of all Variables that it uses.

    They are the gradients of the sum of the scalar results, or of all results where none is scalar, as in
    :func:`gpumlp.drawing.graph.trace`. Replaying returns the results by name, and the gradients by variable.

    Raises CaptureError where the step could not be replayed, TapeError where it uses no variable.
    """

    def step(*tensors: Tensor) -> tuple[dict[str, Tensor], list[Tensor | None]]:
        with GradientTape() as tape:
            results = results_of(function, function(*tensors))
            scalars = [result for result in results.values() if result.shape == ()]
            targets = scalars or [tensor_sum(result) for result in results.values()]
            target = reduce(add, targets)
        variables = {id(v): v for node in tape.nodes for v in node.inputs if isinstance(v, Variable)}
        if not variables:
            raise TapeError("the function uses no Variable, so there is no step to capture")
        return results, tape.gradient(target, [*variables.values()])

    returned = results_of(function, function(*inputs))
    return next(iter(returned.values())).backend.capture(step, *inputs)


def time_calls(plan: Plan, before: Callable[[], object] = lambda: None) -> tuple[Graph, float]:
    """Return the calls of a step as a chain, each with its median time and its share, and the time of a replay.

    Both are medians over many replays, in seconds: first of each call made by itself, then of all as a replay makes
    them, which may be fewer and is faster than the sum. ``before`` is called ahead of every replay, for a step that
    moves on by itself. The times are those of the host from call to call: on a device that works behind the host's
    back they would be those of asking it.
    """
    singly = _median_times([call.launch for call in plan.calls], plan, before)
    return chain(plan.calls, singly), sum(_median_times(plan.runs, plan, before))


def _median_times(launches: Sequence[Callable[[], None]], plan: Plan, before: Callable[[], object]) -> list[float]:
    times: list[list[float]] = [[] for _ in launches]
    started = time.perf_counter()
    for replay in range(WARM_UP + REPLAYS):
        before()
        with plan.backend.quiet():
            for launch, taken in zip(launches, times, strict=True):
                begun = time.perf_counter()
                launch()
                taken.append(time.perf_counter() - begun)
        if replay > WARM_UP and time.perf_counter() - started > SECONDS:
            break
    return [statistics.median(taken[WARM_UP:]) for taken in times]


def chain(calls: Sequence[Call], seconds: Sequence[float]) -> Graph:
    """Return calls as a graph, one after the other, with these times."""
    whole = sum(seconds) or 1.0
    nodes = [
        DiagramNode(
            "call",
            call.name.replace("_", " "),
            name=f"{number}. {call.name}",
            note=_operands(call),
            share=taken / whole,
            seconds=taken,
        )
        for number, (call, taken) in enumerate(zip(calls, seconds, strict=True), 1)
    ]
    return Graph(tuple(nodes), tuple(Edge(i, i + 1) for i in range(len(nodes) - 1)), summary=True)


def _operands(call: Call) -> str:
    """Return the shapes that a product multiplies, or the one that a kernel runs over."""
    if call.multiplies:
        return " · ".join("×".join(map(str, shape)) for shape in call.shapes)
    longest: tuple[int, ...] = max(call.shapes, key=len, default=())
    return " × ".join(map(str, longest))
