"""Settings whose models must be the same, byte for byte, by one, two and four ranks.

    python -m tests.ranks --cases

runs them all; CI runs those of :data:`SAMPLE`, which have several settings in one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gpumlp.config import load
from gpumlp.ops.precision import PRECISIONS
from gpumlp.optim import OPTIMIZERS, SCHEDULES
from gpumlp.runs import train
from ranks.threads import by_threads

ALWAYS = ("backend=numpy", "training={shards: 4, batch_size: 16, epochs: 3}", "model.hidden=[8, 8]")
TARGETS = {"class": "classification", "pair": "classification", "number": "regression", "[pair, other]": "multilabel"}

SAMPLE: dict[str, tuple[str, ...]] = {
    "recipe": (
        *(
            "members={count: 3, share: weights}",
            "model.numbers={embedding: ple, bins: 5}",
            "optimizer.name=schedule_free",
        ),
        *(
            "training.mixup=0.3",
            "training.calibration=temperature",
            "training.metric=macro_f1",
            "data.scaling=robust",
        ),
    ),
    "numbers": (
        *("data.target=number", "model.initializer=data", "loss={name: quantile, levels: [0.1, 0.5, 0.9]}"),
        *(
            "optimizer={name: muon, averaging: 0.9}",
            "schedule={name: plateau, patience: 1}",
            "training.conformal=0.1",
            "training.snapshots=3",
        ),
        *(
            "model.dropout=0.2",
            "model.dropout_schedule=cosine",
            "precision=float64",
            "data.target_transform=yeo_johnson",
        ),
    ),
    "labels": (
        *("data.target=[pair, other]", "data.weights=weight", "model.norm=batch", "model.residual=true"),
        *("model.numbers={embedding: both, missing: vector}", "model.categories.table_above=2"),
        *("training.metric=auc", "training.early_stopping={patience: 1}", "optimizer.clip_norm=0.1"),
    ),
    "packed": (
        *("data.pack.window=64", "data.weights=weight", "loss.class_weight=balanced", "model.initializer=data"),
        *("training.drop_last=true", "model.norm=layer", "data.target=pair"),
    ),
}


def cases() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the name and the settings of each case."""
    yield from SAMPLE.items()
    for name in OPTIMIZERS:
        yield f"optimizer {name}", (f"optimizer.name={name}", "model.norm=batch", "model.dropout=0.2")
    for name in PRECISIONS:
        yield f"precision {name}", (f"precision={name}", "model.norm=batch", "model.dropout=0.2")
    for name in SCHEDULES:
        yield f"schedule {name}", (f"schedule.name={name}",)
    for name in ("data", "orthogonal", "zeros"):
        yield f"initializer {name}", (f"model.initializer={name}",)
    for target in TARGETS:
        yield f"target {target}", (f"data.target={target}", "data.weights=weight", "training.metric=loss")
    for name in ("accuracy", "macro_f1", "log_loss"):
        yield f"metric {name}", (f"training.metric={name}", "training.early_stopping={patience: 1}")
    for loss in ("focal", "hinge"):
        yield f"loss {loss}", (f"loss.name={loss}",)
    for loss in ("absolute_error", "huber", "poisson", "absolute_percentage_error"):
        yield f"loss {loss}", (f"loss.name={loss}", "data.target=count")
    yield "clamp", ("data.target=number", "model.clamp=true")
    for share in ("hidden", "weights"):
        yield f"members share {share}", (f"members={{count: 3, share: {share}}}", "model.dropout=0.2")
    for preset in ("tabular", "strong"):
        yield f"preset {preset}", (f"preset={preset}", "training.epochs=3")
    for setting in (
        *("model.input_factors=true", "model.trained_activation=true", "model.parametrization=ntk"),
        *("model.numbers.embedding=ple", "model.numbers.embedding=pbld", "model.categories.scaled=true"),
        *("model.activation=softmax", "training.mixup=1", "training.calibration=none", "optimizer.averaging=0.9"),
        *("optimizer.decay_schedule=cosine", "loss.label_smoothing=0.1", "loss.class_weight=balanced"),
        *("data.scaling=quantile", "data.split.time=y", "data.split.validation=0", "training.batch_size=13"),
    ):
        yield setting, (setting,)


def table(place: Path, rows: int = 90) -> Path:
    """Write a data file of numbers (some missing), a category, weights and targets, and its configuration."""
    rng = np.random.default_rng(5)
    x, y, z = rng.standard_normal((3, rows)).round(3)
    kinds, weights = rng.integers(0, 5, rows), rng.integers(1, 5, rows) / 2
    lines = ["x,y,z,kind,weight,class,pair,other,number,count"]
    for row in range(rows):
        first = "" if row % 7 == 3 else f"{x[row]}"
        named = "abc"[int(x[row] > 0) + int(y[row] > 0.5)]
        pair, other = ("yes" if value > 0 else "no" for value in (x[row] + y[row], z[row]))
        number, count = round(float(2 * x[row] - z[row]), 3), abs(int(5 * x[row])) + 1
        lines.append(
            f"{first},{y[row]},{z[row]},k{kinds[row]},{weights[row]},{named},{pair},{other},{number},{count}"
        )
    (place / "data.csv").write_text("\n".join(lines) + "\n")
    config = place / "config.yaml"
    config.write_text("task: classification\ndata: {train: data.csv, target: class}\n")
    return config


def unlike(config: Path, settings: tuple[str, ...], place: Path, sizes: tuple[int, ...] = (2, 4)) -> list[int]:
    """Return by which numbers of ranks a model is another than by one."""
    targets = ["class", "pair", "other", "number", "count"]
    chosen = next((each.split("=")[1] for each in settings if each.startswith("data.target=")), "class")
    task = TARGETS.get(chosen, "regression")
    others = [name for name in (*targets, "weight") if name not in chosen and f"data.weights={name}" not in settings]
    pack = f"data.pack.folder={place / 'packs'}"
    loaded = load(config, [*ALWAYS, f"task={task}", f"data.drop=[{', '.join(others)}]", pack, *settings])
    train(loaded, place / "1", force=True)
    wanted = written(place / "1")
    found = []
    for size in sizes:
        done = by_threads(size, lambda ranks: train(loaded, place / "several", ranks=ranks, force=True))
        assert not [each for each in done if isinstance(each, BaseException)], done[0]
        found += [size] if written(place / "several") != wanted else []
    return found


def written(folder: Path) -> dict[str, bytes]:
    """Return the files of the model of a run."""
    return {path.name: path.read_bytes() for path in (folder / "model").iterdir()}
