"""Special functions that the array modules lack.

Their formulas have branches, for accuracy, where the functions have none. So each states its derivative, and a taped
module differentiates it by that: a formula with ``abs`` or ``where`` in it would have the slope 0 at the seam.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

from gpumlp.ops.record import Array

Formula = Callable[[Any, Array], Array]
Derivative = Callable[[Any, Array, Array], Array]
INV_SQRT_2PI = 0.3989422804014327


def smooth(derivative: Derivative) -> Callable[[Formula], Formula]:
    """Declare the derivative of a function ``formula(xp, x)``, as ``derivative(xp, x, y)`` with y the value at x.

    An array module that differentiates has a method ``smooth(formula, derivative, x)``; others run the formula.
    """

    def decorate(formula: Formula) -> Formula:
        @functools.wraps(formula)
        def function(xp: Any, x: Array) -> Array:
            taped = getattr(xp, "smooth", None)
            return formula(xp, x) if taped is None else taped(formula, derivative, x)

        return function

    return decorate


# log(erfc(z) / t) + z² as a Chebyshev series in 2t - 1, for t = 2 / (2 + z) in (0, 1], that is z >= 0.
# Fitted with 60 digits by Chebyshev quadrature; the terms left out are below 1e-17. The form is that of
# Numerical Recipes (3rd ed., section 6.2.2); it keeps the *relative* error of the tail small.
_ERFC = (
    -0.6513268598908547171, 0.6419697923564902603, 0.019476473204185836312, -0.0095615147868086316419,
    -0.0009465953444820368663, 0.00036683949785276145187, 0.000042523324806907771645,
    -0.000020278578112534243154, -1.6242900046470255135e-6, 1.3036558355805232018e-6,
    1.5626441722066143178e-8, -8.5238095914926542525e-8, 6.5290544390988514964e-9,
    5.0593434955514689418e-9, -9.9136415649303308674e-10, -2.2736512229318358557e-10,
    9.646791102015526802e-11, 2.3940380830391147447e-12, -6.8860275264975533984e-12,
    8.9448792730907257167e-13, 3.1309213993429580783e-13, -1.1270822361367252366e-13,
    3.8109052551892320552e-16, 7.1060976136092369878e-15, -1.5230282014571043043e-15,
    -9.4574945712912340005e-17, 1.2102371892242789923e-16, -2.8166630877471769718e-17,
)  # fmt: skip


@smooth(lambda xp, x, y: INV_SQRT_2PI * xp.exp(-0.5 * x * x))
def normal_cdf(xp: Any, x: Array) -> Array:
    """Return the standard normal distribution function Φ(x) = ½ erfc(-x / √2), same shape and dtype."""
    z = xp.abs(x) * 0.5**0.5
    t = 2.0 / (2.0 + z)
    u = 4.0 * t - 2.0
    previous, current = 0.0 * u, 0.0 * u  # Clenshaw's recurrence, from the last coefficient down
    for coefficient in reversed(_ERFC[1:]):
        previous, current = current, u * current - previous + coefficient
    tail = 0.5 * t * xp.exp(0.5 * u * current - previous + _ERFC[0] - z * z)
    return xp.where(x < 0, tail, 1.0 - tail)


def _within_a_turn(xp: Any, x: Array) -> Array:
    return math.pi * (x - 2.0 * xp.rint(0.5 * x))


@smooth(lambda xp, x, y: -math.pi * sinpi(xp, x))
def cospi(xp: Any, x: Array) -> Array:
    """Return cos(π x), whole turns of which are taken off first, without an error."""
    return xp.cos(_within_a_turn(xp, x))


@smooth(lambda xp, x, y: math.pi * cospi(xp, x))
def sinpi(xp: Any, x: Array) -> Array:
    """Return sin(π x), as :func:`cospi`."""
    return xp.sin(_within_a_turn(xp, x))


@smooth(lambda xp, x, y: y * sigmoid(xp, -x))
def sigmoid(xp: Any, x: Array) -> Array:
    """Return 1 / (1 + exp(-x)) without overflow, to full relative accuracy on both sides."""
    e = xp.exp(-xp.abs(x))
    return xp.where(x >= 0, 1.0 / (1.0 + e), e / (1.0 + e))


@smooth(lambda xp, x, y: sigmoid(xp, x))
def softplus(xp: Any, x: Array) -> Array:
    """Return log(1 + exp(x)) without overflow."""
    return xp.maximum(x, 0.0) + xp.log1p(xp.exp(-xp.abs(x)))
