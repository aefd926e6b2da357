"""One CUDA graph instead of many launches: what may be in it, how it is captured, and what stays between.

A launch puts work on a stream, and does nothing else. So do some of CuPy's own functions, once their results have
memory. A run of them is captured once and then costs the host one call. CuPy gives a graph no reference to the memory
that it touches: the launches own theirs, and the graph owns its launches.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any

from gpumlp.backend.cuda.branches import Placement, arrange, depth
from gpumlp.backend.cuda.device import explain
from gpumlp.backend.kernels import extent
from gpumlp.errors import BackendError, GpumlpError
from gpumlp.ops.record import Array

clock = time.perf_counter
REPLAYS = 5
"""Replays of a graph of which the fastest counts, where there are two to choose from."""
MAX_KEPT_BYTES = 256 << 20
"""Most that is copied for that: a step of more takes too long for branches to matter."""
MIN_GRAPH_LAUNCHES = 2
"""Fewest launches in a graph: a single one costs the host no less as a graph."""

log = logging.getLogger(__name__)


class Launch(ABC):
    """Work for a stream, bound to its arrays, which it owns: one node of a graph, or several.

    Called, it puts the work on the stream of its backend: it neither makes memory nor waits nor reads a value.
    """

    @property
    @abstractmethod
    def nodes(self) -> Sequence[LaunchNode]:
        """The launches that it is made of, in their order."""
        ...

    def __call__(self) -> None:
        for node in self.nodes:
            node.put()


class LaunchNode(Launch):
    """One kernel, product or copy. It reads and writes these arrays, and no other memory that another one does."""

    reads: Sequence[Array]
    writes: Sequence[Array]
    multiplies = False

    @property
    def nodes(self) -> Sequence[LaunchNode]:
        return (self,)

    def prepare(self, stream: Any) -> None:
        """Make what it takes to be put on a stream."""

    @abstractmethod
    def put(self, stream: Any = None) -> None:
        """Put the work on a stream, which is the current one; by default that of the backend."""

    def is_capturable(self, xp: Any, stream: Any) -> bool:
        """Return whether a graph may hold it."""
        return True


class ArrayCall(LaunchNode):
    """A function of CuPy's that writes into an array that is there.

    Where it takes no memory on the way it only launches kernels, which a graph may hold: that is tried once.
    """

    def __init__(self, function: Callable[[], object], reads: Sequence[Array], writes: Sequence[Array]) -> None:
        self._function, self.reads, self.writes = function, reads, writes
        self._capturable: bool | None = None

    def put(self, stream: Any = None) -> None:
        self._function()

    def is_capturable(self, xp: Any, stream: Any) -> bool:
        if self._capturable is None:
            try:
                captured(xp, stream, self.put)
                self._capturable = True
            except Exception as error:  # what CuPy does not capture is called between graphs
                log.debug("not in a graph: %s", error)
                self._capturable = False
        return self._capturable


def arrays_in(value: Any, owns: Callable[[object], bool]) -> Iterator[Array]:
    """Yield the arrays of a backend in a value, however deep they lie in sequences and mappings."""
    if owns(value):
        yield value
    elif isinstance(value, Mapping):
        yield from arrays_in([*value.values()], owns)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from arrays_in(each, owns)


def captured(xp: Any, stream: Any, put: Callable[[], None]) -> Any:
    """Return the graph of what ``put`` puts on a stream. No memory is made meanwhile, and none freed."""
    stream.begin_capture()
    try:
        with xp.cuda.using_allocator(_refuse), _no_finalizers():
            put()
    except BaseException:
        with contextlib.suppress(Exception):  # the stream leaves its capture, which has no graph to show for it
            stream.end_capture()
        raise
    return stream.end_capture()


class Home:
    """The device and the stream that launches are bound to. CuPy launches on those of the moment, and asks nobody."""

    def __init__(self, xp: Any, device: Any, stream: Any) -> None:
        self._cuda, self.device, self._stream = xp.cuda, device.id, stream

    def is_current(self, stream: Any = None) -> bool:
        """Return whether what is launched now comes to this device, on a stream: by default that of the backend."""
        expected = self._stream if stream is None else stream
        on_device = self._cuda.runtime.getDevice() == self.device
        return bool(on_device and self._cuda.get_current_stream() == expected)


class CudaGraph:
    """Launches captured as one; calling it makes them all, as if in their order.

    ``streams`` are the backend's own, and one for each other lane where launches that do not wait for each other may
    run side by side.
    """

    def __init__(self, xp: Any, streams: Sequence[Any], launches: Sequence[Launch]) -> None:
        self._stream, self._runtime = streams[0], xp.cuda.runtime
        self._device = self._runtime.getDevice()
        self.nodes = [node for launch in launches for node in launch.nodes]
        self.places = arrange(self.nodes) if len(streams) > 1 else [Placement()] * len(self.nodes)
        for node, placement in zip(self.nodes, self.places, strict=True):
            node.prepare(streams[placement.lane])
        self._graph = captured(xp, self._stream, partial(self._capture, xp, streams))

    def __call__(self) -> None:
        assert self._runtime.getDevice() == self._device, "a graph is launched outside of its backend's quiet()"
        self._graph.launch(self._stream)

    @property
    def depth(self) -> int:
        """How many launches come one after the other at the most."""
        return depth(self.places)

    def _capture(self, xp: Any, streams: Sequence[Any]) -> None:
        """Put every node on the stream of its lane; the first of them has all the others wait for it at last."""
        last = {placement.lane: number for number, placement in enumerate(self.places)}
        awaited = {other for placement in self.places for other in placement.after} | set(last.values())
        events: dict[int, Any] = {}
        for number, (node, placement) in enumerate(zip(self.nodes, self.places, strict=True)):
            stream = streams[placement.lane]
            with stream:
                for other in placement.after:
                    stream.wait_event(events[other])
                node.put(stream)
            if number in awaited:
                events[number] = xp.cuda.Event(disable_timing=True)
                events[number].record(stream)
        for lane, number in last.items():
            if lane:
                streams[0].wait_event(events[number])


def joined(
    xp: Any,
    streams: Sequence[Any],
    launches: Sequence[Callable[[], None]],
    before_timing: Callable[[], object] | None = None,
) -> Sequence[Callable[[], None]]:
    """Return the same calls with every run of launches made one graph: without branches where it cannot be with them.

    With ``before_timing``, which is called then, several steps are captured without branches, too, and what takes
    less time is kept. Where no graph is possible all of them stay as they are. The log says of either why.
    """
    result, why = _joined(xp, streams, launches)
    if result is not None:
        if before_timing is not None and len(streams) > 1 and (state := _put_back(launches)) is not None:
            plain, _ = _joined(xp, streams[:1], launches)
            if plain is not None:
                before_timing()
                return _faster(streams[0], state, (result, plain))
        return result
    if len(streams) > 1:
        branches = why
        result, why = _joined(xp, streams[:1], launches)
        if result is not None:
            log.warning("CUDA graphs without branches, so a step may take longer: %s", branches)
            return result
    log.warning("no CUDA graph, so each step is launched piece by piece: %s", why)
    return launches


def _joined(
    xp: Any, streams: Sequence[Any], launches: Sequence[Callable[[], None]]
) -> tuple[list[Callable[[], None]] | None, str]:
    """Return the calls with runs of launches as graphs, or None and why that is not possible."""
    result: list[Callable[[], None]] = []
    try:
        for capturable, group in groupby(launches, key=partial(_is_capturable, xp, streams[0])):
            run: list[Any] = list(group)
            worth = capturable and sum(len(launch.nodes) for launch in run) >= MIN_GRAPH_LAUNCHES
            result += [CudaGraph(xp, streams, run)] if worth else run
    except Exception as error:
        known = error if isinstance(error, GpumlpError) else explain(error, "capture")
        return None, known.what if known else f"{type(error).__name__}: {error}"
    return result, ""


def _is_capturable(xp: Any, stream: Any, launch: Callable[[], None]) -> bool:
    return isinstance(launch, Launch) and all(node.is_capturable(xp, stream) for node in launch.nodes)


def _put_back(launches: Sequence[Callable[[], None]]) -> list[Array] | None:
    """Return what several steps change, to be put back after a trial; None: one step, too much, or not known."""
    if len({*launches}) == len(launches):
        return None
    known = [launch for launch in dict.fromkeys(launches) if isinstance(launch, Launch)]
    state = state_of([node for launch in known for node in launch.nodes])
    return state if len(known) == len({*launches}) and sum(a.nbytes for a in state) <= MAX_KEPT_BYTES else None


def _faster(
    stream: Any, state: Sequence[Array], ways: Sequence[Sequence[Callable[[], None]]]
) -> Sequence[Callable[[], None]]:
    """Return that of several ways to take the next steps which takes the least time.

    They are taken for that, each time from where the last step has left everything, and taken back.
    """
    try:
        saved = [array.copy() for array in state]
    except MemoryError:  # as CuPy raises where the device has no more
        return ways[0]

    def seconds(way: Sequence[Callable[[], None]]) -> float:
        stream.synchronize()
        started = clock()
        for run in way:
            run()
        stream.synchronize()
        taken = clock() - started
        for array, before in zip(state, saved, strict=True):
            array[...] = before
        return taken

    least = [min(seconds(way) for _ in range(REPLAYS)) for way in ways]
    return ways[least.index(min(least))]


def state_of(nodes: Sequence[LaunchNode]) -> list[Array]:
    """Return what a step changes, and reads as the step before it has left it: no array twice."""
    state: dict[tuple[int, int], Array] = {}
    written: set[tuple[int, int]] = set()
    read: list[tuple[int, int]] = []
    for node in nodes:
        read += map(extent, node.reads)
        for array in node.writes:
            first, end = span = extent(array)
            if span not in written and any(start < end and first < stop for start, stop in read):
                state[span] = array
            written.add(span)
    return list(state.values())


@contextlib.contextmanager
def _no_finalizers() -> Iterator[None]:
    """Keep the garbage collector from freeing something of the device in the middle of a capture."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _refuse(size: int) -> Any:
    raise BackendError(f"{size} bytes were asked for while a graph was captured")
