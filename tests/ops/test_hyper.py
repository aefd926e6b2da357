"""Numbers that a user may set: their bounds, and what is declared."""

from __future__ import annotations

import math

import pytest

from gpumlp.errors import ConfigError
from gpumlp.ops import LOSS_RECORDS
from gpumlp.ops.hyper import Hyper, settle
from gpumlp.optim import OPTIMIZERS, SCHEDULES

EVERY = [
    pytest.param(number, id=f"{name} {key}")
    for table in (LOSS_RECORDS, OPTIMIZERS, SCHEDULES)
    for name, spec in table.items()
    for key, number in spec.hyper.items()
]


@pytest.mark.parametrize("number", EVERY)
def test_a_number_is_taken_up_to_its_bounds_and_not_beyond(number: Hyper) -> None:
    assert number.check("x", number.default) == number.default
    for bound, taken, outward in (
        (number.gt, False, -math.inf),
        (number.ge, True, -math.inf),
        (number.lt, False, math.inf),
        (number.le, True, math.inf),
    ):
        if bound is None:
            continue
        assert number.check("x", math.nextafter(bound, -outward)) == math.nextafter(bound, -outward)
        with pytest.raises(ConfigError, match="x is "):
            number.check("x", math.nextafter(bound, outward))
        if taken:
            assert number.check("x", bound) == bound
        else:
            with pytest.raises(ConfigError, match="x is "):
                number.check("x", bound)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("number", [n for n in EVERY if n.values[0].lt is not None or n.values[0].le is not None])
def test_what_is_no_number_is_in_no_range(number: Hyper, value: float) -> None:
    with pytest.raises(ConfigError):
        number.check("x", value)


def test_every_declared_number_and_no_other_is_settled() -> None:
    declared = {"a": Hyper(1.0, "one"), "b": Hyper(2.0, "two", gt=0.0)}
    assert settle("it", {"b": 3}, declared) == {"a": 1.0, "b": 3.0}
    with pytest.raises(ConfigError, match="it has no setting 'c'"):
        settle("it", {"c": 3}, declared)
