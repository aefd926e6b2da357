"""Which activations can be asked for, and which of them are polynomials, so that the theorems leave them out.

``square`` and ``cube`` exist to fail. They are records like any other, but stand in no table of the project: no
configuration can choose them, and there is no kernel for them, so every backend computes them in their formula.
"""

from __future__ import annotations

from gpumlp.errors import ConfigError, choices
from gpumlp.ops import ACTIVATIONS
from gpumlp.ops.record import Activation, activation

_TO_FAIL = (
    activation("square", "y = x²", lambda xp, x: x * x, lambda xp, x, dy: dy * (2.0 * x), saves="input"),
    activation("cube", "y = x³", lambda xp, x: x * x * x, lambda xp, x, dy: dy * (3.0 * x * x), saves="input"),
)
OFFERED: dict[str, Activation] = {
    **{name: op for name, op in ACTIVATIONS.items() if not op.of_rows},
    **{op.name: op for op in _TO_FAIL},
}
DEGREES = {"identity": 1, "square": 2, "cube": 3}
"""The degree of those activations that are polynomials."""


def activation_of(name: str) -> Activation:
    """Return an activation by name. Raises ConfigError, with the nearest name, where there is none."""
    if name not in OFFERED:
        raise ConfigError(f"unknown activation {name!r}", hint=choices(name, OFFERED))
    return OFFERED[name]
