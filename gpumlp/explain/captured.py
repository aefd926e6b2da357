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
from gpumlp.errors import TapeError
from gpumlp.explain.diagram import Edge, Node
from gpumlp.explain.graph import Graph, results_of

WARM_UP = 5  # replays that are not counted
REPLAYS = 200  # at most, and
SECONDS = 2.0  # at most


def capture_step(function: Callable[..., Any], *inputs: Tensor) -> Plan:
    """Capture a step of ``function(*inputs)``: what it returns, and the gradients of all Variables that it uses.

    They are the gradients of the sum of the scalar results, or of all results where none is scalar, as in
    :func:`gpumlp.explain.graph.trace`. Replaying returns the results by name, and the gradients by variable.

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
            raise TapeError("the function uses no Variable: a captured step is made for their gradients")
        return results, tape.gradient(target, [*variables.values()])

    returned = results_of(function, function(*inputs))
    return next(iter(returned.values())).backend.capture(step, *inputs)


def time_calls(plan: Plan, before: Callable[[], object] = lambda: None) -> Graph:
    """Replay a step many times and return its calls as a chain, each with its median time and its share of the sum.

    ``before`` is called ahead of every replay, for a step that moves on by itself. The times are those of the host
    from call to call: on a device that works behind the host's back they would be those of asking it.
    """
    times: list[list[float]] = [[] for _ in plan.calls]
    started = time.perf_counter()
    for replay in range(WARM_UP + REPLAYS):
        before()
        with plan.backend.quiet():
            for call, taken in zip(plan.calls, times, strict=True):
                begun = time.perf_counter()
                call.launch()
                taken.append(time.perf_counter() - begun)
        if replay > WARM_UP and time.perf_counter() - started > SECONDS:
            break
    medians = [statistics.median(taken[WARM_UP:]) for taken in times]
    return chain(plan.calls, medians)


def chain(calls: Sequence[Call], seconds: Sequence[float]) -> Graph:
    """Return calls as a graph, one after the other, with these times."""
    whole = sum(seconds) or 1.0
    nodes = [
        Node(
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
    if call.name == "matmul":
        return " · ".join("×".join(map(str, shape)) for shape in call.shapes)
    longest: tuple[int, ...] = max(call.shapes, key=lambda shape: len(shape), default=())
    return " × ".join(map(str, longest))
