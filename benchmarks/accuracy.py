"""How good models are: settings side by side on real data, fixed splits, several seeds.

    python benchmarks/accuracy.py FOLDER [--sets NAME ...] [--seeds 3] [--variant NAME KEY=VALUE ...] [--json FILE]
    python benchmarks/accuracy.py FOLDER --inner ...
    python benchmarks/accuracy.py --read FILE ...

FOLDER holds the data sets, how to read them (`specs.json`) and the numbers of their test rows (`splits/`). A variant
is a name and settings as for `--set`; the first one is what the others are compared with, and without any there is
one, `defaults`. A seed decides the validation rows, the first weights and the order of batches; the
`uci_regression` sets have a split of their own for each seed.

Settings are chosen with `--inner`: a quarter of the training rows takes the place of the test rows, which no choice
ever sees. The figures are accuracy in % and log-loss, or RMSE in units of the target, each a mean over the seeds;
`ratio` is the geometric mean over seeds of the test loss (log-loss or squared error) over that of the first one.
What a FILE holds already is not run again, so that a long comparison can be made in short pieces.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from reader import until_reader_leaves

from gpumlp import backend
from gpumlp.bench import machine
from gpumlp.data import prepare, rows_of
from gpumlp.runs import load_ensemble
from gpumlp.runs.in_memory import category_columns
from gpumlp.sweep.bag import train_bag
from gpumlp.sweep.folder import Template
from gpumlp.training.build import build
from gpumlp.training.loop import Diverged
from gpumlp.training.members import loop_over

UCI = ("concrete", "energy", "kin8nm", "power-plant", "protein", "wine-red", "yacht")
SMALL = {
    "breast_cancer": ("breast_cancer.csv", "target", "binary"),
    "wine": ("wine.csv", "target", "multiclass"),
    "digits": ("digits.csv.gz", "target", "multiclass"),
    "diabetes": ("diabetes.csv", "target", "regression"),
    "bikeshare": ("bikeshare.csv.gz", "bikers", "regression"),
}
LARGE = ("adult", "california", "churn", "covtype.20k", "diamonds_log", "connect4")
ALL = (*LARGE, *UCI, *SMALL)
TARGET = "target of the set"
INNER_SHARE = 0.25
PLAIN_LOSS = {"classification": "log_loss", "regression": "rmse"}


def tables(folder: Path, name: str, seed: int) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    """Return the training rows and the test rows of a set, and its task. The target is the column ``TARGET``."""
    if name in UCI:
        place = folder / "uci_regression" / name
        info = json.loads((place / "info.json").read_text())
        every = pd.read_csv(place / "data.txt.gz", sep=r"\s+", header=None)
        lines = gzip.decompress((place / "test_index.csv.gz").read_bytes()).decode().splitlines()
        chosen = lines[seed].strip(",").split(",")
        frame = every[info["features"]].copy()
        frame[TARGET] = every[info["target"]]
        return *divided(frame, np.array(chosen, dtype=np.int64)), "regression"
    if name in SMALL:
        file, target, task = SMALL[name]
        frame = pd.read_csv(folder / "shippable" / file).drop(columns=["casual", "registered"], errors="ignore")
        order = np.random.default_rng(seed).permutation(len(frame))
        return *divided(frame.rename(columns={target: TARGET}), order[: len(frame) // 5]), _task(task)
    spec = json.loads((folder / "specs.json").read_text())[name]
    frame = pd.read_csv(folder / spec["file"], **spec["read"]).drop(columns=spec.get("drop", []))
    frame = frame.rename(columns={spec["target"]: TARGET})
    if spec.get("log_target"):
        frame[TARGET] = np.log(frame[TARGET])
    if "test" in spec:
        test = pd.read_csv(folder / spec["test"], **spec.get("test_read", spec["read"]))
        test = test.rename(columns={spec["target"]: TARGET})
        test[TARGET] = test[TARGET].str.rstrip(".")
        return frame, test, _task(spec["task"])
    rows = pd.read_csv(folder / "splits" / f"{name}.test_rows.csv.gz")["row"].to_numpy()
    return *divided(frame, rows), _task(spec["task"])


def divided(frame: pd.DataFrame, test_rows: np.ndarray[Any, Any]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return all rows but some, and these."""
    is_test = np.zeros(len(frame), bool)
    is_test[test_rows] = True
    return frame[~is_test].reset_index(drop=True), frame[is_test].reset_index(drop=True)


def _task(name: str) -> str:
    return "regression" if name == "regression" else "classification"


def template_of(task: str, overrides: Sequence[str], seed: int) -> Template:
    """Return the configuration of a run, but for where its rows are."""
    text = f"task: {task}\ndata: {{train: rows, target: {TARGET}}}\n"
    return Template(Path("<benchmark>"), (*overrides, f"training.seed={seed}"), text)


def run(folder: Path, name: str, seed: int, overrides: Sequence[str], inner: bool) -> dict[str, Any]:
    """Train once; return what came of it."""
    train, test, task = tables(folder, name, seed)
    if inner:
        order = np.random.default_rng(1000 + seed).permutation(len(train))
        train, test = divided(train, order[: int(INNER_SHARE * len(train))])
    for frame in (train, test):
        frame.columns = [str(column) for column in frame.columns]
        if task == "classification":
            frame[TARGET] = frame[TARGET].astype(str)
    template = template_of(task, overrides, seed)
    settings = template.load().settings
    if settings.bag > 1:
        return bagged(template, train, test, task)
    data = prepare(
        rows_of(train),
        task=settings.task,
        target=TARGET,
        validation=settings.data.split.validation,
        test=rows_of(test),
        scaling=settings.data.scaling,
        columns=category_columns(train),
        seed=seed,
    )
    parts = build(settings, data)
    started, cpu = time.perf_counter(), time.process_time()
    loop = loop_over(parts)
    for event in loop:
        if isinstance(event, Diverged):
            raise SystemExit(f"{name}, seed {seed}: {event.reason}")
    return {
        "epochs": loop.progress.epoch,
        "best_epoch": loop.progress.best_epoch,
        "planned_epochs": parts.trainer.epochs,
        "steps": loop.progress.epoch * parts.trainer.batches,
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu,
        "rows": {part: len(rows) for part, rows in data.parts.items()},
        "task": task,
        "metrics": loop.measure(),
    }


def bagged(template: Template, train: pd.DataFrame, test: pd.DataFrame, task: str) -> dict[str, Any]:
    """Train a bag from files of its rows; return what came of it, epochs and steps of all its runs together."""
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder, "rows.parquet")
        train.to_parquet(rows)
        on_rows = replace(template, overrides=(*template.overrides, f"data.train={rows}"))
        started, cpu = time.perf_counter(), time.process_time()
        results = train_bag(on_rows, Path(folder, "bag"), done=lambda _, result: runs.append(result.summary))
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        metrics = {**results["metrics"], "test": load_ensemble(results["ensemble"]).evaluate(test)}
    return {
        "epochs": sum(run["epochs"] for run in runs),
        "best_epoch": sum(run["best_epoch"] for run in runs),
        "steps": sum(round(run["seconds"] / run["seconds_per_step"]) for run in runs),
        "seconds": seconds,
        "cpu_seconds": cpu,
        "rows": {"train": len(train), "test": len(test)},
        "task": task,
        "metrics": metrics,
    }


def loss_of(result: dict[str, Any]) -> float:
    """Return the test loss: log-loss, or squared error."""
    test = result["metrics"]["test"]
    return float(test["rmse"]) ** 2 if result["task"] == "regression" else float(test["log_loss"])


def shown(results: Sequence[dict[str, Any]]) -> str:
    """Return the mean metrics of the seeds in one line."""
    tests = [each["metrics"]["test"] for each in results]

    def mean(name: str) -> float:
        return statistics.fmean(test[name] for test in tests)

    if results[0]["task"] == "regression":
        return f"RMSE {mean('rmse'):9.4g}"
    return f"{100 * mean('accuracy'):6.2f} %  {statistics.fmean(map(loss_of, results)):.4f}"


def report(found: dict[str, Any]) -> Iterator[str]:
    """Yield lines on all results, a set and a variant each, and the ratios over all sets."""
    ratios: dict[str, list[float]] = {}
    times: dict[str, list[float]] = {}
    for name, variants in found["sets"].items():
        if not variants:
            continue
        first = next(iter(found["variants"]))
        for variant, seeds in variants.items():
            results = list(seeds.values())
            line = f"{name:14} {variant:22} {shown(results)}"
            line += f"  epoch {statistics.fmean(r['best_epoch'] for r in results):6.1f}"
            line += f" of {statistics.fmean(r['epochs'] for r in results):6.1f}"
            line += f"  {statistics.fmean(r['cpu_seconds'] for r in results):6.2f} s"
            common = [seed for seed in seeds if seed in variants.get(first, {})]
            if variant != first and common:
                each = [math.log(loss_of(seeds[s]) / loss_of(variants[first][s])) for s in common]
                ratio = math.exp(statistics.fmean(each))
                ratios.setdefault(variant, []).append(ratio)
                spent = [seeds[s]["cpu_seconds"] / variants[first][s]["cpu_seconds"] for s in common]
                times.setdefault(variant, []).append(statistics.geometric_mean(spent))
                line += f"  ratio {ratio:.3f} (seeds {min(each):+.3f} to {max(each):+.3f})"
            yield line
    for variant, each in ratios.items():
        better = sum(ratio < 0.995 for ratio in each)
        worse = sum(ratio > 1.005 for ratio in each)
        yield (
            f"{variant}: ratio {statistics.geometric_mean(each):.3f}, better on {better} of {len(each)}, worse on "
            f"{worse}, worst {max(each):.3f}, time x {statistics.geometric_mean(times[variant]):.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="folder of the data sets")
    parser.add_argument("--sets", nargs="+", choices=ALL, default=ALL, metavar="NAME", help=", ".join(ALL))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--variant", nargs="+", action="append", metavar="NAME KEY=VALUE", help="settings to run")
    parser.add_argument(
        "--inner", action="store_true", help="measure on training rows kept out, not on the test rows"
    )
    parser.add_argument("--budget", type=float, default=math.inf, metavar="SECONDS", help="start no run after this")
    parser.add_argument("--json", type=Path, help="file to add the results to")
    parser.add_argument("--read", type=Path, nargs="+", help="show the results of files")
    options = parser.parse_args()
    if options.read:
        for path in options.read:
            print("\n".join([f"{path}:", *report(json.loads(path.read_text()))]))
        return
    if options.folder is None:
        parser.error("the folder of the data sets is missing")
    variants = {name: values for name, *values in options.variant or [["defaults"]]}
    found: dict[str, Any] = {"variants": {}, "sets": {}}
    if options.json and options.json.exists():
        found = json.loads(options.json.read_text())
    found |= {
        "processor": machine.name(backend.get("auto")),
        "cores": os.cpu_count(),
        "inner": options.inner,
    }
    for variant, overrides in variants.items():
        if found["variants"].setdefault(variant, overrides) != overrides:
            raise SystemExit(f"{options.json}: the variant {variant} has other settings there")
    started = time.monotonic()
    for name in options.sets:
        kept = found["sets"].setdefault(name, {})
        for variant, overrides in variants.items():
            for seed in range(options.seeds):
                if str(seed) in kept.setdefault(variant, {}) or time.monotonic() - started > options.budget:
                    continue
                kept[variant][str(seed)] = run(options.folder, name, seed, overrides, options.inner)
                if options.json:
                    options.json.write_text(json.dumps(found, indent=1) + "\n")
            if not kept[variant]:
                del kept[variant]
    print("\n".join(report(found)))


if __name__ == "__main__":
    until_reader_leaves(main)
