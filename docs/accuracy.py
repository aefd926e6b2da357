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
    "plain_numbers": "with `numbers: ple`, as `init` writes",
    "tabular": "`preset: tabular`",
    "tabular_accuracy": "`tabular`, `metric: accuracy`",
    "tabular_8": "`tabular`, `members: 8`",
    "tabular_8_accuracy": "`tabular`, `members: 8`, `metric: accuracy`",
    "strong": "`preset: strong`",
    "strong_accuracy": "`strong`, `metric: accuracy`",
    "best": "`preset: best`",
}
"""Variants of the comparison of presets, with the titles of their columns."""
ON_TEST_ROWS = "accuracy-test-cpu"
PEERS = ("scikit-learn's MLP, early stopping", "CatBoost", "RealMLP in PyTorch")
OF_PEERS = {
    "adult": ("0.8554 / 0.309", "0.8721 / 0.277", "0.8601 / 0.305"),
    "california": ("0.5483", "0.4373", "0.4704"),
    "churn": ("0.8550 / 0.355", "0.8615 / 0.336", "0.8590 / 0.341"),
    "covtype.20k": ("0.7943 / 0.491", "0.8682 / 0.337", "0.8952 / 0.316"),
    "diamonds_log": ("0.100", "0.0855", "0.0863"),
    "connect4": ("0.8374 / 0.409", "", "0.855 / 0.378"),
}
"""Figures of others on the same test rows, by set: one fit of each with its defaults."""
GOALS = {
    "tabular": {
        "adult": "0.860 / 0.305",
        "california": "0.473",
        "churn": "0.859 / 0.339",
        "covtype.20k": "0.893 / 0.316",
        "diamonds_log": "0.0867",
        "connect4": "0.855 / 0.378",
        # Monte Carlo dropout on these splits (Gal 2018)
        "concrete": "4.83",
        "energy": "0.54",
        "kin8nm": "0.079",
        "power-plant": "4.01",
        "protein": "4.27",
        "wine-red": "0.62",
        "yacht": "0.67",
    },
    "tabular_8": {
        "adult": "0.863 / 0.298",
        "california": "0.455",
        "churn": "0.861 / 0.338",
        "covtype.20k": "0.905 / 0.27",
        "diamonds_log": "0.0841",
        "connect4": "0.862 / 0.362",
    },
    "strong": {
        "adult": "0.869 / 0.282",
        "california": "0.435",
        "churn": "0.862 / 0.336",
        "covtype.20k": "0.90 / 0.28",
        "diamonds_log": "0.085",
        "connect4": "0.862 / 0.362",
    },
}
"""What a preset is to reach, set before it was measured, by set."""
PIECES = {
    "pieces-inner-cpu": (
        "What each piece of `preset: tabular` is worth",
        "changes one setting of `{}`, which\nleaves a piece out or puts another in its place,",
    ),
    "settings-inner-cpu": ("What other settings are worth", "changes one setting of the defaults, or two,"),
}
"""Names of results of settings changed one by one, each with the title of its section, and what a line does."""
BESIDE = {
    "preset": "the preset",
    "here": "with waves alone, as RealMLP",
    "pytorch": "RealMLP in PyTorch",
    "pytabkit": "in its authors' package, pytabkit",
}
BESIDE_REALMLP = ("realmlp-cpu-2026-11-30-5.json", "realmlp-cpu-amd-2026-12-01.json")
EPOCHS_OF_REALMLP = 256

SECTIONS = {
    "embeddings-inner-cpu": (
        "Embeddings of numbers",
        "`model.numbers: ple` (bins) and `both` (bins and waves) beside the defaults, which feed each number to the\n"
        "first layer as it is. `gpumlp init` writes `ple` where there are 50 rows or more for each column of\n"
        "numbers: on the four sets with fewer it is worse. A quarter of the training rows is kept out and\n"
        "measured on (`--inner`), so that no choice has seen the test rows of these sets. `loss` is the geometric\n"
        "mean of the loss over that of the first column, log-loss or squared error; `time` the same of the CPU\n"
        "seconds of training.",
    ),
    "batches-inner-cpu": (
        "Smaller batches on few rows",
        "`preset: tabular` has batches of 256 rows on tables of any size, other recipes smaller ones where\n"
        "there are few rows. Measured as above, when it kept one epoch and had waves alone, they lose on one\n"
        "of these sets and win on none for certain.",
    ),
    "epochs-inner-cpu": (
        "The mean of several epochs",
        "`preset: tabular` with waves alone: first with the weights of the best epoch, then with weights averaged\n"
        "over about 20 steps (`optimizer.averaging: 0.95`), then with the mean of up to eight such epochs\n"
        "(`training.snapshots: 8`). Measured as above.",
    ),
    "numbers-inner-cpu": (
        "Waves and bins",
        "`preset: tabular` with `model.numbers: pbld`, as RealMLP has it, and `both`, which it has here: bins\n"
        "beside the waves. Measured as above.",
    ),
    "factors-inner-cpu": (
        "Factors of inputs",
        "`model.numbers: ple`, as `gpumlp init` writes, and `model.input_factors: true` with it: a trained factor\n"
        "for each input. It is worth a try; it is not the default, since it loses on wine-red, with each seed.\n"
        "Measured as above.",
    ),
}
"""Names of results, each with the title of its section and a sentence on it."""

Runs = Mapping[str, Mapping[str, Any]]


def text() -> str:
    """Return the page."""
    on_test_rows = _read(ON_TEST_ROWS)
    times = [json.loads((RESULTS / name).read_text(encoding="utf-8")) for name in BESIDE_REALMLP]
    parts = [[HEAD.rstrip()], _presets(on_test_rows), _goals(on_test_rows), _times(on_test_rows, times)]
    parts += [[f"## {title}\n", f"{meaning}\n", *_table(_read(name))] for name, (title, meaning) in SECTIONS.items()]
    parts += [_pieces(_read(name), *about) for name, about in PIECES.items()]
    return "\n".join("\n".join(lines) + "\n" for lines in parts)


def _read(name: str) -> dict[str, Any]:
    """Return what the files of results of a name, NAME-DATE.json, hold together; of fits of one seed the latest."""
    merged: dict[str, Any] = {"variants": {}, "sets": {}}
    for path in sorted(RESULTS.glob(f"{name}-20*.json"), key=lambda path: path.stem):
        found = json.loads(path.read_text(encoding="utf-8"))
        for variant, settings in found["variants"].items():
            if merged["variants"].setdefault(variant, settings) != settings:
                raise SystemExit(f"{path}: the variant {variant} has other settings than in files before")
        for each, variants in found["sets"].items():
            for variant, runs in variants.items():
                of_processor = {seed: {**run, "processor": found["processor"]} for seed, run in runs.items()}
                merged["sets"].setdefault(each, {}).setdefault(variant, {}).update(of_processor)
        merged |= {"cores": found["cores"], "processor": found["processor"]}
    return merged


def _times(found: Mapping[str, Any], measured: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the lines of the section on the time of a fit beside that of the authors' own package."""
    times = [{name: median(cpu for _, cpu in each["seconds"][name]) for name in BESIDE} for each in measured]
    processors = [each["machine"]["processor"] for each in measured]
    yield "## Time beside RealMLP\n"
    yield f"CPU time of a step of `preset: tabular` on {measured[0]['numbers']} numbers, medians of the same rounds"
    yield "in one thread (`benchmarks/realmlp.py`), ms:\n"
    yield f"| processor | {' | '.join(BESIDE.values())} |"
    yield "|---" * (1 + len(BESIDE)) + "|"
    for processor, each in zip(processors, times, strict=True):
        yield f"| {processor} | {' | '.join(f'{1e3 * time:.1f}' for time in each.values())} |"
    yield f"\nThe package trains for {EPOCHS_OF_REALMLP} epochs, the preset for fewer where there are many rows. The"
    yield "share of the package's time that a fit takes here, from these steps and the epochs of the fits above:\n"
    yield f"| set | training rows | epochs | {' | '.join(processors)} |"
    yield "|---" * (3 + len(processors)) + "|"
    for name, variants in found["sets"].items():
        if (runs := variants.get("tabular")) is None:
            continue
        rows, epochs = fmean(run["rows"]["train"] for run in runs.values()), _mean(runs, "epochs")
        shares = [epochs / EPOCHS_OF_REALMLP * each["preset"] / each["pytabkit"] for each in times]
        yield f"| {name} | {rows:,.0f} | {epochs:.0f} | {' | '.join(f'{share:.3f}' for share in shares)} |"


def _pieces(found: Mapping[str, Any], title: str, line: str) -> Iterator[str]:
    """Yield the lines of a section on settings that are changed one by one."""
    first, *others = found["variants"]
    sets = {name: variants for name, variants in found["sets"].items() if first in variants}
    yield f"## {title}\n"
    yield f"Each line {line.format(' '.join(found['variants'][first]))}"
    yield "and has by how many % the loss is higher then: log-loss or squared error, geometric mean over seeds, on a"
    yield "quarter of the training rows kept out. Below 0 it is better so; of one seed, differences of a few % show"
    yield "nothing. `mean` is over the sets of the line, and `time` the ratio of CPU times there.\n"
    yield "| changed | " + " | ".join([*sets, "mean", "time"]) + " |"
    yield "|---" * (3 + len(sets)) + "|"
    for name in others:
        ratios = {
            each: _ratios(variants[name], variants[first]) for each, variants in sets.items() if name in variants
        }
        if not ratios:
            continue
        changed = [each for each in found["variants"][name] if each not in found["variants"][first]]
        loss, time = (_geometric(each) for each in zip(*ratios.values(), strict=True))
        cells = [_percent(ratios[each][0]) if each in ratios else "" for each in sets]
        yield f"| `{' '.join(changed)}` | {' | '.join(cells)} | {_percent(loss)} | {time:.1f} |"
    seeds = [len(runs) for variants in sets.values() for runs in variants.values()]
    yield f"\nSeeds of each figure: at least {min(seeds)}."


def _percent(ratio: float) -> str:
    return f"{100 * (ratio - 1):+z.1f}"


def _goals(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of the section on what presets are to reach, beside what others reach."""
    yield "## Presets beside other methods\n"
    yield "On the same test rows, other methods with one fit each of their defaults. Of presets accuracy is that of"
    yield "fits by `metric: accuracy`, where there are any, and log-loss of those by log-loss. In brackets is what a"
    yield "preset was to reach, set before it was measured: from concrete on what Monte Carlo dropout reached there"
    yield "(Gal 2018). Bold reaches it. So many test rows alone leave a standard error of accuracy:"
    yield f"{_uncertainties(found)}.\n"
    yield "| set | " + " | ".join([*PEERS, *(PRESETS[name] for name in GOALS)]) + " |"
    yield "|---" * (1 + len(PEERS) + len(GOALS)) + "|"
    for name, variants in found["sets"].items():
        others = OF_PEERS.get(name, ("",) * len(PEERS))
        ours = [_reached(variants, preset, goals[name]) if name in goals else "" for preset, goals in GOALS.items()]
        yield f"| {name} | {' | '.join([*others, *ours])} |"


def _uncertainties(found: Mapping[str, Any]) -> str:
    """Return the standard error of the accuracy on the test rows of each set, as a binomial share of them."""
    texts = []
    for name, variants in found["sets"].items():
        run = next(iter(variants["tabular"].values()))
        if (accuracy := run["metrics"]["test"].get("accuracy")) is not None:
            error = math.sqrt(accuracy * (1 - accuracy) / run["rows"]["test"])
            texts.append(f"{name} {error:.4f} ({run['rows']['test']:,} rows)")
    return ", ".join(texts)


def _reached(variants: Mapping[str, Runs], preset: str, goal: str) -> str:
    """Return the figures of a preset, those in bold that reach its goal, and this."""
    if preset not in variants:
        return f"({goal})"
    runs = variants[preset]
    found = list(zip(_values(runs), _figures(runs).split(" / "), strict=True))
    if len(found) > 1 and (counted := variants.get(f"{preset}_accuracy")):
        found[0] = _values(counted)[0], _figures(counted).split(" / ")[0]
    signs = (-1, 1) if len(found) > 1 else (1,)
    texts = [
        f"**{text}**" if sign * value <= sign * float(least) else text
        for (value, text), sign, least in zip(found, signs, goal.split(" / "), strict=True)
    ]
    return f"{' / '.join(texts)} ({goal})"


def _presets(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of the section on presets: what each reaches on the test rows, and what a fit takes."""
    columns = [name for name in PRESETS if any(name in variants for variants in found["sets"].values())]
    yield "## Presets on test rows\n"
    yield "The test rows are those that come with a set, or a fifth of it; no setting was chosen by them. 15 % of the"
    yield "training rows choose the epochs, by log-loss, or by accuracy. In brackets the number"
    yield "of seeds where it is not three; from concrete on a seed is one of the splits that come with the set.\n"
    yield from _columns(found, columns, lambda runs: f"{_figures(runs)}{f' ({len(runs)})' * (len(runs) != SEEDS)}")
    yield f"\nCPU seconds of a fit in one thread, and its steps, on a processor named {found['processor']} whose"
    yield "other core was busy; with an asterisk on another, about half as fast:\n"
    yield from _columns(found, columns, lambda runs: _time(runs, found["processor"]))


SEEDS = 3


def _time(runs: Runs, processor: str) -> str:
    """Return the mean time of the fits on a processor, or of all with an asterisk, and their steps."""
    on_it = {seed: run for seed, run in runs.items() if run["processor"] == processor}
    time, steps = _mean(on_it or runs, "cpu_seconds"), _mean(on_it or runs, "steps")
    return f"{_seconds(time)}{'*' * (not on_it)}, {steps:,.0f}"


def _columns(found: Mapping[str, Any], columns: Sequence[str], cell: Callable[[Runs], str]) -> Iterator[str]:
    yield "| set | " + " | ".join(PRESETS[name] for name in columns) + " |"
    yield "|---" * (1 + len(columns)) + "|"
    for name, variants in found["sets"].items():
        cells = (cell(variants[each]) if each in variants else "" for each in columns)
        yield f"| {name} | {' | '.join(cells)} |"


def _seconds(time: float) -> str:
    return f"{time:,.0f} s" if time >= 100 else f"{time:.3g} s"


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
    values = _values(runs)
    return f"{values[0]:.4g}" if len(values) == 1 else f"{values[0]:.4f} / {values[1]:.3f}"


def _values(runs: Runs) -> tuple[float, ...]:
    """Return mean accuracy and log-loss, or the mean root of the squared error."""
    tests = [run["metrics"]["test"] for run in runs.values()]
    if "accuracy" not in tests[0]:
        return (fmean(each["rmse"] for each in tests),)
    return fmean(each["accuracy"] for each in tests), fmean(_loss(each) for each in runs.values())


def _loss(run: Mapping[str, Any]) -> float:
    test = run["metrics"]["test"]
    return float(test["log_loss"] if "accuracy" in test else test["rmse"] ** 2)


def _ratios(runs: Runs, first: Runs) -> tuple[float, float]:
    """Return loss and time of some runs over those of others, by seed."""
    pairs = [(runs[seed], first[seed]) for seed in sorted(runs.keys() & first.keys())]
    seconds = [one["cpu_seconds"] / other["cpu_seconds"] for one, other in pairs]
    return _geometric(_loss(one) / _loss(other) for one, other in pairs), _geometric(seconds)


def _geometric(values: Any) -> float:
    return math.exp(fmean(map(math.log, values)))


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
