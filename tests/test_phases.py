"""Where the time of a command goes."""

from __future__ import annotations

import pytest

from gpumlp import phases
from gpumlp.phases import collected, phase


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(phases.time, "perf_counter", lambda: now[0])
    return now


def test_a_phase_within_another_counts_for_itself_alone(clock: list[float]) -> None:
    @phase("inner")
    def inner() -> None:
        clock[0] += 5

    @phase("outer")
    def outer() -> int:
        clock[0] += 1
        inner()
        inner()
        clock[0] += 2
        return 7

    with collected() as found:
        assert outer() == 7
        clock[0] += 100  # nobody's
        outer()
    outer()
    assert found.seconds == {"outer": 6.0, "inner": 20.0}


def test_a_phase_ends_with_an_exception(clock: list[float]) -> None:
    @phase("broken")
    def broken() -> None:
        clock[0] += 1
        raise KeyError

    with collected() as found:
        for _ in range(2):
            with pytest.raises(KeyError):
                broken()
        clock[0] += 10
    assert found.seconds == {"broken": 2.0}
