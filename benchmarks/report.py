"""What ``make gpu`` found, as a text that a person can read: Markdown, a section for each part."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

Found = dict[str, Any]
ABOUT = ("date", "device", "processor", "cores", "python", "gpumlp", "numpy", "torch", "jax", "driver", "runtime")


def markdown(report: Found) -> str:
    """Return the whole report."""
    about, parts = report["machine"], report["parts"]
    lines = [f"# gpumlp on {about['name']}", "", f"Backend {about['backend']}.", ""]
    lines += [f"- {name}: {about[name]}" for name in about if name in ABOUT or name.startswith("cupy")]
    lines += [f"- not installed: {', '.join(about['missing']) or 'nothing that is needed'}", ""]
    lines += table(
        ("part", "status", "seconds", "said"),
        ((name, part["status"], part["seconds"], part["said"][:120]) for name, part in parts.items()),
    )
    for name, part in parts.items():
        body = list(SECTIONS[name](part["found"])) if part["found"] and name in SECTIONS else []
        if body or part["log"]:
            lines += ["", f"## {name}", "", *body]
        if part["log"]:
            lines += ["", "```", part["log"], "```"]
    return "\n".join(lines) + "\n"


def table(head: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> list[str]:
    """Return the lines of a table."""
    cells = [head, ("---",) * len(head), *rows]
    return ["| " + " | ".join(str(cell).replace("|", "/").replace("\n", " ") for cell in row) + " |" for row in cells]


def agreement(found: Found) -> Iterator[str]:
    yield f"{found['checked']} directions were compared, {len(found['wrong'])} differ."
    for entry, said in found["wrong"].items():
        yield f"- {entry}: {said}"


def tests(found: Found) -> Iterator[str]:
    yield found["summary"]


def kernels(found: Found) -> Iterator[str]:
    yield f"Cold, at the largest size; goals: {found['goals']}."
    yield ""
    rows = []
    for name, group in groupby(found["kernels"], key=lambda row: row["kernel"]):
        own = list(group)
        cold = own[-1]["cold"]
        share = "–" if cold["share_of_copy"] is None else f"{cold['share_of_copy']:.0%}"
        gains = (span([row[key] for row in own]) for key in ("gain_over_formula", "gain_over_torch"))
        missed = ", ".join(said for row in own for said in row["missed"])
        rows.append((name, own[-1]["size"], f"{cold['bandwidth'] / 1e9:.1f}", share, *gains, missed))
    yield from table(("kernel", "bytes", "GB/s", "of copy", "x formula", "x torch", "misses"), rows)
    if len(rows) < found["wanted"]:
        yield ""
        yield f"{found['wanted'] - len(rows)} kernels were not reached in time."


def training(found: Found) -> Iterator[str]:
    yield f"The last loss here and on {found['judge']}, and how far those of an epoch are apart at most."
    yield ""
    rows = []
    for name, ran in found["runs"].items():
        if "skipped" in ran:
            rows.append((name, "–", "–", "–", ran["skipped"]))
        else:
            here, there = ran["seconds"]
            last = f"{ran['losses'][-1]:.6f}", f"{ran['judge'][-1]:.6f}"
            rows.append((name, *last, f"{ran['apart']:.1e}", f"{here:.1f} and {there:.1f}"))
    yield from table(("configuration", "loss", found["judge"], "apart", "seconds"), rows)


def peers(found: Found) -> Iterator[str]:
    yield "Seconds an epoch, and as a multiple of gpumlp's: above 1 gpumlp is faster."
    yield ""
    names = list(dict.fromkeys(name for times in found["seconds"].values() for name in times))
    rows = []
    for work, times in found["seconds"].items():
        medians = {name: statistics.median(taken) for name, taken in times.items()}
        own = medians["gpumlp"]
        rows.append((work, *(f"{medians[n]:.4f} ({medians[n] / own:.2f})" if n in medians else "–" for n in names)))
    yield from table(("", *names), rows)


def facts(found: Found) -> Iterator[str]:
    rows = []
    for name, value in found.items():
        told = ", ".join(f"{key} {each}" for key, each in value.items()) if isinstance(value, dict) else value
        rows.append((name, told))
    yield from table(("fact", "value"), rows)


def steps(found: Found) -> Iterator[str]:
    for work, value in found["workloads"].items():
        yield from ("", f"### {work}", "", *table(("", ""), value.items()))


def sanitizer(found: Found) -> Iterator[str]:
    yield from table(("tool", "found"), ((tool, said[-200:]) for tool, said in found.items() if tool != "wrong"))


def span(values: list[float | None]) -> str:
    """Return the smallest and the largest of the numbers that are there."""
    there = [value for value in values if value is not None]
    return f"{min(there):.1f}–{max(there):.1f}" if there else "–"


SECTIONS = {
    "agreement": agreement,
    "tests": tests,
    "kernels": kernels,
    "training": training,
    "facts": facts,
    "steps": steps,
    "peers": peers,
    "sanitizer": sanitizer,
}
