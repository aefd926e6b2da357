"""Ranks that are threads, each with a device of its own: a CuPy and an NCCL that stand in for the real ones."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from backend.fake_cupy import Cupy, check_alive

from gpumlp.backend.cuda import cublaslt
from gpumlp.backend.cuda import device as devices
from gpumlp.ranks import Ranks
from ranks.threads import by_threads


class NcclError(RuntimeError):
    """As CuPy raises it."""


NcclError.__module__ = "cupy_backends.cuda.libs.nccl"


class Nccl:
    """The module ``cupy.cuda.nccl`` as one rank sees it. What NCCL refuses, or would wait for without end, fails.

    Parameters
    ----------
    ranks : by whose messages data move
    """

    available, NCCL_UINT8 = True, 1

    def __init__(self, ranks: Ranks) -> None:
        self.ranks, self.cupy = ranks, Cupy(nccl=self, devices=4)
        self.group: list[tuple[str, int, int, int]] | None = None
        self.calls: list[str] = []
        self.error: Exception | None = None
        self.aborted = False

    def get_unique_id(self) -> tuple[int, ...]:
        return tuple(range(-64, 64))

    def NcclCommunicator(self, size: int, chosen: tuple[int, ...], number: int) -> SimpleNamespace:  # noqa: N802
        if self.error:
            raise self.error
        given = self.ranks.collect((size, chosen, number, self.cupy.current))
        assert given == [(self.ranks.size, given[0][1], rank, given[rank][3]) for rank in range(self.ranks.size)]
        assert len(chosen) == 128
        if len({device for *_, device in given}) < size:
            raise NcclError("NCCL_ERROR_INVALID_USAGE: invalid usage")
        names = ("send", "recv", "allGather", "check_async_error", "abort")
        return SimpleNamespace(**{name: getattr(self, name) for name in names})

    def groupStart(self) -> None:  # noqa: N802
        assert self.group is None
        self.group = []

    def send(self, place: int, count: int, unit: int, peer: int, stream: int) -> None:
        self._queue("send", place, count, unit, peer, stream)

    def recv(self, place: int, count: int, unit: int, peer: int, stream: int) -> None:
        self._queue("recv", place, count, unit, peer, stream)

    def _queue(self, kind: str, place: int, count: int, unit: int, peer: int, stream: int) -> None:
        self._check(unit, stream, (place, count))
        assert self.group is not None, "both would wait for each other"
        self.group.append((kind, place, count, peer))

    def groupEnd(self) -> None:  # noqa: N802
        self.calls.append("group")
        group, self.group = self.group, None
        assert group is not None
        sent = {peer: ctypes.string_at(place, count) for kind, place, count, peer in group if kind == "send"}
        come = self.ranks.collect(sent)
        for kind, place, count, peer in group:
            if kind == "recv":
                data = come[peer][self.ranks.number]
                assert len(data) == count
                ctypes.memmove(place, data, count)

    def allGather(self, source: int, out: int, count: int, unit: int, stream: int) -> None:  # noqa: N802
        self._check(unit, stream, (source, count), (out, count * self.ranks.size))
        self.calls.append("allGather")
        data = b"".join(self.ranks.collect(ctypes.string_at(source, count)))
        ctypes.memmove(out, data, len(data))

    def check_async_error(self) -> None:
        if self.error:
            raise self.error

    def abort(self) -> None:
        self.aborted = True

    def _check(self, unit: int, stream: int, *places: tuple[int, int]) -> None:
        assert unit == self.NCCL_UINT8
        assert stream == self.cupy.stream.ptr > 0
        for place, size in places:
            check_alive(place, size)


def on_devices(
    size: int, action: Callable[[Ranks, Nccl], Any], patch: pytest.MonkeyPatch, *, available: bool = True
) -> list[Any]:
    """Return what ``action`` returns, or raises, on each of so many ranks, each with devices of its own machine."""
    here = threading.local()

    def run(ranks: Ranks) -> Any:
        ranks.local = ranks.number
        nccl = Nccl(ranks)
        nccl.available, here.cupy = available, nccl.cupy
        return action(ranks, nccl)

    with patch.context() as patched:
        patched.setenv("GPUMLP_BRANCHES", "1")
        patched.setattr(devices, "load", lambda: here.cupy)
        patched.setattr(cublaslt, "load", lambda major: here.cupy.load_lt(major))
        return by_threads(size, run)
