"""From a file to a model, from a file to predictions: whole commands, beside pandas and a scikit-learn script.

    pip install -e '.[bench]'
    python benchmarks/pipeline.py [--rows 1000000] [--rounds 3] [--sklearn] [--file CSV:TARGET ...] [--json FILE]
    python benchmarks/pipeline.py --widths 100 1000 5000 20000 [--json FILE]

The file has 16 columns of numbers, 3 of texts (3, 12 and 300 values) and a target of two classes, drawn from a fixed
seed, as CSV and as Parquet. Each command is a process of its own; all take turns, round by round, and the table has
the median wall seconds and the largest peak of memory (resident set, MB).

    pandas     pandas.read_csv of the file, timed inside the process: the unit of the ratios
    train      gpumlp train, 2 epochs of 128-64; `around` is its time without the seconds of training
    parquet    the same from Parquet
    predict    gpumlp predict of the same rows to a CSV file
    sklearn    with --sklearn: pandas, ColumnTransformer (RobustScaler, OneHotEncoder), MLPClassifier with the same
               widths, batch and epochs, to the same metrics on the same shares of the rows

With ``--file`` another CSV file of two classes, perhaps packed, takes its turns with ``gpumlp train`` and
scikit-learn's script alone, ``FILE_EPOCHS`` epochs. With ``--widths`` there are ``WIDE_CELLS`` cells of numbers as
tables of so many columns, trained on for an epoch: the time of the phases before training is that of the cells.
"""

from __future__ import annotations

import argparse
import gzip
import json
import multiprocessing
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from reader import until_reader_leaves

EPOCHS, FILE_EPOCHS, BATCH = 2, 10, 256
WIDE_CELLS = 4_000_000
CONFIG = """\
task: classification
data: {{train: {file}, target: {target}}}
model: {{hidden: [128, 64]}}
training: {{epochs: {epochs}, batch_size: {batch}}}
"""
GPUMLP = [sys.executable, "-m", "gpumlp"]
PANDAS = """\
import sys, time, pandas
started = time.perf_counter()
pandas.read_csv(sys.argv[1])
print(time.perf_counter() - started)
"""
SKLEARN = """\
import sys, numpy, pandas
from sklearn.compose import make_column_transformer
from sklearn.metrics import accuracy_score, f1_score, log_loss, roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, RobustScaler
frame = pandas.read_csv(sys.argv[1])
y = frame.pop(sys.argv[4])
texts = [name for name in frame if not pandas.api.types.is_numeric_dtype(frame[name])]
numbers = [name for name in frame if name not in texts]
train, rest, y_train, y_rest = train_test_split(frame, y, test_size=0.3, stratify=y, random_state=0)
halves = train_test_split(rest, y_rest, test_size=0.5, stratify=y_rest, random_state=0)
validation, test, y_validation, y_test = halves
encode = make_column_transformer((RobustScaler(), numbers), (OneHotEncoder(handle_unknown="ignore"), texts))
network = MLPClassifier((128, 64), batch_size=int(sys.argv[2]), max_iter=int(sys.argv[3]), random_state=0)
import warnings
warnings.simplefilter("ignore")
model = make_pipeline(encode, network).fit(train, y_train)
for part, labels in ((train, y_train), (validation, y_validation), (test, y_test)):
    p = model.predict_proba(part)
    chosen = model.classes_[p.argmax(axis=1)]
    print(log_loss(labels, p), accuracy_score(labels, chosen), f1_score(labels, chosen, average="macro"),
          roc_auc_score(labels, p[:, 1]))
"""


def write_files(folder: Path, rows: int) -> None:
    """Write the rows as CSV and as Parquet."""
    import pandas

    rng = np.random.default_rng(0)
    columns: dict[str, Any] = {f"x{i}": (rng.standard_normal(rows) * 10 ** (i % 4)).round(4) for i in range(16)}
    for name, values in (("level", 3), ("city", 12), ("code", 300)):
        columns[name] = np.array([f"{name}{i:03}" for i in range(values)])[rng.integers(values, size=rows)]
    score = columns["x0"] + 0.1 * columns["x1"] + (columns["level"] == "level002") + rng.standard_normal(rows)
    columns["y"] = np.where(score > 0, "yes", "no")
    frame = pandas.DataFrame(columns)
    frame.to_csv(folder / "rows.csv", index=False)
    frame.to_parquet(folder / "rows.parquet")


def run(command: list[str]) -> tuple[float, float, str]:
    """Run a command; return its wall seconds, its peak memory in MB and what it printed."""
    started = time.perf_counter()
    # Bytecode is kept, as an installation has it.
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    kept.setdefault("PYTHONPYCACHEPREFIX", str(Path(tempfile.gettempdir()) / "gpumlp-bytecode"))
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.PIPE, env=kept)
        assert process.stderr is not None
        said = process.stderr.read()
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        if status:
            raise SystemExit(f"{shlex.join(command)} failed:\n{said.decode()}")
        out.seek(0)
        return seconds, used.ru_maxrss / 1024, out.read().decode()


def train_command(config: Path, run_folder: Path) -> list[str]:
    return [*GPUMLP, "train", str(config), "--run-dir", str(run_folder), "--force", "--json"]


def commands(folder: Path, *, sklearn: bool) -> dict[str, list[str]]:
    """Return what is timed, by name, in the order of a round."""
    chosen = {"pandas": [sys.executable, "-c", PANDAS, str(folder / "rows.csv")]}
    for name, file in (("train", "rows.csv"), ("parquet", "rows.parquet")):
        config = folder / f"{name}.yaml"
        config.write_text(CONFIG.format(file=file, target="y", epochs=EPOCHS, batch=BATCH))
        chosen[name] = train_command(config, folder / name)
    chosen["predict"] = [*GPUMLP, "predict", str(folder / "train"), str(folder / "rows.csv"), "--force"]
    chosen["predict"] += ["-o", str(folder / "out.csv")]
    if sklearn:
        chosen["sklearn"] = [sys.executable, "-c", SKLEARN, str(folder / "rows.csv"), str(BATCH), str(EPOCHS), "y"]
    return chosen


def commands_on(file: Path, target: str, folder: Path) -> dict[str, list[str]]:
    """Return what is timed on another file, which is unpacked: scikit-learn's script and ours."""
    name = file.name.split(".")[0]
    plain = folder / f"{name}.csv"
    plain.write_bytes(gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes())
    config = folder / f"{name}.yaml"
    config.write_text(CONFIG.format(file=plain.name, target=target, epochs=FILE_EPOCHS, batch=BATCH))
    theirs = [sys.executable, "-c", SKLEARN, str(plain), str(BATCH), str(FILE_EPOCHS), target]
    return {name: train_command(config, folder / name), f"{name} sklearn": theirs}


def measure_widths(folder: Path, widths: Sequence[int]) -> dict[str, dict[str, Any]]:
    """Return seconds of the phases and the peak of memory of tables of as many cells and so many columns."""
    found: dict[str, dict[str, Any]] = {}
    for columns in (widths[0], *widths):  # the first compiles kernels
        rows = WIDE_CELLS // columns
        table = np.random.default_rng(0).standard_normal((rows, columns))
        y = np.where(table[:, 0] + table[:, 1] > 0, "yes", "no")
        with (folder / "wide.csv").open("w") as stream:
            stream.write(",".join([*(f"x{i}" for i in range(columns)), "y"]) + "\n")
            for row, label in zip(table, y, strict=True):
                stream.write(",".join([*(f"{value:.4f}" for value in row), label]) + "\n")
        del table
        config = folder / "wide.yaml"
        config.write_text(CONFIG.format(file="wide.csv", target="y", epochs=1, batch=BATCH))
        wall, memory, said = run(train_command(config, folder / "wide"))
        phases = json.loads(said)["phases"]
        before = sum(phases[name] for name in ("read", "fit", "encode"))
        found[str(columns)] = {"rows": rows, "seconds": wall, "before_training": before, "peak_mb": memory} | {
            "phases": phases
        }
    return found


def measure(
    folder: Path, rounds: int, *, sklearn: bool, files: Sequence[tuple[Path, str]] = ()
) -> dict[str, dict[str, float]]:
    """Run all commands in turns; return medians by command, with the ratio to pandas' time."""
    seconds: dict[str, list[float]] = {}
    peak: dict[str, float] = {}
    training: dict[str, list[float]] = {}
    phases: dict[str, Any] = {}
    chosen = commands(folder, sklearn=sklearn)
    for file, target in files:
        chosen |= commands_on(file, target, folder)
    for round_ in range(rounds + 1):  # the first compiles kernels and fills the page cache
        for name, command in chosen.items():
            wall, memory, said = run(command)
            if not round_:
                continue
            seconds.setdefault(name, []).append(float(said) if name == "pandas" else wall)
            peak[name] = max(peak.get(name, 0.0), memory)
            if "--json" in command:
                summary = json.loads(said)
                training.setdefault(name, []).append(summary["phases"]["train"])
                phases[name] = summary["phases"]
    unit = statistics.median(seconds["pandas"])
    found: dict[str, dict[str, Any]] = {}
    for name in chosen:
        median = statistics.median(seconds[name])
        found[name] = {"seconds": median, "peak_mb": peak[name], "all": seconds[name]}
        around = median - statistics.median(training.get(name, [0.0]))
        found[name] |= {"around": around, "times_pandas": around / unit}
        if name in phases:
            found[name]["phases"] = phases[name]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sklearn", action="store_true")
    parser.add_argument("--file", action="append", default=[], help="CSV:TARGET, another file of two classes")
    parser.add_argument("--widths", type=int, nargs="+", help="numbers of columns, of as many cells each")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    about: dict[str, Any] = {"cores": os.cpu_count(), "processor": platform.processor() or platform.machine()}
    if options.widths:
        with tempfile.TemporaryDirectory() as place:
            widths = measure_widths(Path(place), options.widths)
        print(f"{'columns':<10}{'rows':>9}{'before training':>17}{'seconds':>9}{'peak MB':>9}")
        for name, row in widths.items():
            print(
                f"{name:<10}{row['rows']:>9}{row['before_training']:17.2f}{row['seconds']:9.2f}{row['peak_mb']:9.0f}"
            )
        if options.json:
            about |= {"cells": WIDE_CELLS, "load": os.getloadavg()}
            options.json.write_text(json.dumps({"about": about, "widths": widths}, indent=1) + "\n")
        return
    files = [(Path(path), target) for path, _, target in (each.rpartition(":") for each in options.file)]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        # In a process of its own: a child's peak of memory is at least what its parent has when it is begun.
        writer = multiprocessing.get_context("spawn").Process(target=write_files, args=(folder, options.rows))
        writer.start()
        writer.join()
        size = (folder / "rows.csv").stat().st_size
        print(f"{options.rows:,} rows, {size / 1e6:.0f} MB of CSV; {os.cpu_count()} cores", flush=True)
        found = measure(folder, options.rounds, sklearn=options.sklearn, files=files)
    print(f"{'':<20}{'seconds':>9}{'around':>9}{'x pandas':>10}{'peak MB':>9}")
    for name, row in found.items():
        print(f"{name:<20}{row['seconds']:9.2f}{row['around']:9.2f}{row['times_pandas']:10.1f}{row['peak_mb']:9.0f}")
    for ours, theirs in [("train", "sklearn"), *((name, f"{name} sklearn") for name in found)]:
        if theirs in found:
            times = found[theirs]["seconds"] / found[ours]["seconds"]
            print(f"{ours}: scikit-learn's script takes {times:.1f} times as long")
    if options.json:
        # Of a busy machine only the ratios mean something.
        about |= {"rows": options.rows, "csv_bytes": size, "load": os.getloadavg()}
        options.json.write_text(json.dumps({"about": about, "commands": found}, indent=1) + "\n")


if __name__ == "__main__":
    until_reader_leaves(main)
