"""What ranks exchange where their arrays are on GPUs: by NCCL, or through the memory of their hosts.

NCCL, too, moves data alone and adds nothing up. Written from its documentation; never run on a device.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from gpumlp.errors import ConfigError, Note, RunError
from gpumlp.ranks.alone import Ranks

PAUSE_S = 1e-4
"""Seconds between two looks at a step that the device has not done."""


class OnDevice(Protocol):
    """What is needed of a backend whose arrays are CuPy's."""

    xp: Any
    device: Any
    stream: Any

    def quiet(self) -> Any:
        """Return a context of the device and the stream, in which what CuPy raises is explained."""


class Staged:
    """The exchange through the memory of the hosts, by MPI.

    Parameters
    ----------
    ranks
        The ranks that exchange.
    backend
        The backend of this rank, whose arrays they exchange.
    """

    def __init__(self, ranks: Ranks, backend: OnDevice) -> None:
        self._ranks, self._xp = ranks, backend.xp

    def alltoall(self, source: Any, *, out: Any) -> Any:
        """Exchange device arrays as :meth:`Ranks.alltoall` does those of the host."""
        return self._by_host(self._ranks.alltoall, source, out)

    def allgather(self, source: Any, *, out: Any) -> Any:
        """Exchange device arrays as :meth:`Ranks.allgather` does those of the host."""
        return self._by_host(self._ranks.allgather, source, out)

    def keep_pace(self) -> None:
        """Return at once: an exchange has waited for the device."""

    def _by_host(self, move: Callable[..., Any], source: Any, out: Any) -> Any:
        received = move(self._xp.asnumpy(source), out=np.empty(out.shape, out.dtype))
        out[...] = self._xp.asarray(received)
        return out


class Nccl:
    """The exchange between devices by NCCL, on the stream of the backend.

    Parameters
    ----------
    ranks
        The ranks that exchange, each with a device of its own.
    backend
        The backend of this rank, whose arrays they exchange.

    Raises
    ------
    BackendError
        If NCCL cannot connect the devices.
    """

    def __init__(self, ranks: Ranks, backend: OnDevice) -> None:
        self._ranks, self._backend, self._nccl = ranks, backend, backend.xp.cuda.nccl

        def new_id() -> tuple[int, ...]:
            with backend.quiet():
                return tuple(self._nccl.get_unique_id())

        chosen = ranks.of_first(new_id)
        with backend.quiet():
            self._link = self._nccl.NcclCommunicator(ranks.size, chosen, ranks.number)
        self._before: Any = None

    def alltoall(self, source: Any, *, out: Any) -> Any:
        """Exchange device arrays as :meth:`Ranks.alltoall` does those of the host."""
        size, unit, stream = source.nbytes // self._ranks.size, self._nccl.NCCL_UINT8, self._backend.stream.ptr
        self._nccl.groupStart()
        for peer in range(self._ranks.size):
            self._link.send(source.data.ptr + peer * size, size, unit, peer, stream)
            self._link.recv(out.data.ptr + peer * size, size, unit, peer, stream)
        self._nccl.groupEnd()
        return out

    def allgather(self, source: Any, *, out: Any) -> Any:
        """Exchange device arrays as :meth:`Ranks.allgather` does those of the host."""
        unit, stream = self._nccl.NCCL_UINT8, self._backend.stream.ptr
        self._link.allGather(source.data.ptr, out.data.ptr, source.nbytes, unit, stream)
        return out

    def keep_pace(self) -> None:
        """Wait for the step before the last one.

        Raises
        ------
        RunError
            If it is not done within the limit.
        BackendError
            If NCCL has failed.
        """
        with self._backend.quiet():
            before, self._before = self._before, self._backend.xp.cuda.Event(disable_timing=True)
            self._before.record(self._backend.stream)
            started = time.monotonic()
            try:
                while before is not None and not before.done:
                    self._link.check_async_error()
                    if time.monotonic() - started > self._ranks.limit:
                        message = f"waited {self._ranks.limit:g} s for the exchange between GPUs"
                        raise RunError(message, hint="resume from the last checkpoint; NCCL_DEBUG=INFO shows more")
                    time.sleep(PAUSE_S)
            except BaseException:
                self._link.abort()  # else this process would wait for its device as it ends
                raise


def connect(ranks: Ranks, backend: OnDevice) -> Note | None:
    """Let ranks exchange arrays of their devices; return a note where they do not go from one device to another.

    Raises
    ------
    ConfigError
        If two ranks have the same device.
    BackendError
        If NCCL cannot connect the devices.
    """
    with backend.quiet():
        address = backend.xp.cuda.runtime.deviceGetPCIBusId(backend.device.id)
    nccl = getattr(backend.xp.cuda, "nccl", None)
    has, enabled = bool(getattr(nccl, "available", False)), os.environ.get("GPUMLP_NCCL") != "0"
    known = ranks.collect(((ranks.host, address), has, enabled))
    ranks.exchange = Staged(ranks, backend)
    if not all(enabled for *_, enabled in known):
        return None
    addresses = [address for address, *_ in known]
    for number, each in enumerate(addresses):
        if (other := addresses.index(each)) != number:
            message = f"{ranks.name(other)} and {ranks.name(number)} have the same GPU"
            hint = "start one rank for each GPU, or set backend: native"
            raise ConfigError(message, where="backend", hint=hint)
    lacking = [ranks.name(number) for number, (_, available, _) in enumerate(known) if not available]
    if lacking:
        message = (
            f"CuPy has no NCCL on {', '.join(lacking)}: gradients go through the memory of the hosts, which is slower"
        )
        return Note(f"{message}; install the package nvidia-nccl-cu12 or nvidia-nccl-cu13, as your CUDA is")
    ranks.exchange = ranks.agree(lambda: Nccl(ranks, backend))
    return None
