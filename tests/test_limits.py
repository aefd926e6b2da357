"""What the machine has for a process: what the system says, and no more than the control group gives."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest

from gpumlp import limits
from gpumlp.backend import Backend
from gpumlp.limits import beside, in_threads


@pytest.mark.skipif(not hasattr(os, "sysconf"), reason="no sysconf on this system")
def test_the_memory_of_a_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    places = tmp_path / "memory.max", tmp_path / "none"
    monkeypatch.setattr(limits, "LIMITS", places)
    assert Backend().memory == pages * size
    for text, expected in (("max", pages * size), (str(1 << 62), pages * size), ("4096", 4096)):
        places[0].write_text(f"{text}\n")
        assert Backend().memory == expected
    places[0].unlink()
    monkeypatch.delattr(os, "sysconf")
    assert Backend().memory is None


@pytest.mark.parametrize(
    ("variable", "quota", "cores", "expected"),
    [
        ("3", None, 8, 3),
        ("4,2", None, 8, 4),
        (None, None, 8, 8),
        ("0", "max 100000", 8, 8),
        ("many", "150000 100000", 8, 2),
        (None, "50000 100000", 8, 1),
        (None, "400000 100000", 2, 2),
    ],
)
def test_threads_are_those_that_are_given(
    monkeypatch: pytest.MonkeyPatch, variable: str | None, quota: str | None, cores: int, expected: int
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if variable is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    monkeypatch.setattr(limits.os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)

    def read(path: Path) -> str:
        if quota is None or path.name != "cpu.max":
            raise FileNotFoundError(path)
        return quota + "\n"

    monkeypatch.setattr(Path, "read_text", read)
    assert limits.threads() == expected


@pytest.mark.parametrize("count", [0, 1, 2, 31, 32, 33, 1000])
def test_work_of_threads_comes_back_in_order(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert in_threads(lambda item: item * item, range(count)) == [item * item for item in range(count)]
    if count > 2:
        with pytest.raises(ZeroDivisionError, match=f"^{count - 2}$"):
            in_threads(lambda item: _fail(item) if item in (count - 2, count - 1) else item, range(count))


def _fail(item: int) -> int:
    raise ZeroDivisionError(str(item))


@pytest.mark.parametrize("threads", [1, 2])
def test_calls_beside_this_thread_are_made_in_their_order(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "threads", lambda: threads)
    made: list[int] = []
    with beside() as begin:
        results = [begin(partial(made.append, number)) for number in range(9)]
        results[-1]()
        assert made == list(range(9))
        assert begin(lambda: len(made))() == 9


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_beside_this_thread_is_raised_where_its_result_is_wanted(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "threads", lambda: threads)
    with pytest.raises(ZeroDivisionError), beside() as begin:
        begin(lambda: 1 // 0)()
