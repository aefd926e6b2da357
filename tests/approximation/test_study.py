"""What the theorems say, seen: errors that fall, and floors that hold."""

from __future__ import annotations

import numpy as np
import pytest

from gpumlp import backend as backends
from gpumlp.approximation import TARGETS, Study, grid, study
from gpumlp.approximation.lawson import nearest, polynomials
from gpumlp.backend import Backend
from gpumlp.errors import ConfigError, RunError


def polynomial(inputs: int, degree: int, function: object, points: int) -> tuple[float, float]:
    x = grid(inputs, points)
    return nearest(polynomials(x, degree), function(*x.T), 500)[1:]  # type: ignore[operator]


@pytest.mark.parametrize(
    ("inputs", "degree", "function", "error"),
    [
        (1, 1, lambda x: x**2, 1 / 2),  # x² - 1/2 is half of the Chebyshev polynomial T₂
        (1, 2, lambda x: x**3, 1 / 4),  # a quarter of T₃
        (1, 3, lambda x: x**4, 1 / 8),
        (1, 2, abs, 1 / 8),  # x² + 1/8
        (1, 3, abs, 1 / 8),  # odd powers do not help an even function
        (2, 1, lambda x, y: x * y, 1.0),  # the four corners alternate
        (2, 2, lambda x, y: x * y, 0.0),
    ],
)
def test_the_floor_is_the_error_that_is_known_exactly(
    inputs: int, degree: int, function: object, error: float
) -> None:
    below, above = polynomial(inputs, degree, function, 201 if inputs == 1 else 21)
    assert below <= error + 1e-9
    assert below == pytest.approx(error, rel=0.02, abs=1e-9)
    assert above == pytest.approx(error, rel=0.02, abs=1e-9)


def test_no_polynomial_comes_below_the_floor() -> None:
    x = grid(1, 101)
    y, basis = TARGETS["runge"](x), polynomials(x, 3)
    below, above = nearest(basis, y, 500)[1:]
    rng = np.random.default_rng(0)
    found = nearest(basis, y, 500).coefficients
    for size in (1e-4, 1e-2, 1.0):
        others = found + size * rng.standard_normal((200, len(found)))
        assert np.abs(y - others @ basis.T).max(axis=1).min() >= below
    assert below <= above <= np.abs(y - basis @ (basis.T @ y)).max()  # never worse than plain least squares


@pytest.mark.parametrize("target", TARGETS.values(), ids=list(TARGETS))
def test_targets_are_finite_and_continuous(target: object) -> None:
    name = target.name  # type: ignore[attr-defined]
    x = grid(TARGETS[name].inputs, 2001 if TARGETS[name].inputs == 1 else 129)
    values = TARGETS[name](x)
    assert values.shape == (len(x),)
    assert np.isfinite(values).all()
    assert 0.5 < values.max() - values.min() <= 2.0
    if TARGETS[name].inputs == 1:
        assert np.abs(np.diff(values)).max() < 0.02


def errors(found: Study, activation: str) -> list[float]:
    return next([fit.error for fit in curve.fits] for curve in found.curves if curve.activation == activation)


def test_width_brings_every_activation_but_polynomials_near_in_one_dimension() -> None:
    found = study(
        "width",
        TARGETS["sine"],
        backends.get("auto"),
        sizes=(4, 64),
        activations=("sigmoid", "tanh", "relu", "square", "cube"),
        restarts=1,
        steps=1000,
    )
    for activation in ("sigmoid", "tanh", "relu"):
        few, many = errors(found, activation)
        assert many < 1e-2
        assert many < few / 4
    for curve in found.curves[3:]:
        assert curve.floor is not None
        assert curve.floor > 0.1
        assert all(curve.floor <= fit.error < 1.1 * curve.floor for fit in curve.fits)


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu"])
def test_width_brings_every_activation_near_in_two_dimensions(activation: str) -> None:
    found = study(
        "width",
        TARGETS["hill"],
        backends.get("auto"),
        sizes=(4, 64),
        activations=(activation,),
        restarts=1,
        steps=700,
    )
    few, many = errors(found, activation)
    assert many < 3e-2
    assert many < few / 2


def test_depth_brings_narrow_networks_near_unless_they_are_affine() -> None:
    found = study("depth", TARGETS["sine"], backends.get("auto"), sizes=(1, 3, 8), restarts=2, steps=1000)
    for activation in ("tanh", "relu"):
        one, _, eight = errors(found, activation)
        assert eight < one / 2
        assert eight < 4e-2
    floor = found.curves[2].floor
    assert floor is not None
    assert all(floor <= error < 1.1 * floor for error in errors(found, "identity"))


def test_an_error_is_the_largest_anywhere() -> None:
    found = study("width", TARGETS["waves"], Backend(), sizes=[3], activations=["tanh"], restarts=2, steps=60)
    (fit,) = found.curves[0].fits
    x = np.random.default_rng(0).uniform(-1, 1, (20_000, 2))
    distance = np.abs(fit.network(x) - TARGETS["waves"](x)).max()
    assert 0.9 * fit.error < distance < 1.01 * fit.error


def test_what_is_found_depends_on_the_seed_alone() -> None:
    def once(seed: int, sizes: tuple[int, ...]) -> list[float]:
        found = study(
            "width", TARGETS["abs"], Backend(), sizes=sizes, activations=["relu"], restarts=1, steps=20, seed=seed
        )
        return errors(found, "relu")

    assert once(0, (2, 3)) == once(0, (3, 2, 3))
    assert once(0, (2, 3)) != once(1, (2, 3))


@pytest.mark.parametrize("sizes", [[], [0], [-3, 4], [5000]])
def test_sizes_that_cannot_be_had_are_refused(sizes: list[int]) -> None:
    with pytest.raises(ConfigError, match="widths"):
        study("width", TARGETS["sine"], Backend(), sizes=sizes)


def test_a_network_that_overflows_is_told() -> None:
    with pytest.raises(RunError, match="diverged with cube"):
        study("depth", TARGETS["sine"], Backend(), sizes=[12], activations=["cube"], restarts=1, steps=3000)
