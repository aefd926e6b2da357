"""A captured step, call by call: all calls, in order, with shares that add up, and results that stay right."""

from __future__ import annotations

import time

import numpy as np
import pytest
from support import BACKENDS

from gpumlp import backend as backends
from gpumlp.autodiff import GradientTape, Tensor, Variable, exp, mean
from gpumlp.backend import Backend, Call, Plan
from gpumlp.drawing import captured
from gpumlp.drawing.captured import capture_step, chain, time_calls
from gpumlp.errors import CaptureError, TapeError


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    return backends.get(request.param)


def test_a_captured_step_gives_what_the_tape_gives(backend: Backend) -> None:
    rng = np.random.default_rng(0)
    W, b = Variable(rng.standard_normal((3, 2)), backend), Variable(np.zeros(2), backend)

    def losses(x: Tensor) -> tuple[Tensor, Tensor]:
        h = x @ W + b
        return mean(h * h), mean(exp(h))

    first, later = (Tensor(rng.standard_normal((5, 3)), backend) for _ in range(2))
    plan = capture_step(losses, first)
    results, gradients = plan(later)
    with GradientTape() as tape:
        one, two = losses(later)
        total = one + two
    assert [t.numpy().tobytes() for t in results.values()] == [one.numpy().tobytes(), two.numpy().tobytes()]
    for taped, found in zip(tape.gradient(total, [W, b]), gradients, strict=True):
        assert taped is not None
        assert taped.numpy().tobytes() == found.numpy().tobytes()


def test_results_that_are_no_scalars_stand_for_their_sum() -> None:
    W = Variable(np.ones((2, 2)))
    _, (gradient,) = capture_step(lambda: {"a": W * 1.0, "b": 3.0 * W})()
    np.testing.assert_array_equal(gradient.numpy(), np.full((2, 2), 4.0))


def test_what_cannot_be_replayed_is_refused() -> None:
    W = Variable(np.ones(2))
    with pytest.raises(CaptureError, match="branches on the value"):
        capture_step(lambda: mean(W) if W[0] > 0 else mean(W * 2.0))
    with pytest.raises(TapeError, match="uses no Variable"):
        capture_step(lambda x: exp(x), Tensor(np.ones(2)))


def test_each_call_is_timed_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that sleeps ten times as long takes most of the step."""
    monkeypatch.setattr(captured, "REPLAYS", 5)
    ran: list[str] = []

    def call(name: str, seconds: float, *shapes: tuple[int, ...]) -> Call:
        def launch() -> None:
            ran.append(name)
            time.sleep(seconds)

        return Call(name, launch, shapes, multiplies=name == "matmul")

    calls = (call("matmul", 0.001, (4, 3), (3, 2)), call("tanh_forward", 0.02, (4, 2), (2,)), call("advance", 0.0))
    before: list[int] = []
    whole = (lambda: (ran.append("whole"), time.sleep(0.003)),)
    graph, seconds = time_calls(Plan(Backend(), calls, whole, (), None), lambda: before.append(1))
    replays = len(before) // 2
    assert ran == ["matmul", "tanh_forward", "advance"] * replays + ["whole"] * replays
    assert 0.003 <= seconds < 0.019
    assert [node.label for node in graph.nodes] == ["matmul", "tanh forward", "advance"]
    assert [node.note for node in graph.nodes] == ["4×3 · 3×2", "4 × 2", ""]
    assert [(edge.source, edge.target) for edge in graph.edges] == [(0, 1), (1, 2)]
    shares = [node.share for node in graph.nodes if node.share is not None]
    assert sum(shares) == pytest.approx(1.0)
    assert shares[1] > 0.6
    assert graph.nodes[1].seconds > 0.019


def test_times_and_shares_are_told() -> None:
    graph = chain([Call("a", print), Call("b", print)], [3e-6, 1e-6])
    text = graph.dot()
    assert "3.0 µs, 75.0 %" in text
    assert "1.0 µs, 25.0 %" in text
    fills = [line.split('fillcolor="')[1][:7] for line in text.splitlines() if "fillcolor" in line]
    assert fills[0] != fills[1]
    assert "style n0 fill:" + fills[0] in graph.mermaid()


def test_no_calls_make_no_time() -> None:
    assert [node.share for node in chain([Call("a", print)], [0.0]).nodes] == [0.0]
