"""What ``make gpu`` found, as a text that a person can read: Markdown, a section for each part."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
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
        body = _body(SECTIONS[name], part["found"]) if part["found"] and name in SECTIONS else []
        if body or part["log"]:
            lines += ["", f"## {name}", "", *body]
        if part["log"]:
            lines += ["", "```", part["log"], "```"]
    return "\n".join(lines) + "\n"


def verdict(parts: Found) -> list[str]:
    """Return a table of the claims about GPUs, each with the figure that bears it out, or "not shown"."""
    rows = []
    for claim in CLAIMS:
        part = parts.get(claim.part)
        said = "not shown"
        if part and part["status"] != "skipped" and part["found"]:
            wrong = part["found"].get("wrong")
            if wrong:
                said = f"CONTRADICTED: {len(wrong)} wrong, as {next(iter(wrong))}"
            elif part["status"] == "passed":
                said = _body(lambda found, claim=claim: [claim.figure(found)], part["found"])[-1]
        rows.append((claim.text, claim.part, said))
    return table(("claim", "part", "verdict"), rows)


def _body(section: Callable[..., Iterable[str]], found: Found) -> list[str]:
    """Return the lines of a section, or why there are none: its part may have ended too early for it."""
    try:
        return list(section(found))
    except Exception as error:
        return [f"not shown: {type(error).__name__}: {error}"]


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


def auto(found: Found) -> Iterator[str]:
    yield from table(
        ("size", *next(iter(found["sizes"].values()))),
        ((size, *each.values()) for size, each in found["sizes"].items()),
    )


def members(found: Found) -> Iterator[str]:
    yield from table(
        ("networks", *next(iter(found["networks"].values()))),
        ((name, *each.values()) for name, each in found["networks"].items()),
    )


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
    "auto": auto,
    "members": members,
    "peers": peers,
    "sanitizer": sanitizer,
}

NOBODY = "by hand"
"""In place of a part: what takes a second device, another process or a device without memory."""


@dataclass(frozen=True)
class Claim:
    """What is said of GPUs, the part that can show it, the figure, and where it is said: file, how that begins."""

    text: str
    part: str
    figure: Callable[[Found], str]
    places: tuple[tuple[str, str], ...] = ()


CLAIMS = (
    Claim(
        "products are right, and the same each time",
        "truth",
        lambda found: f"shown: {sum(found['asked'].values())} products",
        (
            ("docs/gpu.md", "**Products.**"),
            ("docs/gpu.md", "Each of these is used wherever cuBLASLt"),
            ("docs/gpu.md", "| `GPUMLP_SPLIT_SUMS=1`"),
        ),
    ),
    Claim(
        "each kernel computes what the reference does",
        "agreement",
        lambda found: f"shown: {found['checked']} directions",
        (
            ("README.md", "**Where it stands:**"),
            ("docs/gpu.md", "**Nothing here has run on a GPU yet.**"),
            ("docs/gpu.md", "Numbers smaller than 1.2e-38"),
            ("docs/kernels.md", "**On a GPU, by CuPy.**"),
            ("docs/kernels.md", "**No kernel has run on a GPU yet.**"),
        ),
    ),
    Claim(
        "a run ends as on the CPU, to rounding",
        "training",
        lambda found: f"shown: {_apart(found)}",
        (("docs/features.md", "| On a GPU: the same kernels"),),
    ),
    Claim(
        "a graph computes the bits of the calls",
        "steps",
        lambda found: f"shown: {', '.join(found['workloads'])}",
        (
            ("docs/gpu.md", "**The graph.**"),
            ("docs/gpu.md", "**Many steps a launch.**"),
            ("docs/gpu.md", "| `GPUMLP_GRAPHS=0`"),
            ("docs/gpu.md", "| `GPUMLP_BRANCHES=0`"),
        ),
    ),
    Claim(
        "the host has nothing to do while steps run",
        "steps",
        lambda found: f"measured: {_host(found)}",
        (("docs/gpu.md", "The data, the parameters, the learning rates"),),
    ),
    Claim(
        "branches shorten a step",
        "steps",
        lambda found: f"measured: {_branched(found)}",
        (("docs/gpu.md", "**Branches.**"),),
    ),
    Claim(
        "a layer is one launch, where cuBLASLt takes its bias and ReLU along",
        "facts",
        lambda found: f"measured: {_offered(found)}",
        (("docs/gpu.md", "**What a product takes along.**"),),
    ),
    Claim(
        "padded copies of odd matrices make their products faster",
        "facts",
        lambda found: f"measured: {_padded(found)}",
        (("docs/gpu.md", "| `GPUMLP_PADDING=1`"),),
    ),
    Claim(
        "products run at 50 TFLOP/s in float32",
        "facts",
        lambda found: f"measured: {found.get('float32 product 8192 x 8192 x 8192', 'no such product')}",
        (
            ("docs/scale.md", "| 50 TFLOP/s: a GPU in float32"),
            ("docs/scale.md", "| 600 TFLOP/s: a GPU in bf16"),
            ("docs/scale.md", "Over slow networks an exchange after each step"),
        ),
    ),
    Claim(
        "auto takes the device where that is faster",
        "auto",
        lambda found: f"measured: {_chosen(found)}",
        (
            ("docs/gpu.md", "`gpumlp doctor` then shows"),
            ("docs/kernels.md", "`backend: auto` takes `cupy` where"),
        ),
    ),
    Claim(
        "small networks, a block each, take less time than in turn",
        "members",
        lambda found: _at_once(found),
        (
            ("docs/gpu.md", "**Several small networks: a block each.**"),
            ("docs/kernels.md", "Steps of several small networks can be one launch"),
        ),
    ),
    Claim(
        "the device's tests pass: repeated runs, streams, captures that fail",
        "tests",
        lambda found: f"shown: {found['summary']}",
        (
            ("docs/gpu.md", "**One stream.**"),
            ("docs/gpu.md", "On one kind of GPU, with the same driver"),
        ),
    ),
    Claim("no kernel reads or writes outside of its arrays", "sanitizer", lambda found: "shown"),
    Claim("a kernel moves its bytes at the speed of a copy", "kernels", lambda found: f"shown: {_of_copy(found)}"),
    Claim("an epoch is faster than in other libraries", "peers", lambda found: f"measured: {_faster(found)}"),
    Claim(
        "tf32 and bf16 cost no accuracy",
        NOBODY,
        str,
        (("docs/gpu.md", "What they cost in accuracy is measured on CPUs so far"),),
    ),
    Claim(
        "ranks exchange gradients from GPU to GPU, with the bytes of one rank",
        NOBODY,
        str,
        (
            ("docs/gpu.md", "| `GPUMLP_NCCL=0`"),
            ("docs/guarantees.md", "- on GPUs, behind stand-ins for CuPy and NCCL"),
            ("docs/scale.md", "`mpirun -n 4 gpumlp train CONFIG` trains one network"),
            ("docs/scale.md", "With `backend: cupy` (or `auto`, where there is a GPU)"),
            ("docs/scale.md", "**No device has run this yet**"),
        ),
    ),
    Claim(
        "a run without memory left ends in one message, and goes on later",
        NOBODY,
        str,
        (("docs/gpu.md", "`summary.json` says what a run took"),),
    ),
    Claim("two runs on one GPU disturb each other's time only", NOBODY, str, (("docs/gpu.md", "**Two runs on one"),)),
)


def _asked(found: Found) -> int:
    return sum(found["asked"].values())


def _host(found: Found) -> str:
    """Return how long the host is busy with a step, of all that it takes."""
    step, host = "many steps a launch, µs", "many steps a launch, µs of the host"
    timed = {work: each for work, each in found["workloads"].items() if step in each}
    return ", ".join(f"{work} {each[host]} of {each[step]} µs" for work, each in timed.items()) or "no step"


def _branched(found: Found) -> str:
    step, plain = "many steps a launch, µs", "many steps a launch, in one branch, µs"
    timed = {work: each for work, each in found["workloads"].items() if plain in each}
    return ", ".join(f"{work} {each[step]}, without {each[plain]} µs" for work, each in timed.items()) or "none"


def _offered(found: Found) -> str:
    asked = {name: each for name, each in found.items() if name.startswith("cuBLASLt") and isinstance(each, dict)}
    refused = [name for name, each in asked.items() if "no" in each.values()]
    return f"{len(asked) - len(refused)} of {len(asked)} kinds of products" + (
        f", not {refused[0]}" if refused else ""
    )


def _padded(found: Found) -> str:
    asked = {name: each for name, each in found.items() if name.startswith("padding") and isinstance(each, dict)}
    said = (
        f"{name.rpartition(' ')[2]} {size} {each}" for name, sizes in asked.items() for size, each in sizes.items()
    )
    return "; ".join(said) or "no product"


def _chosen(found: Found) -> str:
    wrong = [size for size, each in found["sizes"].items() if each["auto takes"] != each["faster is"]]
    right = f"right for {len(found['sizes']) - len(wrong)} of {len(found['sizes'])} sizes"
    return f"{right}, wrong for {', '.join(wrong)}" if wrong else right


def _at_once(found: Found) -> str:
    several = {name: each for name, each in found["networks"].items() if not name.endswith(", 1 at once")}
    if in_turn := [name for name, each in several.items() if not each["a block each"]]:
        return f"not shown: trained in turn: {', '.join(in_turn)}"
    alone = {name: found["networks"][f"{name.rpartition(', ')[0]}, 1 at once"] for name in several}
    one = "µs a step of one"
    ratios = {name: alone[name][one] / each[one] for name, each in several.items()}
    said = ", ".join(f"{name} {ratio:.1f} times as fast" for name, ratio in ratios.items())
    return f"measured: {said}" if said else "not shown: no more than one"


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
