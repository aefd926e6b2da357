"""Everything that only a machine with a GPU can show, in one go and within nine minutes: ``make gpu``.

    python benchmarks/gpu.py [--backend NAME] [--call 1|2] [--parts NAME ...] [--minutes N] [--results DIR] [--tiny]

    truth      products of ones on thousands of shapes, NaN through ReLU, the same bits each time
    agreement  every operation against the NumPy reference
    training   each shipped configuration and recipe (recipes.py), its losses beside those of the CPU
    facts      rates of copies and products, costs of launches and graphs, what cuBLASLt offers, what padding gains
    steps      a step of training as graphs, call by call and eagerly, of recipes too; the same bits each way
    auto       from which size on a step takes less time here than on the CPU
    members    steps of up to 264 small networks, a block each
    tests      pytest -m gpu
    kernels    the kernel benchmark
    sanitizer  NVIDIA's compute-sanitizer over every kernel, where it is installed
    peers      benchmarks/train.py on the device

Each part runs in a process of its own, for as long as its share of the time and what the parts before it have left
over. One that fails or is late is reported, with what it had found until then, and the next one runs. It needs this
checkout, NumPy and CuPy; what else is missing is said, and what needs it is left out. One JSON file and one readable
report, named by device and date, are written after each part, to benchmarks/results and, where that is set, to the
folder $OUT. What the part at work has found so far stands beside them, a fact a line (NAME.PART.jsonl).

With ``--backend native`` all that can runs on the CPU; with ``--tiny`` only little of each, to try this program.
The exit code is 0 where every part passed or was left out with a reason.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from reader import until_reader_leaves

HERE = Path(__file__).parent
ROOT = HERE.parent
SHARES = {
    "truth": 40,
    "agreement": 80,
    "training": 90,
    "facts": 45,
    "steps": 75,
    "auto": 20,
    "members": 35,
    "tests": 60,
    "kernels": 60,
    "sanitizer": 50,
    "peers": 40,
}
"""The parts in the order in which they run, and the seconds that each is estimated to need at the most."""
CALLS = {
    1: ("truth", "agreement", "training", "tests", "facts"),
    2: ("truth", "steps", "auto", "members", "kernels", "peers", "sanitizer"),
}
"""The parts of two short calls: what must be true, and what it costs. Between them somebody reads, and mends."""
SKIPPED = 4
"""The exit code of a part that cannot run here."""
MINUTES, CALL_MINUTES = 8.7, 5.7
"""Of nine, so that the report is written in time; and of one of two calls, of six."""
END_S = 5.0
"""Seconds that a part is waited for once it is killed: what hangs in a driver may not even die."""
ENDINGS = (".json", ".md")


@dataclass(frozen=True)
class Part:
    """A part: its name, its share of the time, its command but for the file that it keeps its findings in."""

    name: str
    share: float
    command: tuple[str, ...]


def parts(backend: str, names: Sequence[str], *, tiny: bool) -> list[Part]:
    """Return the parts as commands."""
    own = (sys.executable, str(HERE / "gpu.py"), "--backend", backend, *(("--tiny",) if tiny else ()))
    return [Part(name, SHARES.get(name, 1), (*own, "--part", name, "--keep")) for name in names]


Outcomes = dict[str, dict[str, Any]]


def run(
    chosen: Sequence[Part], seconds: float, keep: Callable[[Outcomes], object] = id, stem: Path | None = None
) -> Outcomes:
    """Run parts one after the other within so many seconds; return the outcome of each, and keep them after each.

    What a part finds is in a file beside ``stem`` until it is kept.
    """
    deadline = time.monotonic() + seconds
    outcomes: Outcomes = {}
    total = sum(part.share for part in chosen)
    with tempfile.TemporaryDirectory(prefix="gpumlp-") as folder:
        for number, part in enumerate(chosen):
            later = sum(other.share for other in chosen[number + 1 :]) / total * seconds
            place = stem or Path(folder) / "found"
            kept = place.with_name(f"{place.name}.{part.name}.jsonl")
            kept.unlink(missing_ok=True)  # of a run that was killed
            outcome = outcomes[part.name] = run_part(part, deadline - time.monotonic() - later, kept)
            said = outcome["said"][:80]
            print(f"{part.name:10} {outcome['status']:8} {outcome['seconds']:6.1f} s  {said}", flush=True)
            keep(outcomes)
            kept.unlink(missing_ok=True)
    return outcomes


def run_part(part: Part, seconds: float, kept: Path) -> dict[str, Any]:
    """Run one part for at most so many seconds, and everything that it starts; return its outcome."""
    started = time.monotonic()
    paths = [str(ROOT), str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    # JAX would otherwise take most of the memory of the device, and leave the others none.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    environment["PYTHONFAULTHANDLER"] = "1"  # a part that a library kills says where
    with tempfile.TemporaryDirectory(prefix="gpumlp-") as folder:
        log = Path(folder) / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*part.command, str(kept)],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
            try:
                code = process.wait(max(seconds, 1.0))
                status = {0: "passed", SKIPPED: "skipped"}.get(code, "failed")
                why = f"killed by signal {-code}" if code < 0 else ""
            except subprocess.TimeoutExpired:
                status, why = "late", f"stopped after {seconds:.0f} s"
            finally:
                stop(process)
        said = log.read_text(errors="replace").strip()
    found, unread = read(kept)
    if unread and status == "passed":
        status, why = "failed", f"{unread} lines of what it found cannot be read"
    return {
        "status": status,
        "seconds": round(time.monotonic() - started, 1),
        "said": why or (said.splitlines()[-1] if said and status != "passed" else ""),
        "log": said[-4000:] if status in ("failed", "late") else "",
        "found": found,
    }


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a part and what it has started: the group of processes that it leads."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(END_S)


class Findings:
    """What a part finds, fact by fact: a line [[name, place], fact] for each that is new, or another than before.

    Where a place is there no more, a line [[name], facts] stands for all of them.
    """

    def __init__(self, kept: Path | None) -> None:
        self._kept, self._known = kept, dict[str, dict[tuple[str | int, ...], str]]()

    def __call__(self, found: dict[str, Any]) -> None:
        new = []
        for name, fact in found.items():
            lines = {path: json.dumps([path, each], default=str) for path, each in facts_of(name, fact)}
            known = self._known.get(name, {})
            if known.keys() <= lines.keys():
                new += [line for path, line in lines.items() if known.get(path) != line]
            else:
                new.append(json.dumps([[name], fact], default=str))
            self._known[name] = lines
        if self._kept is not None and new:
            with self._kept.open("a", encoding="utf-8") as file:
                file.writelines(f"{line}\n" for line in new)


def facts_of(name: str, fact: Any) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Yield every fact with what leads to it: those in a mapping one by one by text, in a list by number."""
    if fact and isinstance(fact, dict):
        yield from (((name, str(place)), each) for place, each in fact.items())
    elif fact and isinstance(fact, list):
        yield from (((name, place), each) for place, each in enumerate(fact))
    else:
        yield (name,), fact


def read(kept: Path) -> tuple[dict[str, Any], int]:
    """Return what the lines of a file say, and how many of them say nothing."""
    found: dict[str, Any] = {}
    unread = 0
    for line in kept.read_text("utf-8", "replace").splitlines() if kept.exists() else ():
        try:
            (name, *inner), fact = json.loads(line)
            if not inner:
                found[name] = fact
            elif isinstance(inner[0], int):
                found.setdefault(name, [])[inner[0] : inner[0] + 1] = [fact]
            else:
                found.setdefault(name, {})[inner[0]] = fact
        except (ValueError, TypeError, AttributeError):
            unread += 1
    return found, unread


def do(name: str, backend: str, tiny: bool, kept: Path | None) -> int:
    """Run a part in this process; return its exit code."""
    import parts as doing

    keep = Findings(kept)
    try:
        found = getattr(doing, name)(doing.Task(backend, tiny, keep))
    except doing.NotHereError as reason:
        print(reason)
        return SKIPPED
    except Exception as error:
        traceback.print_exc()
        print(f"{type(error).__name__}: {error}".replace("\n", " "))
        return 1
    keep(found)
    for place, said in found.get("wrong", {}).items():
        print(f"{place}: {str(said)[-300:]}")
    return 1 if found.get("wrong") else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    backends = ("cupy", "native", "numpy")
    parser.add_argument("--backend", default="cupy", choices=backends, help="what computes (default: cupy)")
    parser.add_argument("--parts", nargs="+", choices=SHARES, help="these parts only")
    parser.add_argument("--call", type=int, choices=CALLS, help="1: what must be true; 2: what it costs")
    parser.add_argument(
        "--minutes", type=float, help=f"time for all of it (default: {MINUTES}, or {CALL_MINUTES} a call)"
    )
    parser.add_argument("--results", type=Path, default=HERE / "results", help="where the report goes")
    parser.add_argument("--tiny", action="store_true", help="little of each part, to try this program")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--keep", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.parts = options.parts or (CALLS[options.call] if options.call else list(SHARES))
    if options.part:
        sys.exit(do(options.part, options.backend, options.tiny, options.keep))
    minutes = options.minutes or (CALL_MINUTES if options.call else MINUTES)
    started = time.monotonic()
    (about,) = run(parts(options.backend, ["machine"], tiny=options.tiny), 60.0).values()
    if about["status"] != "passed":
        print(about["log"] or about["said"], file=sys.stderr)
        sys.exit(f"the backend {options.backend} cannot be had here: nothing to run")
    if missing := about["found"]["missing"]:
        print(f"not installed: {', '.join(missing)}")
    left = 60 * minutes - (time.monotonic() - started)
    stems = places(about["found"], options.results)

    def keep(outcomes: Outcomes) -> list[Path]:
        return write({"machine": about["found"], "parts": outcomes}, stems)

    outcomes = run(parts(options.backend, options.parts, tiny=options.tiny), left, keep, stems[-1])
    for place in keep(outcomes):
        print(place)
    sys.exit(any(outcome["status"] in ("failed", "late") for outcome in outcomes.values()))


def places(about: dict[str, Any], results: Path) -> list[Path]:
    """Return where the reports on a machine go, without their endings: beside any earlier one of the day."""
    device = re.sub(r"[^a-z0-9]+", "-", about["name"].lower()).strip("-")
    name = f"{about['backend']}-{device}-{datetime.now(UTC):%Y-%m-%d}"
    stems = []
    for folder in (results, *(Path(out) for out in (os.environ.get("OUT"),) if out)):
        folder.mkdir(parents=True, exist_ok=True)
        number, stem = 1, name
        while any((folder / (stem + ending)).exists() for ending in ENDINGS):
            number += 1
            stem = f"{name}-{number}"
        stems.append(folder / stem)
    return stems


def write(report: dict[str, Any], stems: Sequence[Path]) -> list[Path]:
    """Write the report as JSON and as text, over one with fewer parts; return the files."""
    texts = json.dumps(report, indent=1) + "\n", importlib.import_module("gpu_report").markdown(report)
    written = []
    for stem in stems:
        for ending, text in zip(ENDINGS, texts, strict=True):
            written.append(stem.with_name(stem.name + ending))
            written[-1].write_text(text, encoding="utf-8")
    return written


if __name__ == "__main__":
    until_reader_leaves(main)
