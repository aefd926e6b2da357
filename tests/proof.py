"""Interrupt runs, let the disk fail, damage files; then compare with runs that were left alone.

    python -m tests.proof kills --number 1000    SIGKILL at random moments over ten kinds of configurations
    python -m tests.proof commands --number 300  SIGKILL at random moments of cv, sweep, bags, packs, exports and more
    python -m tests.proof errors                 an error of the system at every change of the disk
    python -m tests.proof bytes                  files of runs with flipped bytes, cut, and swapped with another run's

Each prints a table and exits with 1 where a model differs, an error has no message, or a damage goes unnoticed.
docs/guarantees.md has the figures. Runs to be killed are forked from this process, which has everything imported and
trains nothing itself. They flush nothing: a killed process, unlike a power cut, takes nothing along that the system
has been given.
"""

from __future__ import annotations

import argparse
import errno
import json
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpumlp.cli.main import main as command
from gpumlp.config import Loaded, load
from gpumlp.errors import GpumlpError, RunError
from gpumlp.runs import evaluate, load_run, load_trained, train
from gpumlp.runs.folder import RunFolder
from gpumlp.store import atomic

COMMON = ("training.epochs=4", "training.checkpoint_every=4")
KINDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "plain": ("points", ()),
    "dropout and batch norm": ("points", ("model={hidden: [8], norm: batch, dropout: 0.3}",)),
    "averages and clipping": ("points", ("optimizer={name: adamw, averaging: 0.9, clip_norm: 0.5}",)),
    "plateau and early stopping": (
        "points",
        (
            "schedule={name: plateau, patience: 1}",
            "training.early_stopping={patience: 2, min_delta: 0.01}",
            "training.epochs=8",
        ),
    ),
    "bf16": ("points", ("precision=bf16", "model.norm=batch")),
    "float64, one cycle": ("points", ("precision=float64", "optimizer=momentum", "schedule=one_cycle")),
    "regression with weights": (
        "points",
        ("task=regression", "data.target=b", "data.drop=[class]", "data.weights=w", "loss=huber"),
    ),
    "class weights, smoothing": (
        "points",
        ("loss={class_weight: balanced, label_smoothing: 0.1}", "data.scaling=quantile"),
    ),
    "bytes": ("bytes", ("model.norm=layer",)),
    "numpy, batches of 3": ("points", ("backend=numpy", "training.batch_size=3", "training.epochs=2")),
}
YAML = """\
task: classification
data: {{train: {train}, target: {target}, drop: {drop}}}
model: {{hidden: [8], activation: tanh}}
optimizer: {{name: adam, learning_rate: 1e-2}}
training: {{batch_size: 16}}
"""


def write_tasks(folder: Path) -> None:
    """Write the data and configurations that the kinds are made of."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 150)
    points = np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 3.0]])[labels] + rng.standard_normal((150, 2))
    rows = [
        f"{a:.4f},{'' if i % 17 == 0 else f'{b:.4f}'},{'uvw'[i * i % 3]},{i % 3 + 1},{'xyz'[c]}"
        for i, ((a, b), c) in enumerate(zip(points, labels, strict=True))
    ]
    filled = [row if row.split(",")[1] else row.replace(",,", ",0.5,", 1) for row in rows]
    (folder / "points.csv").write_text("\n".join(["a,b,k,w,class", *filled]) + "\n")
    (folder / "points.yaml").write_text(YAML.format(train="points.csv", target="class", drop="[w]"))
    np.savez(folder / "bytes.npz", x=rng.integers(0, 256, (120, 9), np.uint8), y=rng.integers(0, 3, 120))
    (folder / "bytes.yaml").write_text(YAML.format(train="bytes.npz", target="y", drop="[]"))


def task(place: Path, kind: str, *more: str) -> Loaded:
    name, settings = KINDS[kind]
    return load(place / f"{name}.yaml", (*COMMON, *settings, *more))


def model(folder: Path) -> dict[str, bytes]:
    """Return the files of the model of a run."""
    return {path.name: path.read_bytes() for path in sorted((folder / "model").iterdir())}


def history(folder: Path) -> list[dict[str, Any]]:
    """Return the history of a run, without what was measured by a clock."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{**json.loads(line), "seconds": 0} for line in lines]


# ---- kills ---------------------------------------------------------------------------------------------


def fork(loaded: Loaded, folder: Path, *, resume: bool, threads: int, note: int | None = None) -> int:
    """Start a run in a process of its own; return its number. ``note`` gets a byte as each checkpoint is begun."""
    if number := os.fork():
        return number
    code = 1
    try:
        os.environ["OMP_NUM_THREADS"] = str(threads)
        logging.disable()
        os.fsync = lambda handle: None
        if note is not None:
            replace = atomic._replace

            def noted(path: Path, *rest: Any) -> None:
                if path.parent.name == "checkpoints":
                    os.write(note, b"x")
                replace(path, *rest)

            atomic._replace = noted
        train(loaded, folder, resume=resume)
        code = 0
    finally:
        os._exit(code)


def ended(number: int) -> int:
    """Wait for a process; return its exit code, or the number of the signal that killed it, negative."""
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


def wait_for(path: Path, number: int) -> float:
    """Wait until a run has its folder; return when that was."""
    while not path.exists() and os.waitid(os.P_PID, number, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(1e-4)
    return time.perf_counter()


def kill_once(
    loaded: Loaded, folder: Path, rng: random.Random, span: float, *, resume: bool, in_checkpoint: bool
) -> bool:
    """Start or resume a run and kill it. Return whether the kill hit it, before it had ended."""
    read, write = os.pipe()
    number = fork(loaded, folder, resume=resume, threads=rng.choice((1, 2, 3, 7)), note=write)
    os.close(write)
    try:
        if in_checkpoint:
            for _ in range(rng.randint(1, 4)):
                os.read(read, 1)  # comes back empty where the run has ended
            time.sleep(rng.uniform(0.0, 1e-3))
        else:
            if not resume:
                wait_for(folder, number)
            time.sleep(rng.uniform(0.0, span))
        os.kill(number, signal.SIGKILL)
        code = ended(number)
    finally:
        os.close(read)
    return code == -signal.SIGKILL


def kills(place: Path, kinds: list[str], number: int, seconds: float, seed: int) -> bool:
    """Kill runs until so many kills have hit, or the time is over; print what came of it."""
    rng = random.Random(seed)
    print(f"{'kind':28}   kills  again  in a checkpoint  at steps  unlike", flush=True)
    totals = Counter[str]()
    deadline = time.monotonic() + seconds
    for count, kind in enumerate(kinds, 1):
        loaded, whole = task(place, kind), place / f"whole {kind}"
        for _ in range(2):  # the first one compiles
            shutil.rmtree(whole, ignore_errors=True)
            started = fork(loaded, whole, resume=False, threads=2)
            began = wait_for(whole, started)
            if ended(started) != 0:
                raise SystemExit(f"{kind}: the run that is left alone fails")
            span = time.perf_counter() - began
        wanted = model(whole), history(whole)
        found, steps = Counter[str](), set[str]()
        share = number * count // len(kinds) - number * (count - 1) // len(kinds)
        until = time.monotonic() + (deadline - time.monotonic()) / (len(kinds) - count + 1)
        while found["kills"] < share and time.monotonic() < until:
            folder = place / "cut"
            shutil.rmtree(folder, ignore_errors=True)
            for attempt in range(rng.choice((1, 1, 2, 3))):
                in_checkpoint = rng.random() < 0.3
                hit = kill_once(loaded, folder, rng, span, resume=attempt > 0, in_checkpoint=in_checkpoint)
                found["kills"] += hit
                found["again"] += hit and attempt > 0
                found["in a checkpoint"] += hit and in_checkpoint
                steps.add(max((path.name for path in folder.glob("checkpoints/step-*")), default=""))
            code = ended(fork(loaded, folder, resume=True, threads=rng.choice((1, 2, 3, 7))))
            same = code == 0 and (model(folder), history(folder)) == wanted and not list(folder.rglob("*.part"))
            found["unlike"] += not same
            if not same:
                shutil.copytree(folder, place / f"unlike {kind} {found['unlike']}")
        found["at steps"] = len(steps)
        totals += found
        print(f"{kind:28} {_killed(found)}", flush=True)
    print(f"{'all':28} {_killed(totals)}")
    return totals["unlike"] == 0 and totals["kills"] > 0


def _killed(found: Counter[str]) -> str:
    numbers = (found[name] for name in ("kills", "again", "in a checkpoint", "at steps", "unlike"))
    return " ".join(f"{number:{width}}" for number, width in zip(numbers, (7, 6, 16, 9, 7), strict=True))


# ---- kills of other commands ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """A command to be killed.

    Parameters
    ----------
    arguments
        Of the command line, in the folder of the task.
    output
        The file or folder that it makes.
    again
        What is added where the output is there already.
    same
        Whether the files that do not hold times come out the same.
    """

    arguments: tuple[str, ...]
    output: str
    again: tuple[str, ...] = ()
    same: bool = True


SMALL = ("--set", "training.epochs=3", "--set", "training.checkpoint_every=4")
FORCE, RESUME, POINTS = ("--force",), ("--resume",), "optimizer.learning_rate"
JOBS: dict[str, Job] = {
    "cv": Job(("cv", "points.yaml", *SMALL, "--folds", "3", "--run-dir", "out"), "out", FORCE),
    "sweep, a grid": Job(
        ("sweep", "points.yaml", *SMALL, "--set", f"{POINTS}=0.1,0.01,0.001", "--run-dir", "out"), "out"
    ),
    "sweep, a study": Job(
        (
            *("sweep", "points.yaml", *SMALL, "--set", f"{POINTS}=log(1e-4,1e-1)", "--trials", "5"),
            *("--set", "search={sampler: tpe, startup: 2}", "--run-dir", "out"),
        ),
        "out",
        same=False,
    ),
    "bag": Job(("train", "points.yaml", *SMALL, "--set", "bag=3", "--run-dir", "out"), "out", RESUME),
    "members": Job(("train", "points.yaml", *SMALL, "--set", "members=3", "--run-dir", "out"), "out", RESUME),
    "schedule-free": Job(
        (
            "train",
            "points.yaml",
            *SMALL,
            "--set",
            "optimizer=schedule_free",
            "--set",
            "loss=focal",
            "--run-dir",
            "out",
        ),
        "out",
        RESUME,
    ),
    "train on packed rows": Job(
        (
            *("train", "points.yaml", *SMALL, "--set", "data.pack={folder: packed, window: 40}"),
            *("--set", "data.max_memory=1e-5", "--run-dir", "out"),
        ),
        "out",
        RESUME,
    ),
    "pack": Job(("pack", "points.yaml", "-o", "out"), "out"),
    "ensemble": Job(("ensemble", "run", "other", "-o", "out"), "out", FORCE),
    "predict, CSV": Job(("predict", "run", "long.csv", "--proba", "-o", "out.csv"), "out.csv", FORCE),
    "predict, Parquet": Job(("predict", "run", "long.csv", "--proba", "-o", "out.parquet"), "out.parquet", FORCE),
    "export, Python": Job(("export", "run", "-o", "out.py"), "out.py", FORCE),
    "export, ONNX": Job(("export", "run", "-o", "out.onnx"), "out.onnx", FORCE),
    "report": Job(("report", "run", "-o", "out.html"), "out.html", FORCE),
    "plot": Job(("plot", "run", "-o", "out.png"), "out.png", FORCE),
}


def fork_command(place: Path, arguments: tuple[str, ...]) -> int:
    """Start a command in a process of its own, in a folder; return its number."""
    if number := os.fork():
        return number
    code = 1
    try:
        with (place / "log.txt").open("w") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        os.chdir(place)
        os.fsync = lambda handle: None
        command.main([str(each) for each in arguments], standalone_mode=False)
        code = 0
    finally:
        os._exit(code)


def made(path: Path) -> dict[str, bytes]:
    """Return the files that a command has made, by name, but for those that hold times, and locks."""
    if path.is_file():
        return {path.name: path.read_bytes()}
    timed = {"metrics.jsonl", "summary.json", "results.json", "bag.json", "log.txt"}
    files = (each for each in path.rglob("*") if each.is_file() and each.name not in timed)
    names = {each: each.relative_to(path) for each in files if each.suffix not in (".lock", ".html")}
    return {
        str(name): each.read_bytes() for each, name in names.items() if not {"checkpoints", "locks"} & {*name.parts}
    }


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def commands(place: Path, number: int, seconds: float, seed: int) -> bool:
    """Kill commands, until so many kills have hit or the time is over; print what came of it."""
    os.environ["OMP_NUM_THREADS"] = "1"
    rng, totals, deadline = random.Random(seed), Counter[str](), time.monotonic() + seconds
    rows = (place / "points.csv").read_text().splitlines()
    (place / "long.csv").write_text("\n".join([rows[0], *(rows[1:] * 40)]) + "\n")
    for name in ("run", "other"):
        more = ("--set", f"model.hidden=[{len(name)}]", "--run-dir", name)
        if ended(fork_command(place, ("train", "points.yaml", *SMALL, *more))) != 0:
            raise SystemExit((place / "log.txt").read_text())
    print(f"{'command':22}   kills  again  half  unlike  left", flush=True)
    for count, (name, job) in enumerate(JOBS.items(), 1):
        output, found = place / job.output, Counter[str]()
        whole, span = list[dict[str, bytes]](), 0.0
        for _ in range(2):
            for each in (output, place / "packed"):
                remove(each)
            began = time.perf_counter()
            if ended(fork_command(place, job.arguments)) != 0:
                raise SystemExit(f"{name}: {(place / 'log.txt').read_text()}")
            span = time.perf_counter() - began
            whole.append(made(output))
        before = {each.name for each in place.iterdir()}
        assert whole[0].keys() == whole[1].keys() or not job.same, name
        wanted = {file: content for file, content in whole[0].items() if whole[1].get(file) == content}
        assert wanted or not job.same, name
        share = number * count // len(JOBS) - number * (count - 1) // len(JOBS)
        until = time.monotonic() + (deadline - time.monotonic()) / (len(JOBS) - count + 1)
        while found["kills"] < share and time.monotonic() < until:
            for each in (output, place / "packed"):
                remove(each)
            for attempt in range(rng.choice((1, 1, 2, 3))):
                more = job.again if attempt and (output.exists() or job.again == RESUME) else ()
                process = fork_command(place, (*job.arguments, *more))
                time.sleep(rng.uniform(0.0, span))
                os.kill(process, signal.SIGKILL)
                hit = ended(process) == -signal.SIGKILL
                found["kills"] += hit
                found["again"] += hit and attempt > 0
                found["half"] += output.is_file() and made(output) != wanted
                found["half"] += name == "ensemble" and output.exists() and made(output) != wanted
            more = job.again if output.exists() or job.again == RESUME else ()
            code = ended(fork_command(place, (*job.arguments, *more)))
            came = made(output)
            same = all(came.get(file) == content for file, content in wanted.items()) or not job.same
            unlike = code != 0 or not same or (came.keys() != whole[0].keys() and job.same)
            left = [each for each in (*place.iterdir(), *output.rglob("*")) if each.name.endswith(".part")]
            left += [each for each in place.iterdir() if each.name not in before and each not in left]
            found["unlike"] += unlike
            found["left"] += bool(left)
            if unlike or left:
                what = [file for file in {**came, **whole[0]} if came.get(file) != wanted.get(file, came.get(file))]
                print(f"{name}: exit code {code}, unlike {what[:9]}, left {left[:9]}:")
                print((place / "log.txt").read_text()[-800:], flush=True)
                for each in left:
                    remove(each)
        totals += found
        print(f"{name:22} {_commands_row(found)}", flush=True)
    print(f"{'all':22} {_commands_row(totals)}")
    return totals["unlike"] == totals["half"] == totals["left"] == 0 < totals["kills"]


def _commands_row(found: Counter[str]) -> str:
    widths = {"kills": 7, "again": 6, "half": 5, "unlike": 7, "left": 5}
    return " ".join(f"{found[name]:{width}}" for name, width in widths.items())


# ---- errors of the system ------------------------------------------------------------------------------


MAKING = ((os, "fsync"), (os, "replace"), (Path, "mkdir"))
CHANGES = (*MAKING, (Path, "unlink"), (Path, "rmdir"), (os, "chmod"))


@contextmanager
def failing(
    at: int, code: int, *, for_good: bool, changes: tuple[tuple[Any, str], ...] = CHANGES
) -> Iterator[list[str]]:
    """Let the ``at``-th change of the disk fail, and every later one where it is ``for_good``.

    A write leaves half of its bytes. The names of the changes are collected in the list.
    """
    calls: list[str] = []

    def fails(name: str) -> bool:
        calls.append(name)
        return len(calls) == at or (for_good and len(calls) > at)

    def broken(call: Callable[..., Any], name: str) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if fails(name):
                raise OSError(code, os.strerror(code))
            return call(*args, **kwargs)

        return wrapped

    class Half:
        """A file whose write may leave half of its bytes."""

        def __init__(self, file: Any) -> None:
            self.file = file

        def __enter__(self) -> Half:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, content: bytes) -> int:
            if fails("write"):
                self.file.write(content[: len(content) // 2])
                self.file.flush()
                raise OSError(code, os.strerror(code))
            return int(self.file.write(content))

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    open_ = Path.open

    def open_half(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        file = open_(path, mode, *args, **kwargs)
        return Half(file) if set(mode) & set("xaw") else file

    before = [(owner, name, getattr(owner, name)) for owner, name in changes]
    try:
        Path.open = open_half  # type: ignore[method-assign]
        for owner, name, call in before:
            setattr(owner, name, broken(call, name))
        yield calls
    finally:
        Path.open = open_  # type: ignore[method-assign]
        for owner, name, call in before:
            setattr(owner, name, call)


def errors(place: Path, kinds: list[str], step: int) -> bool:
    """Let each ``step``-th change of the disk fail, of a run, a forced one and a resume; print what came of it."""
    print(f"{'kind':28} {'errors':>7} {'told':>6} {'gone on':>8} {'unlike':>7}", flush=True)
    logging.disable()
    totals = Counter[str]()
    for kind in kinds:
        loaded, whole, found = task(place, kind), place / f"whole {kind}", Counter[str]()
        train(loaded, whole)
        wanted, begun = model(whole), place / f"begun {kind}"
        cut(loaded, begun, 7)
        for mode, source in (("fresh", None), ("resume", begun), ("force", whole)):
            for for_good, code in ((True, errno.ENOSPC), (False, errno.EIO)):
                at, over = 1, False
                while not over:
                    folder = place / "cut"
                    shutil.rmtree(folder, ignore_errors=True)
                    if source is not None:
                        shutil.copytree(source, folder)
                    told = None
                    with failing(at, code, for_good=for_good) as calls:
                        try:
                            train(loaded, folder, resume=mode == "resume", force=mode == "force")
                        except RunError as error:
                            told = str(error)
                    over = len(calls) < at
                    if over:
                        break
                    found["errors"] += 1
                    found["told"] += told is not None and os.strerror(code) in told
                    found["gone on"] += told is None  # what failed was of no consequence, as deleting a leftover is
                    train(loaded, folder, resume=True)
                    found["unlike"] += model(folder) != wanted or bool(list(folder.rglob("*.part")))
                    found["mute"] += told is not None and os.strerror(code) not in told
                    at += step
        totals += found
        print(f"{kind:28} {found['errors']:7} {found['told']:6} {found['gone on']:8} {found['unlike']:7}", flush=True)
    print(f"{'all':28} {totals['errors']:7} {totals['told']:6} {totals['gone on']:8} {totals['unlike']:7}")
    return totals["unlike"] == totals["mute"] == 0 and totals["told"] + totals["gone on"] == totals["errors"]


def cut(loaded: Loaded, folder: Path, steps: int) -> None:
    """Train until so many batches are done, and stop as a killed process does."""
    from gpumlp.runs import Listener

    class CutError(Exception):
        pass

    class Cut(Listener):
        left = steps

        def batch(self, done: int, of: int) -> None:
            self.left -= 1
            if self.left <= 0 and RunFolder(folder).checkpoints():
                raise CutError

    with suppress(CutError):
        train(loaded, folder, listener=Cut())


# ---- damaged bytes -------------------------------------------------------------------------------------


def damages(path: Path, other: Path, step: int) -> Iterator[tuple[str, bytes]]:
    """Yield what becomes of a file: each ``step``-th byte with another bit, cut, longer, empty, another run's."""
    content = path.read_bytes()
    for position in range(0, len(content), step):
        flipped = bytearray(content)
        flipped[position] ^= 1 << (position // step) % 8
        yield "flipped", bytes(flipped)
    for length in range(0, len(content), 5 * step):
        yield "cut", content[:length]
    yield "longer", content + b"x"
    yield "longer", content + content
    if other.exists() and other.read_bytes() != content:
        yield "swapped", other.read_bytes()


class Warned(logging.Handler):
    """Counts warnings."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += 1


def outcome(loaded: Loaded, folder: Path, *, finished: bool) -> object:
    """Return what all that reads a run makes of it: an error's class, or what it comes to."""
    try:
        if not finished:
            train(loaded, folder, resume=True)
            return model(folder), history(folder)
        run = load_run(folder)
        rows = loaded.path.parent / loaded.settings.data.train
        predictions = load_trained(folder, "numpy").predict_proba(rows)
        metrics, notes = evaluate(folder)
        lines = RunFolder(folder).read_history(run.summary["epochs"], run.summary["history"])
        again = train(loaded, folder, resume=True).summary
        return predictions.tobytes(), str(metrics), notes, str(lines), str(again), model(folder)
    except GpumlpError as error:
        return type(error)


def damaged_bytes(place: Path, kinds: list[str], step: int) -> bool:
    """Damage each file of finished and of cut runs; print what was noticed, and what meant nothing."""
    print(f"{'file':34} {'damages':>8} {'noticed':>8} {'harmless':>9} {'unnoticed':>10}", flush=True)
    totals, unnoticed = Counter[str](), 0
    warned = Warned()
    log = logging.getLogger("gpumlp")
    log.addHandler(warned)
    log.propagate = False
    for kind in kinds:
        for state in ("finished", "cut"):
            loaded, other = task(place, kind), task(place, kind, "training.seed=1")
            source, second, folder = place / f"{state} {kind}", place / f"{state} other {kind}", place / "damaged"
            for each, target in ((loaded, source), (other, second)):
                train(each, target) if state == "finished" else cut(each, target, 12)
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(source, folder)
            expected = outcome(loaded, folder, finished=state == "finished")
            assert not isinstance(expected, type), f"{kind}: {expected}"
            for path in sorted(path for path in source.rglob("*") if path.is_file()):
                name = path.relative_to(source)
                if state == "finished" and name.parts[0] == "checkpoints":
                    continue  # they are read no more
                found = Counter[str]()
                for _, content in damages(path, second / name, step if state == "finished" else 5 * step):
                    shutil.rmtree(folder, ignore_errors=True)
                    shutil.copytree(source, folder)
                    (folder / name).write_bytes(content)
                    warned.count = 0
                    came = outcome(loaded, folder, finished=state == "finished")
                    found["damages"] += 1
                    if came == expected:
                        found["noticed" if warned.count else "harmless"] += 1
                    else:
                        found["noticed" if isinstance(came, type) or warned.count else "unnoticed"] += 1
                totals += found
                unnoticed += found["unnoticed"]
                label = f"{name} ({state})"
                print(f"{label:34} {_row(found)}", flush=True)
    print(f"{'all':34} {_row(totals)}")
    return unnoticed == 0


def _row(found: Counter[str]) -> str:
    return f"{found['damages']:8} {found['noticed']:8} {found['harmless']:9} {found['unnoticed']:10}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("kills", "commands", "errors", "bytes"))
    parser.add_argument("--number", type=int, default=1000, help="kills that hit (default: 1000)")
    parser.add_argument("--seconds", type=float, default=3600.0, help="time for kills (default: 3600)")
    parser.add_argument("--step", type=int, default=1, help="each STEP-th change or byte (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument("--kinds", type=int, default=len(KINDS), help=f"kinds of runs (default: {len(KINDS)})")
    chosen = parser.parse_args()
    kinds = list(KINDS)[: chosen.kinds]
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gpumlp-proof-") as folder:
        place = Path(folder)
        write_tasks(place)
        match chosen.what:
            case "kills":
                good = kills(place, kinds, chosen.number, chosen.seconds, chosen.seed)
            case "commands":
                good = commands(place, chosen.number, chosen.seconds, chosen.seed)
            case "errors":
                good = errors(place, kinds, chosen.step)
            case _:
                good = damaged_bytes(place, kinds, chosen.step)
    print(f"{time.monotonic() - started:.0f} s")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
