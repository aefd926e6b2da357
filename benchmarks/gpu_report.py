"""What ``make gpu`` found, as a text that a person can read: Markdown, a section for each part."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator
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
    lines += [
        "",
        "## verdict",
        "",
        "What README and docs say of GPUs, and what bears it out here.",
        "",
        *verdict(parts),
    ]
    for name, part in parts.items():
        body = list(SECTIONS[name](part["found"])) if part["found"] and name in SECTIONS else []
        if body or part["log"]:
            lines += ["", f"## {name}", "", *body]
        if part["log"]:
            lines += ["", "```", part["log"], "```"]
    return "\n".join(lines) + "\n"


def verdict(parts: Found) -> list[str]:
    """Return a table of the claims about GPUs, each with the figure that bears it out, or "not shown"."""
    rows = []
    for claim, name, figure in CLAIMS:
        part = parts.get(name)
        said = "not shown"
        if part and part["status"] != "skipped" and part["found"]:
            wrong = part["found"].get("wrong")
            if wrong:
                said = f"CONTRADICTED: {len(wrong)} wrong, as {next(iter(wrong))}"
            elif part["status"] == "passed":
                said = figure(part["found"])
        rows.append((claim, name, said))
    return table(("claim", "part", "verdict"), rows)


def table(head: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> list[str]:
    """Return the lines of a table."""
    cells = [head, ("---",) * len(head), *rows]
    return ["| " + " | ".join(str(cell).replace("|", "/").replace("\n", " ") for cell in row) + " |" for row in cells]


def truth(found: Found) -> Iterator[str]:
    yield f"{_asked(found)} products were asked, {len(found['wrong'])} answers are wrong."
    for shape, said in [*found["wrong"].items()][:40]:
        yield f"- {shape}: {said}"


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
    "truth": truth,
    "agreement": agreement,
    "tests": tests,
    "kernels": kernels,
    "training": training,
    "facts": facts,
    "steps": steps,
    "peers": peers,
    "sanitizer": sanitizer,
}

CLAIMS: tuple[tuple[str, str, Callable[[Found], str]], ...] = (
    (
        "products are right, and the same each time",
        "truth",
        lambda found: f"shown: {sum(found['asked'].values())} products",
    ),
    (
        "each kernel computes what the reference does",
        "agreement",
        lambda found: f"shown: {found['checked']} directions",
    ),
    ("a run ends as on the CPU, to rounding", "training", lambda found: f"shown: {_apart(found)}"),
    ("a graph computes the bits of the calls", "steps", lambda found: f"shown: {', '.join(found['workloads'])}"),
    ("the device's tests pass", "tests", lambda found: f"shown: {found['summary']}"),
    ("no kernel reads or writes outside of its arrays", "sanitizer", lambda found: "shown"),
    ("a kernel moves its bytes at the speed of a copy", "kernels", lambda found: f"shown: {_of_copy(found)}"),
    ("an epoch is faster than in other libraries", "peers", lambda found: f"measured: {_faster(found)}"),
)
"""What is said of GPUs, the part that can show it, and the figure."""


def _asked(found: Found) -> int:
    return sum(found["asked"].values())


def _apart(found: Found) -> str:
    apart = [ran["apart"] for ran in found["runs"].values() if "apart" in ran]
    return f"{len(apart)} configurations, at most {max(apart):.0e} apart" if apart else "none"


def _of_copy(found: Found) -> str:
    shares = [row["cold"]["share_of_copy"] for row in found["kernels"]]
    known = [share for share in shares if share is not None]
    return f"median {statistics.median(known):.0%}, least {min(known):.0%}" if known else "no copy to compare with"


def _faster(found: Found) -> str:
    ratios = {}
    for work, seconds in found["seconds"].items():
        taken = {name: statistics.median(each) for name, each in seconds.items() if each}
        if (ours := taken.pop("gpumlp", None)) and taken:
            ratios[work] = min(taken.values()) / ours
    return ", ".join(f"{work} {ratio:.2f} times the next" for work, ratio in ratios.items()) or "no other library"
