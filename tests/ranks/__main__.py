"""Kill random ranks of runs at random moments, go on with other numbers of ranks, and compare the models.

    python -m tests.ranks --number 100
    python -m tests.ranks --cases

Each run is by 2 or 4 ranks, and goes on by 1, 2 or 4 until it has ended; in one of three of these one is killed, too.
The model and the losses of each epoch must be those of a run by one rank that was left alone. Prints a table, and
exits with 1 where one differs. docs/guarantees.md has the figures. ``--cases`` trains with many settings by 1, 2 and
4 ranks that are threads instead, and compares the models.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from ranks import cases, processes

SETTINGS = (
    *(
        "backend=numpy",
        "training={shards: 4, epochs: 40, batch_size: 16, early_stopping: null, checkpoint_every: 20}",
    ),
    *("model={hidden: [8], norm: batch, dropout: 0.3}", "loss.class_weight=balanced"),
    "optimizer={name: adam, clip_norm: 0.5, averaging: 0.99}",
)
KEPT = ("epoch", "train_loss", "validation_loss")


def outcome(folder: Path) -> list[object]:
    """Return the bytes of the model, and the losses of each epoch."""
    history = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [tuple(row[name] for name in KEPT) for row in history]
    return [[path.read_bytes() for path in sorted((folder / "model").iterdir())], losses]


def run(
    size: int, config: Path, folder: Path, dies_after: float | None, chosen: random.Random, more: list[str]
) -> tuple[int, str]:
    """Run by so many ranks; kill one of them after some seconds. Return the exit code and how far the run was."""
    arguments = [part for setting in (*SETTINGS, *more) for part in ("--set", setting)]
    going = processes.start(size, config, *arguments, "--run-dir", folder, "--resume", "-q")
    if dies_after is not None:
        with contextlib.suppress(AssertionError, ProcessLookupError):
            time.sleep(dies_after)
            os.kill(processes.process_of(going, chosen.randrange(size)), signal.SIGKILL)
    _, error = going.communicate(timeout=300)
    assert going.returncode in (0, 128 + signal.SIGKILL), error
    stage = (
        "ended" if (folder / "summary.json").exists() else "training" if any(folder.glob("*/step-*")) else "before"
    )
    return going.returncode, stage


def compare() -> int:
    """Train with many settings by 1, 2 and 4 ranks; print whose models differ, and return whether any does."""
    count = unlike = 0
    for name, settings in cases.cases():
        with tempfile.TemporaryDirectory() as place:
            found = cases.unlike(cases.table(Path(place)), settings, Path(place))
        count, unlike = count + 1, unlike + bool(found)
        if found:
            print(f"{name}: another model by {found} ranks")
    print(f"{count:5d}  settings, {unlike} unlike")
    return int(unlike > 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=100, help="kills that hit")
    parser.add_argument("--seed", type=int, default=1, help="of the moments, ranks and numbers of ranks")
    parser.add_argument("--set", action="append", default=[], help="a setting more, as of gpumlp train")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no run after so long")
    parser.add_argument("--cases", action="store_true", help="compare models of many settings instead")
    given = parser.parse_args()
    if given.cases:
        return compare()
    began = time.monotonic()
    chosen, found, unlike = random.Random(given.seed), Counter[str](), 0
    with tempfile.TemporaryDirectory() as place:
        config, folder = processes.task(Path(place), 300), Path(place) / "run"
        lasts = {}
        for size in (1, 2, 4):
            started = time.monotonic()
            run(size, config, Path(place) / f"{size}", None, chosen, given.set)
            lasts[size] = time.monotonic() - started
        wanted = outcome(Path(place) / "1")
        runs = kills = 0
        while kills < given.number and time.monotonic() - began < given.seconds:
            runs, size, dies, code = runs + 1, chosen.choice((2, 4)), True, 1
            while code != 0:
                moment = chosen.uniform(0.25, 0.85) * lasts[size] if dies else None
                code, stage = run(size, config, folder, moment, chosen, given.set)
                if code:
                    kills += 1
                    found[f"killed by {size} ranks, {stage}"] += 1
                    size, dies = chosen.choice((1, 2, 4)), chosen.random() < 1 / 3
                    found[f"resumed by {size}"] += 1
            unlike += outcome(folder) != wanted
            shutil.rmtree(folder)
    for name, count in sorted(found.items()):
        print(f"{count:5d}  {name}")
    print(f"{runs:5d}  runs, {unlike} unlike")
    return int(unlike > 0)


if __name__ == "__main__":
    sys.exit(main())
