"""Data larger than memory: what packing and training on it take under a limit, beside training in memory.

    python benchmarks/packed.py [--gigabytes 6] [--limit 1] [--folder DIR] [--json FILE]

1. A Parquet table of so many GB, sorted by its class, is trained on by a process that may have no more memory than
   the limit: by a control group where one can be made (root, version 1), which counts the system's cache of files,
   too, else by RLIMIT_DATA. Printed are seconds by phase, the most memory, and the bytes read in each epoch.
2. On rows that memory holds: rows/s of training in memory and on packed rows, an epoch of each in turns.
3. On a table sorted by its class: the validation loss after each epoch, of a full shuffle in memory and of windows
   of an eighth of the rows, by several seeds each.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

COLUMNS = 100
GROUP = Path("/sys/fs/cgroup/memory")
SETTINGS = {"task": "classification", "model": {"hidden": [128, 64]}, "optimizer": {"learning_rate": 1e-3}}


def write_table(folder: Path, rows: int, columns: int = COLUMNS, seed: int = 0) -> int:
    """Write Parquet files of doubles, those of the first class first; return their bytes.

    The first half of the columns tells the class by products of neighbours, the others nothing.
    """
    import duckdb
    from arro3.core import Array, Table

    random = np.random.default_rng(seed)
    pool = random.normal(size=1 << 22)  # each column of a file is another piece of it
    folder.mkdir(parents=True, exist_ok=True)
    size = max(1, min(100_000, rows // 2))
    written = 0
    for start in range(0, rows, size):
        count = min(size, rows - start)
        x = [pool[at : at + count].copy() for at in random.integers(0, len(pool) - count, columns)]
        label = np.arange(start, start + count) >= rows // 2
        sign = np.where(label, 1.0, -1.0)
        for i in range(0, columns // 2, 2):
            x[i + 1] = 0.96 * x[i + 1] + 0.28 * sign * x[i]
        arrays = {f"x{i}": Array.from_numpy(x[i]) for i in range(columns)}
        table = Table.from_pydict({**arrays, "y": Array.from_numpy(label.astype(np.int8))})
        path = folder / f"part-{start // size:05d}.parquet"
        connection = duckdb.connect()
        connection.register("t", table)
        connection.execute(f"COPY t TO '{path}' (FORMAT parquet, COMPRESSION snappy, ROW_GROUP_SIZE 50000)")
        connection.close()
        written += path.stat().st_size
    return written


def configure(folder: Path, name: str, **sections: Any) -> Path:
    """Write a configuration for the table in a folder."""
    settings = {**SETTINGS, **sections}
    settings["data"] = {"train": "part-*.parquet", "target": "y", "folder": str(folder), **settings.get("data", {})}
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(settings))
    return path


def run(config: Path, folder: Path) -> dict[str, Any]:
    """Train; return what came of it, and the bytes of packed training rows read by the end of each epoch."""
    from gpumlp.config import load
    from gpumlp.data import PackedRows
    from gpumlp.runs import Listener, train

    class Counter(Listener):
        def __init__(self) -> None:
            self.read: list[int] = []
            self.size = 0

        def prepared(self, parts: Any, folder: Path) -> None:
            self.rows = parts.trainer.data.host

        def epoch(self, row: dict[str, Any], best: bool) -> None:
            if isinstance(self.rows, PackedRows):
                self.read.append(self.rows.bytes_read)
                self.size = self.rows.layout.row_bytes * len(self.rows)

    counter = Counter()
    started = time.perf_counter()
    done = train(load(config), folder, listener=counter)
    history = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {
        "seconds": time.perf_counter() - started,
        "phases": done.summary["phases"],
        "rows_per_second": done.summary["samples_per_second"],
        "validation_losses": [row["validation_loss"] for row in history],
        "metrics": done.summary["metrics"],
        "bytes_read_after_each_epoch": counter.read,
        "bytes_of_training_rows": counter.size,
        "peak_resident_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "notes": [note for note in done.notes if "packed" in note],
    }


def limited(config: Path, folder: Path, limit: int) -> dict[str, Any]:
    """Return what ``run`` does in a process that may have so many bytes of memory."""
    group = GROUP / f"gpumlp-{os.getpid()}"
    by_group = os.geteuid() == 0 and (GROUP / "memory.limit_in_bytes").exists()
    if by_group:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(limit))

    def enter() -> None:
        if by_group:
            (group / "tasks").write_text(str(os.getpid()))
        else:
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

    command = [sys.executable, __file__, "--one", str(config), str(folder)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=enter)
    most = {"anonymous": 0}

    def watch() -> None:
        while child.poll() is None:
            for line in _status(child.pid):
                if line.startswith("RssAnon"):
                    most["anonymous"] = max(most["anonymous"], int(line.split()[1]) * 1024)
            time.sleep(0.05)

    watcher = threading.Thread(target=watch)
    watcher.start()
    out, _ = child.communicate()
    watcher.join()
    found: dict[str, Any] = json.loads(out.splitlines()[-1]) if child.returncode == 0 else {"code": child.returncode}
    found |= {"limit_bytes": limit, "limited_by": "control group" if by_group else "RLIMIT_DATA"}
    found["peak_anonymous_bytes"] = most["anonymous"]
    if by_group:
        found["peak_of_the_group_bytes"] = int((group / "memory.max_usage_in_bytes").read_text())
        group.rmdir()
    return found


def _status(process: int) -> list[str]:
    try:
        return Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return []


def once(config: Path, folder: Path) -> dict[str, Any]:
    """Return what ``run`` does in a process of its own."""
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, __file__, "--one", str(config), str(folder)]
    out = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def larger_than_memory(folder: Path, size: float, limit: float, epochs: int) -> dict[str, Any]:
    table = folder / "large"
    rows = int(size * 1e9 / (8 * COLUMNS))
    started = time.perf_counter()
    written = write_table(table, rows)
    print(f"{rows:,} rows of {COLUMNS} columns: {written / 1e9:.3g} GB in {time.perf_counter() - started:.0f} s")
    data = {"max_memory": 0.4 * limit, "pack": {"folder": str(folder / "packs")}}
    config = configure(table, "large", data=data, training={"epochs": epochs, "batch_size": 1024})
    found = limited(config, folder / "run-large", int(limit * 1e9)) | {"rows": rows, "bytes_of_files": written}
    shutil.rmtree(folder / "packs", ignore_errors=True)
    if "code" in found:
        print(f"ended with {found['code']}")
        return found
    read, whole = found["bytes_read_after_each_epoch"], found["bytes_of_training_rows"]
    print(
        f"  limit {limit:g} GB by {found['limited_by']}, most {found['peak_anonymous_bytes'] / 1e9:.2f} GB of memory"
    )
    print("  seconds " + ", ".join(f"{k} {v:.0f}" for k, v in found["phases"].items()))
    print(
        f"  {found['rows_per_second']:,.0f} rows/s of training, accuracy {found['metrics']['test']['accuracy']:.4f}"
    )
    print("  blocks read by the end of each epoch: " + ", ".join(f"{each / whole:.3f}" for each in read) + " of all")
    return found


def beside_memory(folder: Path, rows: int, epochs: int) -> dict[str, Any]:
    from gpumlp import backend as backends
    from gpumlp.data import Dataset, PackedRows
    from gpumlp.data.packed.blocks import BlockLayout, Writer
    from gpumlp.nn import Dense, Loss, Sequential
    from gpumlp.optim import Optimizer, Schedule
    from gpumlp.training.trainer import Trainer

    x = np.random.default_rng(0).standard_normal((rows, COLUMNS), np.float32)
    memory = Dataset(x, (x[:, 0] > 0).astype(np.int32), None)
    layout = BlockLayout.of(rows, memory)
    writer = Writer(folder, "train", layout)
    writer.add(memory)

    def trainer(data: Any) -> Trainer:
        layers = [Dense(128, "relu"), Dense(64, "relu"), Dense(2, "softmax")]
        model = Sequential(layers).build(COLUMNS, backend=backends.get("native"))
        update = Optimizer("adamw", model.parameters, model.context.clock)
        schedule, loss = Schedule("constant", learning_rate=1e-3), Loss("cross_entropy", model)
        return Trainer(model, loss, update, schedule, data, epochs=epochs + 2, batch_size=1024, window=rows // 3)

    trainers = {"memory": trainer(memory), "packed": trainer(PackedRows(folder, "train", layout, writer.checksums))}
    found: dict[str, list[float]] = {name: [] for name in trainers}
    for _ in range(epochs):
        for name, each in trainers.items():
            report = each.run_epoch()
            assert report is not None
            found[name].append(rows / report.seconds)
    ratio = statistics.median(a / b for a, b in zip(found["packed"][1:], found["memory"][1:], strict=True))
    print(
        f"{rows:,} rows, after the first epoch: in memory {statistics.median(found['memory'][1:]):,.0f} rows/s, ",
        end="",
    )
    print(f"packed {statistics.median(found['packed'][1:]):,.0f}; median of the ratios {ratio:.2f}")
    return {"rows": rows, "rows_per_second": found, "median_ratio": ratio}


def curves(folder: Path, rows: int, seeds: int) -> dict[str, Any]:
    table = folder / "sorted"
    write_table(table, rows)
    found: dict[str, list[list[float]]] = {"full shuffle": [], "windows": []}
    for seed in range(seeds):
        training = {"epochs": 5, "batch_size": 256, "seed": seed, "early_stopping": None}
        for name in found:
            window = rows // 8 if name == "windows" else None
            data = {"pack": {"folder": str(folder / "packs-sorted"), "window": window}}
            config = configure(table, "sorted", training=training, data=data)
            found[name].append(once(config, folder / "run-sorted")["validation_losses"])
    for name, losses in found.items():
        ends = np.array(losses)
        pairs = zip(ends.mean(0), ends.std(0, ddof=1), strict=True)
        print(f"{name:<13}" + "  ".join(f"{mean:.4f} ± {deviation:.4f}" for mean, deviation in pairs))
    return {"rows": rows, "validation_losses": found}


def main() -> None:
    """Measure all that the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=6.0, help="of the files; 0: leave this out")
    parser.add_argument("--limit", type=float, default=1.0, help="GB of memory")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rows", type=int, default=400_000, help="of the table that memory holds; 0: leave it out")
    parser.add_argument("--rounds", type=int, default=12, help="epochs of that")
    parser.add_argument("--seeds", type=int, default=5, help="of the curves; 0: leave them out")
    parser.add_argument("--folder", type=Path, help="for tables, packs and runs, all of which are deleted")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", nargs=2, type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(run(*given.one)))
        return
    found: dict[str, Any] = {"cores": os.cpu_count(), "columns": COLUMNS}
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        if given.gigabytes:
            found["larger_than_memory"] = larger_than_memory(folder, given.gigabytes, given.limit, given.epochs)
        if given.rows:
            found["beside_memory"] = beside_memory(folder, given.rows, given.rounds)
        if given.seeds:
            found["curves"] = curves(folder, 100_000, given.seeds)
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
