"""An epoch of training, here and in other libraries: the same networks, batches and optimizer, on one machine.

    pip install -e '.[bench]'
    python benchmarks/train.py [--rounds N] [--only NAME ...] [--peers NAME ...] [--json FILE] [--plot FILE]

Every peer but `bf16` trains float32 networks with Adam (rate 1e-3) on the same random rows, shuffled anew in each
epoch, from the same weights (scikit-learn: drawn alike). Rows are cut to whole batches, so that all take the same
steps. After a warm-up of two epochs, in which anything is compiled, all losses must agree to a quarter: the orders
differ (each is seeded), and some losses fall to a seventh in an epoch. Then epochs are timed in turns, each peer in a
process of its own, so that none meets the threads of another, and after untimed ones, so that none pays for whoever
had the turn before. The table gives the median seconds, and below them how many times gpumlp's.

    gpumlp     the backend `auto` (`cupy` with --device gpu), one captured step replayed
    plain      the same without tile registers (GPUMLP_TILES=0), as on a processor that has none
    bf16       the same with 16-bit activations and products (`precision: bf16`), on a CPU only
    jax        one jitted lax.scan over the whole epoch
    pytorch    eager, fused Adam            compiled   the same with torch.compile
    graph      the same as one hand-captured CUDA graph, on a GPU only
    keras      model.fit on the JAX backend, verbose=0
    sklearn    MLPClassifier.partial_fit, on a CPU only

`first` is the time from the start of a process to the end of a first step: loading, compiling, one batch. `peak` is
the most memory (resident set, MB) that a process had, libraries and data included. With --busy N, N other processes
compute all the while: what sharing a machine costs. A peer that is not installed is left out.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.util
import json
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from peers import PEERS, WORK, Work
from reader import until_reader_leaves

SPAWN = multiprocessing.get_context("spawn")


def serve(name: str, work: Work, device: str, pipe: Connection) -> None:
    """Train in a process of one's own: an epoch for each message, answered by seconds, loss and peak memory."""
    epoch = PEERS[name].make(work, device)
    while pipe.recv():
        started = time.perf_counter()
        loss = epoch()
        seconds = time.perf_counter() - started
        pipe.send((seconds, loss, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


@contextlib.contextmanager
def trainers(names: Sequence[str], work: Work, device: str) -> Iterator[dict[str, Connection]]:
    """Start a process for each peer."""
    pipes: dict[str, Connection] = {}
    processes = []
    for name in names:
        pipes[name], end = SPAWN.Pipe()
        processes.append(SPAWN.Process(target=serve, args=(name, work, device, end), daemon=True))
        processes[-1].start()
        end.close()  # so that the end of the process is the end of the pipe
    try:
        yield pipes
    finally:
        for process in processes:
            process.kill()
            process.join()


def epoch(pipe: Connection) -> tuple[float, float, float]:
    pipe.send(True)
    seconds, waiting, loss = pipe.recv()
    return seconds, waiting, loss


def settled(pipe: Connection) -> tuple[float, float, float]:
    """Return what an epoch gives after a tenth of a second of others, one at least.

    Until then the threads of whoever had the turn before may look for more work, and the caches hold its data.
    """
    started = time.perf_counter()
    epoch(pipe)
    while time.perf_counter() - started < 0.1:
        epoch(pipe)
    return epoch(pipe)


def compute_forever() -> None:
    number = 1.0
    while True:
        number = number * 1.0000001 + 1e-9


@contextlib.contextmanager
def beside(count: int) -> Iterator[None]:
    """Keep that many other processes busy."""
    others = [SPAWN.Process(target=compute_forever, daemon=True) for _ in range(count)]
    for other in others:
        other.start()
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.join()


def measure(names: Sequence[str], work: Work, device: str, rounds: int, busy: int) -> dict[str, Any]:
    """Return for each peer the seconds of its epochs, taken in turns, its losses and its peak memory.

    A peer that cannot run here is left out.
    """
    with trainers(names, work, device) as pipes:
        losses: dict[str, float] = {}
        for name, pipe in pipes.items():
            try:
                losses[name] = [epoch(pipe), epoch(pipe)][-1][1]
            except (EOFError, OSError):  # it has said why
                if name == names[0]:
                    raise
                print(f"{name} does not run here", file=sys.stderr)
        own = losses[names[0]]
        assert all(abs(loss - own) <= 0.25 * own for loss in losses.values()), losses
        found: dict[str, Any] = {name: {"seconds": [], "second_loss": loss} for name, loss in losses.items()}
        with beside(busy):
            for _ in range(rounds):
                for name in losses:
                    seconds, _, peak = settled(pipes[name])
                    found[name]["seconds"].append(seconds)
                    found[name]["peak_mb"] = peak
    return found


def first_step(name: str, work: Work, device: str) -> float:
    """Return the seconds from the start of a process to the end of its first step."""
    one = dataclasses.replace(work, rows=work.batch)
    started = time.perf_counter()
    with trainers([name], one, device) as pipes:
        epoch(pipes[name])
        return time.perf_counter() - started


def draw(found: dict[str, Any], path: Path) -> None:
    """Draw the medians as multiples of the first peer's, with the spread of the rounds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    first, *others = found.values()
    names = [name for name in first if all(name in peers for peers in others)]
    for number, name in enumerate(names):
        places, ratios = [], []
        for place, peers in enumerate(found.values()):
            own = statistics.median(peers[names[0]]["seconds"])
            ratios.append(statistics.median(peers[name]["seconds"]) / own)
            places.append(place + (number - (len(names) - 1) / 2) * 0.8 / len(names))
        bars = axes.bar(places, ratios, 0.75 / len(names), label=name)
        axes.bar_label(bars, [f"{ratio:.2g}" for ratio in ratios], fontsize=7, padding=2)
    axes.set_xticks(range(len(found)), list(found))
    axes.set_yscale("log")
    axes.axhline(1.0, color="0.5", linewidth=0.8)
    axes.set_ylabel(f"seconds an epoch, {names[0]} = 1")
    axes.legend(ncols=len(names), loc="upper right", frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="timed epochs of each peer (default: 7)")
    parser.add_argument("--only", nargs="+", choices=WORK, default=list(WORK), help="these workloads only")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS), help="these peers only")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu", help="where all compute (default: cpu)")
    parser.add_argument("--busy", type=int, default=0, help="other processes that compute meanwhile (default: 0)")
    parser.add_argument("--first", action="store_true", help="also measure the time to the first step")
    parser.add_argument("--json", type=Path, help="write everything here")
    parser.add_argument("--plot", type=Path, help="draw the ratios here (.png, .svg)")
    options = parser.parse_args()
    names = [
        name
        for name in dict.fromkeys(["gpumlp", *options.peers])
        if options.device in PEERS[name].devices and importlib.util.find_spec(PEERS[name].module) is not None
    ]
    found: dict[str, Any] = {}
    print(f"{'seconds an epoch':18}" + "".join(f"{name:>11}" for name in names))
    for workload in options.only:
        peers = found[workload] = measure(names, WORK[workload], options.device, options.rounds, options.busy)
        names = [name for name in names if name in peers]
        middle = {name: statistics.median(peers[name]["seconds"]) for name in names}
        print(f"{workload:18}" + "".join(f"{middle[name]:11.5f}" for name in names))
        print(f"{'  x gpumlp':18}" + "".join(f"{middle[name] / middle['gpumlp']:11.2f}" for name in names))
        print(f"{'  peak':18}" + "".join(f"{peers[name]['peak_mb']:11.0f}" for name in names), flush=True)
        if options.first:
            for name in names:
                peers[name]["first_step"] = first_step(name, WORK[workload], options.device)
            print(f"{'  first':18}" + "".join(f"{peers[name]['first_step']:11.2f}" for name in names), flush=True)
    ratios = {
        name: [
            statistics.median(peers["gpumlp"]["seconds"]) / statistics.median(peers[name]["seconds"])
            for peers in found.values()
        ]
        for name in names
    }
    print(f"{'gpumlp / peer':18}" + "".join(f"{statistics.geometric_mean(ratios[name]):11.2f}" for name in names))
    if options.json:
        about = {
            "machine": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "device": options.device,
            "busy": options.busy,
            "found": found,
        }
        options.json.write_text(json.dumps(about, indent=2) + "\n")
    if options.plot:
        draw(found, options.plot)


if __name__ == "__main__":
    until_reader_leaves(main)
