"""Let the disk fail under every command that writes, damage the folders they write, and put pipes and links there.

    python -m tests.disk errors     an error of the system at every change of the disk
    python -m tests.disk bytes      folders of ensembles, bags, cross-validations, sweeps and packed rows, damaged
    python -m tests.disk pipes      pipes, links, devices, sockets and folders in the place of each file

Runs of ``train`` have such proofs in tests/proof.py. Each prints a table and exits with 1 where an output is half
there, an older file is harmed, an error has no message, something hangs, or a damage goes unnoticed.
docs/guarantees.md has the figures.

Errors are made below Python, in what the C library hands to the system (disk.c), so those of the engine, of Arrow
and of SQLite are among them. Commands are forked from this process, which has everything imported and computes
nothing itself.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import hashlib
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from gpumlp import Dense, Sequential, load_ensemble, load_trained, train
from gpumlp.autodiff import Tensor
from gpumlp.backend import Backend
from gpumlp.cli import main as command
from gpumlp.errors import GpumlpError
from gpumlp.runs import load_model
from gpumlp.runs.ensemble import WeightedModels
from gpumlp.sweep.bag import train_bag
from gpumlp.sweep.cv import cross_validate
from gpumlp.sweep.ensemble import combine
from gpumlp.sweep.folder import Template
from gpumlp.sweep.search import space_of, sweep
from tests.proof import POINTS, SMALL, Warned, damages, made, remove, write_tasks

LIMIT_S = 300
"""Seconds after which a command counts as hanging."""

FORCE, RUN = ("--force",), ("--run-dir", "out")
Action = Callable[[], object]


@dataclass(frozen=True)
class Writer:
    """Something that writes a file or a folder.

    Parameters
    ----------
    does
        Arguments of the command line, in the folder of the task, or a function.
    output
        What it writes.
    force
        Arguments with which it replaces what is there; None where the same command goes on with it.
    same
        Whether it writes the same files each time.
    older
        Arguments of a command that makes what is to be replaced; a file by default.
    alone
        Whether it reads no run.
    """

    does: tuple[str, ...] | Action
    output: str
    force: tuple[str, ...] | None = FORCE
    same: bool = True
    older: tuple[str, ...] = ()
    alone: bool = False

    def action(self, *, force: bool) -> tuple[str, ...] | Action:
        return (*self.does, *(self.force or ())) if isinstance(self.does, tuple) and force else self.does


def save_model() -> None:
    load_trained("run", "numpy").save("out")


def save_ensemble() -> None:
    load_ensemble("ensemble").save("out", force=True)


def save_weights() -> None:
    model = Sequential([Dense(3, "tanh")]).build(2)
    model(Tensor([[1.0, 2.0]]))
    model.save("out.safetensors")


def outputs(name: str, *arguments: str, endings: str) -> dict[str, Writer]:
    """Return a command that writes files of several endings."""
    return {
        f"{name} {ending}": Writer((*arguments, "-o", f"out{ending}"), f"out{ending}") for ending in endings.split()
    }


WRITERS: dict[str, Writer] = {
    **outputs("predict", "predict", "run", "points.csv", "--proba", endings=".csv .csv.gz .parquet .jsonl .npy"),
    **outputs("export", "export", "run", endings=".py .onnx .safetensors"),
    "export an ensemble": Writer(("export", "ensemble", "--data", "points.csv", "-o", "out.onnx"), "out.onnx"),
    **outputs("report", "report", "run", endings=".html"),
    **outputs("plot", "plot", "run", endings=".png .svg .pdf"),
    **outputs("graph", "graph", "points.yaml", endings=".svg .png .dot .mermaid"),
    **outputs("activations", "activations", endings=".svg"),
    **outputs("init", "init", "points.csv", "--target", "class", endings=".yaml"),
    "ensemble": Writer(("ensemble", "run", "other", "-o", "out"), "out", older=("ensemble", "run", "-o", "out")),
    "save a model": Writer(save_model, "out", force=None),
    "save an ensemble": Writer(save_ensemble, "out", force=None, older=("ensemble", "run", "-o", "out")),
    "save weights": Writer(save_weights, "out.safetensors", force=None, alone=True),
    "pack": Writer(("pack", "points.yaml", "-o", "out"), "out", None),
    "cv": Writer(("cv", "points.yaml", *SMALL, "--folds", "2", *RUN), "out"),
    "bag": Writer(("train", "points.yaml", *SMALL, "--set", "bag=2", *RUN), "out", ("--resume",)),
    "sweep": Writer(("sweep", "points.yaml", *SMALL, "--set", f"{POINTS}=0.1,0.01", *RUN), "out", None),
    "a study": Writer(
        (
            *("sweep", "points.yaml", *SMALL, "--set", f"{POINTS}=log(1e-4,1e-1)", "--trials", "3"),
            *("--set", "search={sampler: tpe}", *RUN),
        ),
        "out",
        None,
        same=False,
    ),
    "approximate": Writer(
        (
            *("approximate", "--widths", "2", "--restarts", "1", "--steps", "2", "--backend", "numpy"),
            *("-o", "out"),
        ),
        "out",
        same=False,
    ),
}


# ---- a process of its own ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """How a command ended: exit code, what it printed, how often it changed the disk, and which change failed."""

    code: int
    printed: str
    changes: int = 0
    failed: str = ""

    @property
    def is_one_message(self) -> bool:
        errors = re.findall(r"^(?:error: |Error: )", self.printed, flags=re.MULTILINE)
        return len(errors) == 1 and "Traceback" not in self.printed


def tried(place: Path, action: tuple[str, ...] | Action, fails: tuple[int, int, bool] = (0, 0, False)) -> Outcome:
    """Do something in a process of its own; ``fails``: which change of the disk, by which error, whether for good."""
    log = place.parent / "log.txt"
    disk = ctypes.CDLL(None)
    read, write = os.pipe()
    number = os.fork()
    if not number:
        code = 99
        try:
            os.close(read)
            with log.open("w") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            os.chdir(place)
            if hasattr(disk, "disk_fails"):
                disk.disk_fails(os.fsencode(place), ctypes.c_long(fails[0]), fails[1], fails[2])
            code = done(action)
            sys.stdout.flush()
            sys.stderr.flush()
        except BaseException:
            import traceback

            traceback.print_exc()
            sys.stderr.flush()
        finally:
            name, count = ctypes.create_string_buffer(64), 0
            if hasattr(disk, "disk_changes"):
                count = disk.disk_changes(name)
            os.write(write, f"{count} {name.value.decode()}".encode())
            os._exit(code)
    os.close(write)
    try:
        ended = ended_in_time(number)
        count, _, failed = os.read(read, 100).decode().partition(" ")
    finally:
        os.close(read)
    return Outcome(ended, log.read_text(errors="replace"), int(count or 0), failed)


def done(action: tuple[str, ...] | Action) -> int:
    """Do something here; return the exit code."""
    if isinstance(action, tuple):
        try:
            command.main(list(action), prog_name="gpumlp")
        except SystemExit as end:
            return int(end.code or 0)
        return 0
    try:
        action()
    except GpumlpError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


def ended_in_time(number: int) -> int:
    """Wait for a process; return its exit code, or -9 where it had to be ended."""
    until = time.monotonic() + LIMIT_S
    while time.monotonic() < until:
        ended, status = os.waitpid(number, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(number, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


def prepare(place: Path, names: list[str]) -> None:
    """Make the runs and the ensemble that commands read. Exits where one of them fails."""
    if all(WRITERS[name].alone for name in names):
        return
    small = (*SMALL, "--set", "backend=numpy")
    for arguments in (
        ("train", "points.yaml", *small, "--run-dir", "run"),
        ("train", "points.yaml", *small, "--set", "model.hidden=[5]", "--run-dir", "other"),
        ("ensemble", "run", "other", "-o", "ensemble"),
    ):
        if (outcome := tried(place, arguments)).code:
            raise SystemExit(outcome.printed)


# ---- errors of the system ------------------------------------------------------------------------------

MODES = ((errno.ENOSPC, True), (errno.EIO, False))


def errors(place: Path, names: list[str], step: int) -> bool:
    """Let each ``step``-th change of the disk fail, of a new output and one that replaces another; print the sums."""
    columns = ("changes", "errors", "told", "harmless", "mute", "harmed", "unlike", "left")
    print(f"{'command':22}" + "".join(f"{each:>9}" for each in columns), flush=True)
    totals = Counter[str]()
    for name in names:
        found = _errors_of(place, name, WRITERS[name], step)
        totals += found
        print(f"{name:22}" + "".join(f"{found[each]:9}" for each in columns), flush=True)
    print(f"{'all':22}" + "".join(f"{totals[each]:9}" for each in columns))
    return sum(totals[each] for each in columns[4:]) == 0 < totals["told"]


def _errors_of(place: Path, name: str, writer: Writer, step: int) -> Counter[str]:
    output, found = place / writer.output, Counter[str]()

    def fail(kind: str, outcome: Outcome, at: int) -> None:
        found[kind] += 1
        print(f"  {name}: {kind} after {outcome.failed} {at}, exit code {outcome.code}: {outcome.printed[-600:]}")

    remove(output)
    if (whole := tried(place, writer.action(force=False))).code:
        raise SystemExit(f"{name}: {whole.printed}")
    wanted, before = made(output), {each.name for each in place.iterdir()}
    for replaces in (False, True):
        for code, for_good in MODES:
            at = 1
            while True:
                remove(output)
                if replaces:
                    _older(place, writer, output)
                older = made(output) if replaces else {}
                outcome = tried(place, writer.action(force=replaces), (at, code, for_good))
                if outcome.changes < at:
                    break
                found["errors"] += 1
                found["changes"] = max(found["changes"], outcome.changes)
                undone = for_good or outcome.failed not in ("unlink", "rmdir", "ftruncate")
                aside = next(place.glob(f".{output.name}.*.old"), None)
                if output.exists() or aside is None or aside.name not in outcome.printed:
                    came, expected_left = made(output) if output.exists() else {}, before
                else:  # the old one, which the next call gives back
                    came, expected_left = made(aside), {*before, aside.name}
                if not undone:  # a leftover goes with the next call
                    came = {file: content for file, content in came.items() if ".part" not in file}
                if outcome.code == 0:
                    found["harmless"] += 1
                    if came.keys() != wanted.keys() or (writer.same and came != wanted):
                        fail("harmed", outcome, at)
                else:
                    found["told"] += 1
                    if not (outcome.code == 1 and outcome.is_one_message and os.strerror(code) in outcome.printed):
                        fail("mute", outcome, at)
                    if came != older and not _goes_on(writer):
                        fail("harmed", outcome, at)
                left = _left(place, expected_left)
                if left and undone:
                    fail("left", outcome, at)
                again = tried(place, writer.action(force=output.exists() or writer.force == ("--resume",)))
                came = made(output)
                if again.code or came.keys() != wanted.keys() or (writer.same and came != wanted):
                    fail("unlike", again, at)
                if left := _left(place, before):
                    fail("left", again, at)
                    for each in left:
                        remove(each)
                at += step
    return found


def _goes_on(writer: Writer) -> bool:
    """Return whether the same command takes up what it has begun, which need not be all or nothing then."""
    return writer.output == "out" and isinstance(writer.does, tuple) and not writer.older


def _older(place: Path, writer: Writer, output: Path) -> None:
    """Put there what is to be replaced, or gone on with."""
    if writer.output != "out":
        output.write_text("older\n")
    elif writer.older or isinstance(writer.does, tuple):
        assert tried(place, writer.older or writer.action(force=False)).code == 0
    else:
        shutil.copytree(place / "other" / "model", output)


def _left(place: Path, before: set[str]) -> list[Path]:
    """Return what lies about that no command should leave."""
    left = [each for each in place.rglob("*") if each.name.endswith(".part")]
    return left + [each for each in place.iterdir() if each.name not in before and each not in left]


# ---- folders that are damaged --------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """A kind of folder: how one is made, given a seed, and what all that reads it makes of it."""

    make: Callable[[Path, int], object]
    read: Callable[[Path], object]


def template(place: Path, *more: str) -> Template:
    return Template(place / "points.yaml", ("training.epochs=2", "backend=numpy", *more))


def seed(number: int) -> str:
    return f"training.seed={number}"


def predicted(folder: Path) -> bytes:
    """Return what an ensemble predicts."""
    return load_ensemble(folder, "numpy").predict_proba(folder.parent / "points.csv").tobytes()


def model_predicts(folder: Path) -> bytes:
    return load_model(folder, Backend()).predict_proba(folder.parent / "points.csv").tobytes()


def combined(folder: Path) -> tuple[str, bytes]:
    """Return how the runs in a folder are combined, and what they predict then."""
    ensemble, about = combine([folder])
    return str(about), ensemble.predict_proba(folder.parent / "points.csv").tobytes()


def make_model(folder: Path, number: int) -> None:
    train(template(folder.parent, seed(number)).load(), folder.parent / f"run {number}", resume=True)
    load_trained(folder.parent / f"run {number}", "numpy").save(folder)


def make_ensemble(folder: Path, number: int) -> None:
    for width in (3, 5):
        run = folder.parent / f"run {number} {width}"
        train(template(folder.parent, seed(number), f"model.hidden=[{width}]").load(), run, resume=True)
    models = [load_trained(folder.parent / f"run {number} {width}", "numpy") for width in (3, 5)]
    WeightedModels(tuple(models), (0.25, 0.75)).save(folder)


def points(folder: Path, number: int) -> str:
    chosen, space = space_of(template(folder.parent, seed(number)), (f"{POINTS}=0.1,0.01",), None)
    return str([replace(each, summary=None) for each in sweep(chosen, space, folder)])


def packed(folder: Path, number: int) -> dict[str, bytes]:
    """Return the model of a run on packed rows."""
    more = (f"data.pack={{folder: {folder}, window: 40}}", "data.max_memory=1e-5", seed(number))
    train(template(folder.parent, *more).load(), folder.parent / "run on it", force=True)
    return made(folder.parent / "run on it" / "model")


def bag(folder: Path, number: int) -> str:
    return str(train_bag(template(folder.parent, "bag=2", seed(number)), folder))


def cv(folder: Path, number: int) -> str:
    return str(cross_validate(template(folder.parent, seed(number)), folder, folds=2))


KINDS: dict[str, Kind] = {
    "model": Kind(
        make_model, lambda folder: load_model(folder, Backend()).predict_proba(folder.parent / "points.csv")
    ),
    "ensemble": Kind(make_ensemble, predicted),
    "bag": Kind(bag, lambda folder: (predicted(folder), bag(folder, 0))),
    "cv": Kind(cv, lambda folder: (combined(folder), cv(folder, 0))),
    "sweep": Kind(points, lambda folder: (combined(folder), points(folder, 0))),
    "packed rows": Kind(packed, lambda folder: packed(folder, 0)),
}


def read(folder: Path, kind: Kind) -> object:
    """Return what comes of reading a folder, or the class of the error."""
    try:
        return str(kind.read(folder))
    except GpumlpError as error:
        return type(error)


def files_of(folder: Path) -> list[Path]:
    """Return the files of a folder that are read: no locks, and no checkpoints of runs that have ended."""
    files = (each.relative_to(folder) for each in sorted(folder.rglob("*")) if each.is_file())
    return [each for each in files if not {"locks", "checkpoints"} & {*each.parts} and each.suffix != ".lock"]


def damaged(place: Path, names: list[str], step: int) -> bool:
    """Damage each file of folders that hold several; print what was noticed, and what meant nothing."""
    columns = ("damages", "noticed", "harmless", "unnoticed")
    print(f"{'file':50}" + "".join(f"{each:>10}" for each in columns), flush=True)
    totals, warned, log = Counter[str](), Warned(), logging.getLogger("gpumlp")
    log.addHandler(warned)
    log.propagate = False
    for name in names:
        kind, folder, found = KINDS[name], place / "folder", dict[Path, Counter[str]]()
        wholes = [place / f"{name} {number}" for number in (0, 1)]
        for number, whole in enumerate(wholes):
            remove(folder)
            kind.make(folder, number)
            shutil.copytree(folder, whole)
        restored(wholes[0], folder)
        expected = read(folder, kind)
        assert not isinstance(expected, type), f"{name}: {expected}"
        others = dict(zip(files_of(wholes[0]), files_of(wholes[1]), strict=True))  # keys of packs differ
        for file, other in others.items():
            found[file] = Counter()
            for what, content in damages(wholes[0] / file, wholes[1] / other, step):
                restored(wholes[0], folder)
                (folder / file).write_bytes(content)
                warned.count, came = 0, read(folder, kind)
                noticed = isinstance(came, type) or warned.count
                result = "noticed" if noticed else "harmless" if came == expected else "unnoticed"
                found[file].update(("damages", result))
                if result == "unnoticed":
                    print(f"  {name}/{file}: {what}: {str(came)[:200]} for {str(expected)[:200]}")
            print(f"{f'{name}: {file}':50}" + "".join(f"{found[file][each]:10}" for each in columns), flush=True)
            totals += found[file]
    print(f"{'all':50}" + "".join(f"{totals[each]:10}" for each in columns))
    return totals["unnoticed"] == 0 < totals["noticed"]


def restored(whole: Path, folder: Path) -> None:
    remove(folder)
    shutil.copytree(whole, folder)


# ---- what is not a file --------------------------------------------------------------------------------


def no_files(path: Path, outside: Path) -> Iterator[str]:
    """Put other things in the place of a file, one by one; ``outside`` gets a copy of it."""
    outside.write_bytes(path.read_bytes())
    for kind in ("pipe", "link", "link to nowhere", "link in a circle", "device", "socket", "folder"):
        path.unlink(missing_ok=True)
        match kind:
            case "pipe":
                os.mkfifo(path)
            case "link":
                path.symlink_to(outside)
            case "link to nowhere":
                path.symlink_to(outside.with_name("nowhere"))
            case "link in a circle":
                path.symlink_to(path.name)
            case "device":
                path.symlink_to("/dev/zero")
            case "socket":
                with socket.socket(socket.AF_UNIX) as bound:
                    before = os.getcwd()
                    os.chdir(path.parent)  # names of sockets are short
                    bound.bind(path.name)
                    os.chdir(before)
            case "folder":
                path.mkdir()
        yield kind
        remove(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def pipes(place: Path, names: list[str]) -> bool:
    """Put pipes, links and more in the place of each file of folders that hold several; print what came of it."""
    columns = ("tried", "refused", "harmless", "mute", "hangs", "harmed", "unlike")
    print(f"{'folder':22}" + "".join(f"{each:>10}" for each in columns), flush=True)
    totals, outside = Counter[str](), place / "outside"
    outside.mkdir()
    for name in names:
        kind, folder, whole, found = KINDS[name], place / "folder", place / f"{name} whole", Counter[str]()

        def reading(folder: Path = folder, kind: Kind = kind) -> None:
            print(hashlib.sha256(str(kind.read(folder)).encode()).hexdigest())

        remove(folder)
        assert tried(place, lambda: kind.make(folder, 0)).code == 0  # noqa: B023
        shutil.copytree(folder, whole)
        expected = tried(place, reading)
        assert expected.code == 0, expected.printed
        for file in files_of(whole):
            content = (whole / file).read_bytes()
            restored(whole, folder)
            for what in no_files(folder / file, outside / "file"):
                outcome = tried(place, reading)
                found["tried"] += 1
                if outcome.code == -signal.SIGKILL:
                    result = "hangs"
                elif outcome.code:
                    result = "refused" if outcome.is_one_message else "mute"
                else:
                    result = "harmless" if outcome.printed == expected.printed else "unlike"
                found[result] += 1
                harmed = (outside / "file").read_bytes() != content or (outside / "nowhere").exists()
                found["harmed"] += harmed
                if harmed or result in columns[3:]:
                    print(f"  {name}/{file}: {what}: {result}, exit code {outcome.code}: {outcome.printed[-500:]}")
                outside_again(outside, content)
                restored(whole, folder)
                (folder / file).unlink()
        totals += found
        print(f"{name:22}" + "".join(f"{found[each]:10}" for each in columns), flush=True)
    print(f"{'all':22}" + "".join(f"{totals[each]:10}" for each in columns))
    return sum(totals[each] for each in columns[3:]) == 0 < totals["refused"]


def outside_again(outside: Path, content: bytes) -> None:
    (outside / "nowhere").unlink(missing_ok=True)
    (outside / "file").write_bytes(content)


# ---- the command ---------------------------------------------------------------------------------------


def preloaded(folder: Path) -> dict[str, str]:
    """Compile disk.c; return the environment in which a process begins with it. Only on Linux."""
    source, library = Path(__file__).with_name("disk.c"), folder / "disk.so"
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    return {**os.environ, "LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1", "ARROW_NUM_THREADS": "1"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("errors", "bytes", "pipes"))
    parser.add_argument("--step", type=int, default=1, help="each STEP-th change or byte (default: 1)")
    parser.add_argument("--only", nargs="*", default=[], help="commands whose names begin so (default: all)")
    chosen = parser.parse_args()
    all_names = WRITERS if chosen.what == "errors" else KINDS
    names = [each for each in all_names if not chosen.only or each.startswith(tuple(chosen.only))]
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gpumlp-disk-") as folder:
        if chosen.what == "errors" and "disk.so" not in os.environ.get("LD_PRELOAD", ""):
            return subprocess.run(
                [sys.executable, "-m", "tests.disk", *sys.argv[1:]], env=preloaded(Path(folder))
            ).returncode
        place = Path(folder) / "task"
        place.mkdir()
        write_tasks(place)
        match chosen.what:
            case "errors":
                prepare(place, names)
                good = errors(place, names, chosen.step)
            case "bytes":
                good = damaged(place, names, chosen.step)
            case _:
                good = pipes(place, names)
    print(f"{time.monotonic() - started:.0f} s")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
