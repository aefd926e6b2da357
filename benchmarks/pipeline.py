"""From a file to a model, from a file to predictions: whole commands, beside pandas and a scikit-learn script.

    pip install -e '.[bench]'
    python benchmarks/pipeline.py [--rows 1000000] [--rounds 3] [--sklearn] [--json FILE]

The file has 16 columns of numbers, 3 of texts (3, 12 and 300 values) and a target of two classes, drawn from a fixed
seed, as CSV and as Parquet. Each command is a process of its own; all take turns, round by round, and the table has
the median wall seconds and the largest peak of memory (resident set, MB).

    pandas     pandas.read_csv of the file, timed inside the process: the unit of the ratios
    train      gpumlp train, 2 epochs of 128-64; `around` is its time without the seconds of training
    parquet    the same from Parquet
    predict    gpumlp predict of the same rows to a CSV file
    sklearn    with --sklearn: pandas, ColumnTransformer (RobustScaler, OneHotEncoder), MLPClassifier with the same
               widths, batch and epochs, to the same metrics on the same shares of the rows
"""

from __future__ import annotations

import argparse
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
from pathlib import Path
from typing import Any

import numpy as np
from reader import until_reader_leaves

EPOCHS, BATCH = 2, 256
CONFIG = """\
task: classification
data: {{train: {file}, target: y}}
model: {{hidden: [128, 64]}}
training: {{epochs: {epochs}, batch_size: {batch}}}
"""
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
y = frame.pop("y")
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


def commands(folder: Path, *, sklearn: bool) -> dict[str, list[str]]:
    """Return what is timed, by name, in the order of a round."""
    gpumlp = [sys.executable, "-m", "gpumlp"]
    chosen = {"pandas": [sys.executable, "-c", PANDAS, str(folder / "rows.csv")]}
    for name, file in (("train", "rows.csv"), ("parquet", "rows.parquet")):
        config = folder / f"{name}.yaml"
        config.write_text(CONFIG.format(file=file, epochs=EPOCHS, batch=BATCH))
        chosen[name] = [*gpumlp, "train", str(config), "--run-dir", str(folder / name), "--force", "--json"]
    chosen["predict"] = [*gpumlp, "predict", str(folder / "train"), str(folder / "rows.csv"), "--force"]
    chosen["predict"] += ["-o", str(folder / "out.csv")]
    if sklearn:
        chosen["sklearn"] = [sys.executable, "-c", SKLEARN, str(folder / "rows.csv"), str(BATCH), str(EPOCHS)]
    return chosen


def measure(folder: Path, rounds: int, *, sklearn: bool) -> dict[str, dict[str, float]]:
    """Run all commands in turns; return medians by command, with the ratio to pandas' time."""
    seconds: dict[str, list[float]] = {}
    peak: dict[str, float] = {}
    training: dict[str, list[float]] = {}
    phases: dict[str, Any] = {}
    chosen = commands(folder, sklearn=sklearn)
    for round_ in range(rounds + 1):  # the first compiles kernels and fills the page cache
        for name, command in chosen.items():
            wall, memory, said = run(command)
            if not round_:
                continue
            seconds.setdefault(name, []).append(float(said) if name == "pandas" else wall)
            peak[name] = max(peak.get(name, 0.0), memory)
            if name in ("train", "parquet"):
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
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        # In a process of its own: a child's peak of memory is at least what its parent has when it is begun.
        writer = multiprocessing.get_context("spawn").Process(target=write_files, args=(folder, options.rows))
        writer.start()
        writer.join()
        size = (folder / "rows.csv").stat().st_size
        print(f"{options.rows:,} rows, {size / 1e6:.0f} MB of CSV; {os.cpu_count()} cores", flush=True)
        found = measure(folder, options.rounds, sklearn=options.sklearn)
    print(f"{'':<10}{'seconds':>9}{'around':>9}{'x pandas':>10}{'peak MB':>9}")
    for name, row in found.items():
        print(f"{name:<10}{row['seconds']:9.2f}{row['around']:9.2f}{row['times_pandas']:10.1f}{row['peak_mb']:9.0f}")
    if "sklearn" in found:
        print(
            f"scikit-learn's script takes {found['sklearn']['seconds'] / found['train']['seconds']:.1f} times as long"
        )
    if options.json:
        about = {"rows": options.rows, "csv_bytes": size, "cores": os.cpu_count(), "processor": platform.processor()}
        options.json.write_text(json.dumps({"about": about, "commands": found}, indent=1) + "\n")


if __name__ == "__main__":
    until_reader_leaves(main)
