"""Write accuracy.md: what settings gain on real data, from the results that are kept: python docs/accuracy.py"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

PAGE = Path(__file__).with_suffix(".md")
RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"

HEAD = """\
# Accuracy

What settings gain on real data, measured by `benchmarks/accuracy.py`. Each figure is a mean over seeds: accuracy and
log-loss (after the temperature that is fitted on validation rows), or the root of the mean squared error. Generated
from the results that are kept, by `python docs/accuracy.py`.
"""

PRESETS = {
    "plain": "`preset: plain`, the defaults",
    "tabular": "`preset: tabular`",
    "tabular_accuracy": "`tabular`, `metric: accuracy`",
    "tabular_8": "`tabular`, `members: 8`",
    "strong": "`preset: strong`",
}
"""Variants of the comparison of presets, with the titles of their columns."""
ON_TEST_ROWS, PIECES = "accuracy-test-cpu-2026-11-30.json", "pieces-inner-cpu-2026-11-30.json"
BESIDE = {"here": "here", "pytorch": "for it in PyTorch", "pytabkit": "in the authors' package, pytabkit"}
BESIDE_REALMLP, EPOCHS_OF_REALMLP = "realmlp-cpu-2026-11-30-3.json", 256

SECTIONS = {
    "embeddings-inner-cpu-2026-11-30.json": (
        "Embeddings of numbers",
        "`model.numbers: pbld` and `ple` beside the defaults, which feed each number to the first layer as it is.\n"
        "A quarter of the training rows is kept out and measured on (`--inner`), so that no choice has seen\n"
        "the test rows of these sets. `loss` is the geometric mean of the loss over that of the first column,\n"
        "log-loss or squared error; `time` the same of the CPU seconds of training.",
    ),
    "batches-inner-cpu-2026-11-30.json": (
        "Smaller batches on few rows",
        "`preset: tabular` has batches of 256 rows on tables of any size, other recipes smaller ones where\n"
        "there are few rows. Measured as above, they lose on one of these sets and win on none for certain.",
    ),
    "averaging-inner-cpu-2026-11-30.json": (
        "Averaged weights on few rows",
        "`preset: tabular` keeps the weights of the best epoch; `optimizer.averaging: 0.95` their mean over about\n"
        "20 steps. That is 7 to 20 epochs here, better where targets are noisy, worse where they are not.",
    ),
}
"""Files of results, each with the title of its section and a sentence on it."""

Runs = Mapping[str, Mapping[str, Any]]


def text() -> str:
    """Return the page."""
    on_test_rows = _read(ON_TEST_ROWS)
    parts = [[HEAD.rstrip()], _presets(on_test_rows), _times(on_test_rows, _read(BESIDE_REALMLP))]
    parts += [[f"## {title}\n", f"{meaning}\n", *_table(_read(file))] for file, (title, meaning) in SECTIONS.items()]
    parts.append(_pieces(_read(PIECES)))
    return "\n".join("\n".join(lines) + "\n" for lines in parts)


def _read(file: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / file).read_text(encoding="utf-8"))
    return found


def _times(found: Mapping[str, Any], beside: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of the section on the time of a fit beside that of the authors' own package."""
    times = {name: median(cpu for _, cpu in beside["seconds"][name]) for name in BESIDE}
    steps = ", ".join(f"{1e3 * time:.1f} ms {BESIDE[name]}" for name, time in times.items())
    yield "## Time beside RealMLP\n"
    yield f"CPU time of a step of `preset: tabular` on {beside['numbers']} numbers:"
    yield f"{steps}."
    yield "These are medians of the same rounds in one thread of a busy machine (`benchmarks/realmlp.py`). The"
    yield f"package trains for {EPOCHS_OF_REALMLP} epochs, the preset for fewer where there are many rows. The share"
    yield "of the package's time that a fit takes here, from these steps and the epochs of the fits above:\n"
    yield "| set | training rows | epochs | share |"
    yield "|---|---|---|---|"
    for name, variants in found["sets"].items():
        runs = variants["tabular"]
        rows, epochs = fmean(run["rows"]["train"] for run in runs.values()), _mean(runs, "epochs")
        share = epochs / EPOCHS_OF_REALMLP * times["here"] / times["pytabkit"]
        yield f"| {name} | {rows:,.0f} | {epochs:.0f} | {share:.3f} |"


def _pieces(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of the section on the pieces of a recipe, each left out of it alone."""
    first, *others = found["variants"]
    yield "## What each piece of `preset: tabular` is worth\n"
    yield f"Each line changes one setting of `{' '.join(found['variants'][first])}`, which leaves a piece out or puts"
    yield "another in its place, and has by how many % the loss is higher then: log-loss or squared error, geometric"
    yield "mean over seeds, on a quarter of the training rows kept out. Below 0 the recipe is better without it; of"
    yield "one seed, differences of a few % show nothing.\n"
    yield "| changed | " + " | ".join(found["sets"]) + " |"
    yield "|---" * (1 + len(found["sets"])) + "|"
    for name in others:
        if not any(name in variants for variants in found["sets"].values()):
            continue
        changed = [each for each in found["variants"][name] if each not in found["variants"][first]]
        cells = [f"`{' '.join(changed)}`"]
        for variants in found["sets"].values():
            common = sorted(variants.get(name, {}).keys() & variants[first].keys())
            each = [_loss(variants[name][seed]) / _loss(variants[first][seed]) for seed in common]
            cells.append(f"{100 * (_geometric(each) - 1):+.1f}" if each else "")
        yield f"| {' | '.join(cells)} |"
    seeds = [len(runs) for variants in found["sets"].values() for runs in variants.values()]
    yield f"\nSeeds of each figure: at least {min(seeds)}."


def _presets(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of the section on presets: what each reaches on the test rows, and what a fit takes."""
    columns = [name for name in PRESETS if any(name in variants for variants in found["sets"].values())]
    yield "## Presets on test rows\n"
    yield "The test rows are those that come with a set, or a fifth of it; no setting was chosen by them. 15 % of the"
    yield "training rows choose the epoch, by log-loss or, with smoothed labels, by accuracy. In brackets the number"
    yield "of seeds where it is not three; from concrete on a seed is one of the splits that come with the set.\n"
    yield from _columns(found, columns, lambda runs: f"{_figures(runs)}{f' ({len(runs)})' * (len(runs) != SEEDS)}")
    yield "\nCPU seconds of a fit, in one thread of a busy machine, and its steps:\n"
    yield from _columns(
        found,
        columns,
        lambda runs: f"{_mean(runs, 'cpu_seconds'):.3g} s, {_mean(runs, 'steps'):,.0f}",
    )


SEEDS = 3


def _columns(found: Mapping[str, Any], columns: Sequence[str], cell: Callable[[Runs], str]) -> Iterator[str]:
    yield "| set | " + " | ".join(PRESETS[name] for name in columns) + " |"
    yield "|---" * (1 + len(columns)) + "|"
    for name, variants in found["sets"].items():
        cells = (cell(variants[each]) if each in variants else "" for each in columns)
        yield f"| {name} | {' | '.join(cells)} |"


def _mean(runs: Runs, key: str) -> float:
    return fmean(run[key] for run in runs.values())


def _table(found: Mapping[str, Any]) -> Iterator[str]:
    first, *others = found["variants"]
    yield f"| set | {first} | " + " | ".join(f"{name} | loss | time" for name in others) + " |"
    yield "|---|---|" + "---|---|---|" * len(others)
    ratios: dict[str, list[tuple[float, float]]] = {name: [] for name in others}
    for name, variants in found["sets"].items():
        cells = [name, _figures(variants[first])]
        for other in others:
            ratios[other].append(_ratios(variants[other], variants[first]))
            cells += [_figures(variants[other]), *(f"{each:.2f}" for each in ratios[other][-1])]
        yield f"| {' | '.join(cells)} |"
    cells = ["mean", ""]
    for other in others:
        cells += ["", *(f"{_geometric(each):.2f}" for each in zip(*ratios[other], strict=True))]
    yield f"| {' | '.join(cells)} |"
    seeds = min(len(runs) for variants in found["sets"].values() for runs in variants.values())
    yield f"\n{seeds} seeds, {found['cores']} cores."


def _figures(runs: Runs) -> str:
    tests = [run["metrics"]["test"] for run in runs.values()]
    if "accuracy" in tests[0]:
        return f"{fmean(each['accuracy'] for each in tests):.4f} / {fmean(_loss(each) for each in runs.values()):.3f}"
    return f"{fmean(each['rmse'] for each in tests):.4g}"


def _loss(run: Mapping[str, Any]) -> float:
    test = run["metrics"]["test"]
    return float(test["log_loss"] if "accuracy" in test else test["rmse"] ** 2)


def _ratios(runs: Runs, first: Runs) -> tuple[float, float]:
    """Return loss and time of some runs over those of others, by seed."""
    pairs = [(runs[seed], first[seed]) for seed in runs]
    seconds = [one["cpu_seconds"] / other["cpu_seconds"] for one, other in pairs]
    return _geometric(_loss(one) / _loss(other) for one, other in pairs), _geometric(seconds)


def _geometric(values: Any) -> float:
    return math.exp(fmean(map(math.log, values)))


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
