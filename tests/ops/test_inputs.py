"""Embeddings of numbers and tables of vectors, against what their definitions say, element by element."""

from __future__ import annotations

import math

import numpy as np
import pytest
from support import run

from gpumlp import autodiff as ad
from gpumlp.autodiff import GradientTape, Tensor, Variable
from gpumlp.backend import get
from gpumlp.errors import ShapeError
from gpumlp.ops.inputs import LOOKUP, PBLD, PLE, UNREACHED
from gpumlp.ops.special import cospi, sinpi

RNG = np.random.default_rng(3)


@pytest.mark.parametrize(("function", "plain"), [(cospi, math.cos), (sinpi, math.sin)])
def test_waves_are_as_exact_for_many_turns_as_for_none(function, plain):
    x = RNG.uniform(-1, 1, 50)
    near = np.array([plain(math.pi * each) for each in x])
    np.testing.assert_allclose(function(np, x), near, atol=1e-15)
    turns = 2.0 * RNG.integers(-(2**30), 2**30, 50)
    far = x + turns
    np.testing.assert_allclose(function(np, far), [plain(math.pi * each) for each in far - turns], atol=1e-15)
    np.testing.assert_array_equal(np.abs(sinpi(np, np.array([0.0, 1.0, -3.0, 1e20]))) < 1e-15, True)


def test_a_number_becomes_waves_and_itself():
    x, w, b = RNG.standard_normal((4, 3)), RNG.standard_normal((2, 5)), RNG.standard_normal((2, 5))
    V, c = RNG.standard_normal((2, 3, 5)), RNG.standard_normal((2, 3))
    (y,) = run(PBLD, "forward", x, w, b, V, c)
    for r in range(4):
        for i in range(2):
            waves = [math.cos(2 * math.pi * w[i, k] * x[r, i] + b[i, k]) for k in range(5)]
            expected = [sum(V[i, j, k] * waves[k] for k in range(5)) + c[i, j] for j in range(3)]
            np.testing.assert_allclose(y[r, i], [*expected, x[r, i]], rtol=1e-12)


def embedded(x, edges, scales, a=0.0, c=0.0, V=None):
    """The shares of the bins of one number, as long as the bins pass them on: V is the unit matrix."""
    x, edges, scales = (np.atleast_2d(np.asarray(each, float)) for each in (x, edges, scales))
    bins = edges.shape[1]
    V = np.eye(bins)[None] if V is None else V
    (y, knots) = run(PLE, "forward", x.T, edges, scales, np.full((1, V.shape[2]), a), np.full((1, V.shape[2]), c), V)
    return y[:, 0], knots


def test_shares_of_bins():
    """The parity checks of the recipe: edges 0, 1, 3."""
    y, _ = embedded([-1, 0.5, 2, 5, 0, 1, 3], [0, 1], [1, 0.5])
    assert y.tolist() == [[-1, 0], [0.5, 0], [1, 0.5], [1, 2], [0, 0], [1, 0], [1, 1]]
    assert embedded([-4, 9], [1], [0.5])[0].tolist() == [[-2.5], [4]]  # one bin has no end
    short, _ = embedded([-1, 2, 9], [0, UNREACHED, UNREACHED], [0.5, 0, 0])  # nor has the last of a number with fewer
    assert short.tolist() == [[-0.5, 0, 0], [1, 0, 0], [4.5, 0, 0]]
    none, _ = embedded([-1, 2], [UNREACHED], [0], a=3.0, c=1.0)  # without bins a straight line is left
    assert none.tolist() == [[-2], [7]]


def test_a_line_of_pieces_meets_at_the_edges():
    edges, scales, V = [-1.0, 0.0, 0.5, 2.0], [1.0, 2.0, 1 / 1.5, 1.0], RNG.standard_normal((1, 4, 6))
    low, knots = embedded(np.nextafter(edges, -9), edges, scales, 0.3, 0.1, V)
    high, _ = embedded(edges, edges, scales, 0.3, 0.1, V)
    np.testing.assert_allclose(low, high, atol=1e-14)
    np.testing.assert_allclose(knots[0], [V[0, :t].sum(axis=0) for t in range(4)], atol=1e-15)
    np.testing.assert_allclose(high - [[0.3 * e + 0.1] for e in edges], knots[0], atol=1e-14)


def test_a_code_stands_for_a_row_and_an_unknown_one_for_the_first():
    table, starts = np.arange(10.0).reshape(5, 2), np.array([0, 3, 5])
    x = np.array([[0, 0], [2, 1], [3, 2], [-1, -1], [np.nan, np.inf], [1, 0]])
    (y,) = run(LOOKUP, "forward", x, starts, table, first=0)
    assert y[:, 0, 0].tolist() == [0, 4, 0, 0, 0, 2]
    assert y[:, 1, 0].tolist() == [6, 8, 6, 6, 6, 6]
    (d,) = run(LOOKUP, "backward", x, starts, np.ones((6, 2, 2)), first=0, rows=5)
    assert d[:, 0].tolist() == [4, 1, 1, 5, 1]


@pytest.mark.parametrize("backend", ["numpy", "native"])
def test_a_captured_step_has_the_gradients_of_an_eager_one_to_the_bit(backend):
    kernels, rng = get(backend), np.random.default_rng(1)
    x = Tensor(
        np.concatenate([rng.standard_normal((9, 3)), rng.integers(0, 3, (9, 1))], axis=1).astype("f4"), kernels
    )
    shapes = [(2, 6), (2, 6), (2, 3, 6), (2, 3), (2, 4), (2, 4), (2, 3, 4), (3, 2)]
    trained = [Variable(rng.standard_normal(shape).astype("f4"), kernels) for shape in shapes]
    edges, scales = (kernels.asarray(np.array([row, row], "f4")) for row in ([-1, 0, 1], [1, 1, 1]))
    starts = kernels.asarray(np.array([0, 3]))
    places = [kernels.zeros(each.shape, np.float32) for each in trained]

    def step():
        with GradientTape() as tape:
            parts = (
                ad.pbld(x, *trained[:4]),
                ad.ple(x, edges, scales, *trained[4:7]),
                ad.lookup(x, starts, trained[7], first=3),
            )
            loss = ad.sum(ad.concat(parts) ** 2)
        for place, gradient in zip(places, tape.gradient(loss, trained), strict=True):
            kernels.copy(gradient.array, place)

    def found():
        return [kernels.to_host(place).tobytes() for place in places]

    step()
    eager = found()
    plan = kernels.capture(step)
    for place in places:
        kernels.write(place, np.zeros(place.shape))
    plan()
    assert found() == eager
    assert any(np.any(kernels.to_host(place)) for place in places)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ad.pbld(np.ones((2, 1)), *[np.ones(s) for s in ((2, 3), (2, 3), (2, 1, 3), (2, 1))]), "x must be"),
        (lambda: ad.pbld(np.ones((2, 2)), *[np.ones(s) for s in ((2, 3), (2, 3), (2, 3), (2, 1))]), "do not fit"),
        (lambda: ad.pbld(np.ones((2, 2)), np.ones((0, 3)), *[np.ones((0, 3))] * 3), "at least one row"),
        (lambda: ad.ple(np.ones((2, 2)), np.ones((2, 3)), np.ones((2, 2)), *[np.ones((2, 1))] * 3), "ple: edges"),
        (lambda: ad.lookup(np.ones((2, 2)), np.array([0]), np.ones((2, 2))), "lookup: starts"),
        (lambda: ad.lookup(np.ones((2, 2)), np.array([0, 2]), np.ones((2, 2)), first=2), "lookup: x must be"),
    ],
)  # fmt: skip
def test_shapes_that_do_not_fit_are_refused(call, message):
    with pytest.raises(ShapeError, match=message):
        call()
