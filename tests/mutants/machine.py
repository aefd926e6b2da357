"""Plant a bug in a copy of the project, run the tests that should see it, and put the text back."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).with_name("results.json")
COPIED = ("gpumlp", "kernels", "tests", "pyproject.toml")
LIMIT_S = 180
"""A mutant that takes longer counts as caught: its tests hang."""

CAUGHT, SURVIVED, EQUIVALENT = "caught", "survived", "equivalent"
BROKEN_TEXT = re.compile(r"does not compile|\.(cu|cuh|h|cpp):\d+:\d+: error:|SyntaxError")


class MutantError(Exception):
    """A mutant, or the tests it names, cannot be used as declared."""


@dataclass(frozen=True)
class Mutant:
    """One bug: what stands for what in a file, and the arguments of pytest that should find it.

    ``equivalent`` says why no test can see it, where none can.
    """

    name: str
    kind: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    equivalent: str = ""

    @property
    def digest(self) -> str:
        """What a result is valid for: the substitution and the tests."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:16]

    def planted(self, text: str) -> str:
        """Return the text of the file with the bug in it. Raises MutantError unless it has one place there."""
        if (count := text.count(self.old)) != 1:
            raise MutantError(f"{self.name}: {self.file} has this text {count} times, not once: {self.old!r}")
        return text.replace(self.old, self.new)


@dataclass(frozen=True)
class Result:
    """What became of a mutant: the first test that failed, or how the process ended."""

    digest: str
    outcome: str
    by: str
    seconds: float


class Tree:
    """A copy of the project in a folder of its own, with a cache of kernels of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in COPIED:
            source, target = ROOT / name, folder / name
            if source.is_dir():
                unwanted = shutil.ignore_patterns("__pycache__", ".*", "*.so")
                shutil.copytree(source, target, ignore=unwanted, dirs_exist_ok=True)
            else:
                shutil.copy2(source, target)
        self._time = time.time()
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(folder),
            "GPUMLP_CACHE": str(folder / ".kernels"),
            "OMP_NUM_THREADS": "2",
        }
        found = self._call("-c", "import gpumlp; print(gpumlp.__file__)").stdout.strip()
        if not Path(found).is_relative_to(folder):
            raise MutantError(f"tests in {folder} would import gpumlp from {found}")

    def _call(self, *arguments: str, limit: float = LIMIT_S) -> subprocess.CompletedProcess[str]:
        """Run Python here, in a group of processes that ends with it."""
        command = [sys.executable, *arguments]
        with subprocess.Popen(
            command,
            cwd=self.folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        ) as process:
            try:
                output, _ = process.communicate(timeout=limit)
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
                raise
        return subprocess.CompletedProcess(command, process.returncode, output)

    def _write(self, file: str, text: str) -> None:
        """Write a text with a date of its own: Python takes its bytecode for that of a text as old and as long."""
        path = self.folder / file
        path.write_text(text, encoding="utf-8")
        self._time += 2
        os.utime(path, (self._time, self._time))

    def check(self, tests: tuple[str, ...]) -> None:
        """Raise MutantError unless the tests pass without any bug."""
        done = self._call("-m", "pytest", "-x", "-q", "--tb=line", *tests)
        if done.returncode or " passed" not in done.stdout:
            raise MutantError(f"{' '.join(tests)} must pass before a bug is planted:\n{done.stdout[-2000:]}")

    def run(self, mutant: Mutant) -> Result:
        """Return what the tests make of a mutant. Raises MutantError where it is no program at all."""
        right = (self.folder / mutant.file).read_text(encoding="utf-8")
        started = time.monotonic()
        self._write(mutant.file, mutant.planted(right))
        try:
            outcome, by = self._judge(mutant)
        finally:
            self._write(mutant.file, right)
        if mutant.equivalent:
            if outcome == CAUGHT:
                raise MutantError(f"{mutant.name} is declared equivalent, but {by} sees it")
            outcome = EQUIVALENT
        return Result(mutant.digest, outcome, by, round(time.monotonic() - started, 1))

    def _judge(self, mutant: Mutant) -> tuple[str, str]:
        try:
            done = self._call("-m", "pytest", "-x", "-q", "--tb=short", *mutant.tests)
        except subprocess.TimeoutExpired:
            return CAUGHT, f"no end within {LIMIT_S} s"
        if done.returncode == 0:
            return SURVIVED, ""
        if done.returncode < 0 or done.returncode > 128:
            return CAUGHT, f"the process ended by signal {abs(done.returncode) % 128}"
        if re.search(r"Timeout \(\d+:\d\d:\d\d\)!", done.stdout):  # as faulthandler ends a test that hangs
            return CAUGHT, "a test that ends itself where it hangs"
        failed = re.findall(r"^(?:FAILED|ERROR) (\S+::.*?)(?: - .*)?$", done.stdout, flags=re.MULTILINE)
        if done.returncode != 1 or not failed or BROKEN_TEXT.search(done.stdout):
            raise MutantError(f"{mutant.name} is no program, or its tests are none:\n{done.stdout[-3000:]}")
        return CAUGHT, failed[0]


def score(mutants: Iterable[Mutant], results: Mapping[str, Result]) -> tuple[int, int, int]:
    """Return how many mutants that change a result were caught, how many there are, and how many have no result."""
    outcomes = [
        results[m.name].outcome if m.name in results and results[m.name].digest == m.digest else ""
        for m in mutants
        if not m.equivalent
    ]
    return outcomes.count(CAUGHT), len(outcomes), outcomes.count("")


def read_results() -> dict[str, Result]:
    """Return the results that are kept, by the names of the mutants."""
    if not RESULTS.exists():
        return {}
    content = json.loads(RESULTS.read_text(encoding="utf-8"))
    return {name: Result(**fields) for name, fields in content["mutants"].items()}


def write_results(mutants: Iterable[Mutant], results: Mapping[str, Result]) -> None:
    """Keep the results of the mutants that are declared."""
    mutants = list(mutants)
    caught, total, missing = score(mutants, results)
    content = {
        "caught": caught,
        "of": total,
        "not_run": missing,
        "equivalent": sum(bool(m.equivalent) for m in mutants),
        "mutants": {m.name: asdict(results[m.name]) for m in mutants if m.name in results},
    }
    RESULTS.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
