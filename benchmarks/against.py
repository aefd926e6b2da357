"""Training steps of another commit beside those of the working tree, in turns on one machine.

    python benchmarks/against.py COMMIT [--rounds N] [--only NAME ...] [--json FILE]
    python benchmarks/against.py COMMIT --train configs/digits.yaml [...] [--rounds N] [--json FILE]

The steps are those of ``capture.py``, the same text for both: defined anew or replayed, on the native backend and on
NumPy, whose products have one thread each, as threads that wait for more would disturb the other side. Each commit
has a process of its own. In every round both take the same number of steps, the one right after the other and in
changing order. The ratio is ours over theirs, of the 5 % quantiles of all rounds, which other processes disturb the
least. With ``--train`` both train by these configurations instead, whole commands in turns; the ratios are those of
medians, of seconds and of what processors computed.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from reader import until_reader_leaves

ROOT = Path(__file__).resolve().parent.parent
TURN_S = 0.05
"""Seconds that either side computes in a round, for each kind of step."""
ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    # Else what was freed before decides whether NumPy maps each temporary array anew: up to 1.5 times the time.
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
}
SERVER = """
import json, sys
import gpumlp, capture
from gpumlp.nn.parameters import Parameters
assert gpumlp.__file__.startswith(sys.argv[1]), gpumlp.__file__
if not hasattr(Parameters, "collect"):  # up to November 2026
    Parameters.collect = lambda self, tape, loss: tape.gradient(loss, [*self.variables.values()], into=self.views)
for line in sys.stdin:
    asked = json.loads(line)
    if "network" in asked:
        ways = capture.steps(capture.NETWORKS[asked["network"]])
        answer = list(ways)
    else:
        answer = capture.seconds(ways[asked["way"]], asked["count"])
    print(json.dumps(answer), flush=True)
"""


class Side:
    """One of the two commits, in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, **what: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


@contextmanager
def side(tree: Path) -> Iterator[Side]:
    path = os.pathsep.join((str(tree), str(ROOT / "benchmarks")))
    command = [sys.executable, "-c", SERVER, str(tree)]
    environment = {**os.environ, "PYTHONPATH": path, **ENVIRONMENT}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=tree, env=environment, stdin=pipe, stdout=pipe, text=True) as process:
        yield Side(process)


def compare(ours: Side, theirs: Side, network: str, rounds: int) -> dict[str, dict[str, float]]:
    """Return the microseconds of each kind of step on either side, and their ratio."""
    ways = [name for name in ours.ask(network=network) if name in theirs.ask(network=network)]
    counts = {way: max(2, int(TURN_S / theirs.ask(way=way, count=3))) for way in ways}
    times: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for number in range(rounds):
        for way in ways:
            order = (ours, theirs) if number % 2 else (theirs, ours)
            taken = {each: each.ask(way=way, count=counts[way]) for each in order}
            times[way].append((taken[ours], taken[theirs]))
    found = {}
    for way in ways:
        mine, others = 1e6 * np.quantile(np.array(times[way]), 0.05, axis=0)
        found[way] = {"ours_us": mine, "theirs_us": others, "ratio": mine / others}
    return found


def compare_commands(trees: tuple[Path, Path], config: str, rounds: int) -> dict[str, float]:
    """Return the median seconds of ``gpumlp train`` in both trees, of processors too, and their ratios."""
    times: dict[Path, list[tuple[float, float]]] = {tree: [] for tree in trees}
    # Bytecode is kept, as an installation has it; the first round writes it, and compiles kernels.
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds + 1):
            for tree in trees if number % 2 else trees[::-1]:
                place = str(Path(folder, str(trees.index(tree))))
                command = [sys.executable, "-m", "gpumlp", "train", config, "--run-dir", place, "--force", "--json"]
                named = {"PYTHONPATH": str(tree), "PYTHONPYCACHEPREFIX": str(Path(folder, "bytecode"))}
                started, busy = time.perf_counter(), processor_seconds()
                subprocess.run(command, cwd=tree, env=kept | named, capture_output=True, check=True)
                if number:
                    times[tree].append((time.perf_counter() - started, processor_seconds() - busy))
    (mine, busy), (others, their_busy) = (map(statistics.median, zip(*times[tree], strict=True)) for tree in trees)
    found = {"ours_s": mine, "theirs_s": others, "ratio": mine / others}
    return found | {"ours_cpu_s": busy, "theirs_cpu_s": their_busy, "cpu_ratio": busy / their_busy}


def processor_seconds() -> float:
    """Return what finished processes of ours have computed, which other programs disturb the least."""
    return os.times().children_user + os.times().children_system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", help="the other one")
    parser.add_argument("--rounds", type=int, default=40, help="turns of each (default: 40)")
    parser.add_argument("--only", nargs="+", default=["tiny", "mnist", "tabular", "wide"], help="networks")
    parser.add_argument("--train", nargs="+", metavar="CONFIG", default=[], help="whole commands instead of steps")
    parser.add_argument("--json", type=Path, help="write the numbers to this file, too")
    given = parser.parse_args()
    name = subprocess.run(["git", "rev-parse", given.commit], cwd=ROOT, capture_output=True, text=True, check=True)
    archive = subprocess.run(["git", "archive", given.commit], cwd=ROOT, capture_output=True, check=True).stdout
    result: dict[str, Any] = {
        "theirs": name.stdout.strip(),
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
    }
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory())).resolve()
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            tar.extractall(folder, filter="data")
        for config in given.train:
            result[config] = row = compare_commands((ROOT, folder), config, given.rounds)
            for title, key in ((config, ""), ("  processors", "cpu_")):
                mine, others, ratio = (row[each] for each in (f"ours_{key}s", f"theirs_{key}s", f"{key}ratio"))
                print(f"{title:30} {mine:7.3f} s, theirs {others:7.3f}   {ratio:.2f}")
        networks = [] if given.train else given.only
        sides = [stack.enter_context(side(tree)) for tree in (ROOT, folder) if networks]
        for network in networks:
            result[network] = found = compare(sides[0], sides[1], network, given.rounds)
            print(network)
            for way, row in found.items():
                print(f"  {way:17} {row['ours_us']:9.1f} µs, theirs {row['theirs_us']:9.1f}   {row['ratio']:.2f}")
    if given.json:
        given.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    until_reader_leaves(main)
