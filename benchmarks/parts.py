"""The parts of ``make gpu``: each runs in a process of its own and keeps what it finds as it finds it."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from device import examine
from recipes import CONFIGS, RECIPES, Recipe
from truth import QUESTIONS

from gpumlp import __version__
from gpumlp import backend as backends
from gpumlp.backend.kernels import made_for
from gpumlp.bench import machine as machines
from gpumlp.bench.goals import TEXT
from gpumlp.bench.kernels import LADDER, QUICK, QUICK_SECONDS, SECONDS, KernelTimes, bench, entries
from gpumlp.bench.record import as_json
from gpumlp.checks.agreement import SHAPES, faults
from gpumlp.errors import BackendError, DataError

ROOT = Path(__file__).parent.parent
DATA = Path(os.environ.get("GPUMLP_DATA", ROOT.parent / "shared" / "data"))
CONFIG = ("pydantic", "yaml", "safetensors")
"""What configurations need."""
NEEDED = ("numpy", "cupy", "ml_dtypes", "torch", "jax", "pytest", "click", "rich", *CONFIG)
EPOCHS, RECIPE_EPOCHS = 5, 2
"""Epochs of a shipped configuration, and of a recipe; of those with 60000 images, which come last, only one."""
IMAGES = {"mnist": "mnist", "fashion_mnist": "fashion-mnist"}
"""Where their data lie below DATA, if they do."""
APART = 1e-2
"""Relative difference of an epoch's loss from the CPU's that is no longer rounding."""
MEMBERS = (1, 8, 132, 264)
"""Networks at once: an H200 has 132 multiprocessors, which take a block each."""
PEERS = ("jax", "pytorch", "graph", "keras", "sklearn")
"""Of those in ``peers.py`` the ones that compile in seconds."""
TESTS = tuple(f"tests/backend/test_{name}.py" for name in ("gpu", "blocks", "bfloat16", "edges", "agreement"))
"""What is marked ``gpu``, the longest last. Of the others some need packages that a GPU's machine may not have."""
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
SANITIZED = ((3, 1), (7, 33), (2, 1025))

Found = dict[str, Any]
Keep = Callable[[Found], None]


class NotHereError(Exception):
    """A part that cannot run here, and why."""


@dataclass(frozen=True)
class Task:
    """What a part is asked for: the backend, as little as possible or all, and where it keeps what it finds."""

    backend: str
    tiny: bool
    keep: Keep


def machine(task: Task) -> Found:
    """Say what this machine is, and which packages are missing."""
    having = backends.get(task.backend)
    return {
        "name": machines.name(having),
        "gpumlp": __version__,
        **machines.facts(having),
        "missing": lacking(*NEEDED),
    }


def lacking(*names: str) -> list[str]:
    """Return which of these packages are not installed."""
    return [name for name in names if importlib.util.find_spec(name) is None]


def _need_configurations(*others: str) -> None:
    """Refuse a part that reads a configuration, or trains, where a package for that is missing."""
    if missing := lacking(*others, *CONFIG):
        raise NotHereError(f"not installed: {', '.join(missing)}")


def truth(task: Task) -> Found:
    """Ask whether products are right: sums of ones, what ReLU does with NaN, the same bits each time."""
    having = backends.get(task.backend)
    found: Found = {"wrong": {}, "asked": {}}
    for question, (ask, count) in QUESTIONS.items():
        for asked, (shape, said) in enumerate(ask(having, 6 if task.tiny else count), 1):
            found["wrong"] |= {f"{question}: {shape}": said} if said else {}
            found["asked"][question] = asked
            if said or asked % 500 == 0:
                task.keep(found)
    return found


def agreement(task: Task, shapes: tuple[tuple[int, int], ...] = SHAPES) -> Found:
    """Compare every direction of every operation with the reference."""
    checked = 0
    wrong: dict[str, str] = {}
    for entry, said in faults(backends.get(task.backend), "relu" if task.tiny else "", shapes):
        checked += 1
        wrong |= {entry: said} if said else {}
        task.keep({"checked": checked, "wrong": wrong})
    return {"checked": checked, "wrong": wrong}


def sanitized(task: Task) -> Found:
    """Compare on few shapes, every array in memory of its own, so that a checker sees where it ends."""
    having = backends.get(task.backend)
    if machines.on_device(having):
        having.xp.cuda.set_allocator(None)
    wrong = {entry: said for entry, said in faults(having, "relu" if task.tiny else "", SANITIZED) if said}
    return {"wrong": wrong}


def sanitizer(task: Task) -> Found:
    """Run :func:`sanitized` under each tool of NVIDIA's compute-sanitizer."""
    if task.backend != "cupy":
        raise NotHereError("compute-sanitizer watches a GPU")
    places = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/cuda/bin", "/usr/local/cuda/compute-sanitizer"])
    checker = shutil.which("compute-sanitizer", path=places)
    if checker is None:
        raise NotHereError("compute-sanitizer is not here")
    found: Found = {"wrong": {}}
    for tool in TOOLS:
        own = [
            sys.executable,
            str(Path(__file__).parent / "gpu.py"),
            "--part",
            "sanitized",
            "--backend",
            task.backend,
        ]
        result = subprocess.run(
            [checker, "--tool", tool, "--error-exitcode", "9", *own, *(["--tiny"] if task.tiny else [])],
            capture_output=True,
            text=True,
        )
        found[tool] = "clean" if result.returncode == 0 else result.stdout[-3000:] + result.stderr[-1000:]
        if result.returncode:
            found["wrong"][tool] = f"exit code {result.returncode}"
        task.keep(found)
    return found


def tests(task: Task) -> Found:
    """Run the tests that are marked ``gpu``; on a CPU those of the backends instead."""
    _need_configurations("pytest")
    chosen = ["-m", "gpu", *TESTS] if task.backend == "cupy" else ["tests/backend"]
    if task.tiny:
        chosen = ["tests/backend/test_run.py"]
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", *chosen]
    # Warnings are errors there: those of plugins that happen to be installed are none of ours.
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    lines: list[str] = []
    failed: list[str] = []
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in process.stdout or ():  # said at once: what is late has said something
            print(line, end="", flush=True)
            lines.append(line)
            if " FAILED " in line or " ERROR " in line:
                failed.append(line.partition(" ")[0])
                task.keep({"summary": "not finished", "wrong": dict.fromkeys(failed, "failed")})
    if process.returncode == 5:  # pytest's code for an empty selection
        raise NotHereError(f"no test is chosen by {' '.join(chosen)}")
    last = (lines or [""])[-1].strip()
    wrong = dict.fromkeys(failed, "failed") | {"pytest": "".join(lines)[-3000:]} if process.returncode else {}
    return {"summary": last, "wrong": wrong}


def kernels(task: Task) -> Found:
    """Check and time every kernel."""
    having = backends.get(task.backend)
    on_device, about = machines.on_device(having), machines.facts(having)
    chosen = entries("relu_forward" if task.tiny else None)
    sizes, seconds = (LADDER, SECONDS) if on_device else (QUICK, QUICK_SECONDS)
    sizes = LADDER[:1] if task.tiny else sizes
    having.prepare(made_for((entry.op for entry in chosen), ("float",)), wait=True)
    rows: list[KernelTimes] = []
    wrong: dict[str, str] = {}

    def found() -> Found:
        told = {"goals": TEXT[on_device], "wanted": len(chosen), "wrong": wrong}
        return told | as_json(about, rows, on_device=on_device)

    for _, own in groupby(bench(having, chosen, sizes, seconds, wrong), key=lambda row: row.entry):
        rows += own
        task.keep(found())
    return found()


def training(task: Task) -> Found:
    """Train shipped configurations and recipes here and on the CPU, and compare the losses of their epochs."""
    _need_configurations()
    judge = _judge(task.backend)
    found: Found = {"wrong": {}, "judge": judge, "runs": {}}
    for name, (recipe, epochs) in _runs(tiny=task.tiny).items():
        try:
            (own, seconds), (other, judged) = (_trained(recipe, each, epochs) for each in (task.backend, judge))
        except DataError as error:
            found["runs"][name] = {"skipped": error.what}
            continue
        except Exception as error:  # the others may train
            found["wrong"][name] = f"{type(error).__name__}: {error}"
            task.keep(found)
            continue
        apart = float(np.max(np.abs(np.subtract(own, other)) / np.abs(other)))
        found["runs"][name] = {"losses": own, "judge": other, "apart": apart, "seconds": [seconds, judged]}
        if not apart <= APART:
            found["wrong"][name] = f"losses are {apart:.2%} apart"
        task.keep(found)
    return found


def _runs(*, tiny: bool) -> dict[str, tuple[Recipe, int]]:
    """Return what is trained, and for how many epochs: those of 60000 images last, as the time may run out."""
    names = sorted(path.relative_to(CONFIGS).with_suffix("").as_posix() for path in CONFIGS.glob("**/*.yaml"))
    shipped = {name: Recipe(name) for name in names}
    tables = {name: (recipe, EPOCHS) for name, recipe in shipped.items() if name not in IMAGES}
    if tiny:
        tables = {"breast_cancer": (shipped["breast_cancer"], 2)}
    recipes = {name: (recipe, 1 if tiny else RECIPE_EPOCHS) for name, recipe in RECIPES.items()}
    return tables | recipes | ({} if tiny else {name: (shipped[name], 1) for name in IMAGES})


def _judge(backend: str) -> str:
    """Return the backend that the losses of another are compared with: on the CPU, and another."""
    try:
        return "numpy" if backend == "native" else backends.get("native").name
    except BackendError:  # no compiler
        return "numpy"


def _trained(recipe: Recipe, backend: str, epochs: int) -> tuple[list[float], float]:
    """Return the training losses of the first epochs of a recipe, and the seconds that they took."""
    from gpumlp.runs import train
    from gpumlp.runs.folder import RunFolder

    changes = [f"backend={backend}", f"training.epochs={epochs}", "training.early_stopping=null"]
    if (place := DATA / IMAGES.get(recipe.config, "")) != DATA and place.exists():
        changes.append(f"data.folder={place}")
    with tempfile.TemporaryDirectory(prefix="gpumlp-") as folder:
        started = time.perf_counter()
        train(recipe.load(*changes), Path(folder) / "run")
        seconds = time.perf_counter() - started
        return [row["train_loss"] for row in RunFolder(Path(folder) / "run").read_history(epochs)], seconds


def peers(task: Task) -> Found:
    """Time epochs here and in the libraries that are installed."""
    _need_configurations()
    found: Found = {"seconds": {}}
    with tempfile.TemporaryDirectory(prefix="gpumlp-") as folder:
        for work in ("tiny",) if task.tiny else ("tiny", "mnist", "tabular", "wide"):
            file = Path(folder) / f"{work}.json"
            command = [
                sys.executable,
                str(Path(__file__).parent / "train.py"),
                "--only",
                work,
                "--rounds",
                "1" if task.tiny else "3",
            ]
            command += ["--device", "gpu" if task.backend == "cupy" else "cpu", "--json", str(file)]
            command += ["--peers", "sklearn"] if task.tiny else ["--peers", *PEERS]
            result = subprocess.run(command, capture_output=True, text=True)
            if result.returncode:
                found.setdefault("wrong", {})[work] = result.stderr[-1500:]
            else:
                measured = json.loads(file.read_text())["found"][work]
                found["seconds"][work] = {name: peer["seconds"] for name, peer in measured.items()}
            task.keep(found)
    return found


def steps(task: Task) -> Found:
    """Time steps of training, and see that a graph computes the bits of an eager step."""
    _need_configurations()
    step_times = importlib.import_module("steps")
    found: Found = {"wrong": {}, "workloads": {}}
    for name, value in step_times.examine(task.backend, tiny=task.tiny):
        found["workloads"][name] = value
        bad = {way: said for way, said in value.items() if said == "DIFFERS" or way == step_times.FAILED}
        found["wrong"] |= {f"{name}, {way}": said for way, said in bad.items()}
        task.keep(found)
    return found


def auto(task: Task) -> Found:
    """Time steps from small to large here and on the CPU, beside what ``backend: auto`` expects of them."""
    _need_configurations()
    step_times = importlib.import_module("steps")
    found: Found = {"judge": _judge(task.backend), "sizes": {}}
    for name, value in step_times.beside(task.backend, found["judge"], tiny=task.tiny):
        found["sizes"][name] = value
        task.keep(found)
    return found


def members(task: Task) -> Found:
    """Time steps of many small networks at once, in one launch where the backend has such, beside one alone."""
    _need_configurations()
    side_by_side = importlib.import_module("members")
    found: Found = {"networks": {}}
    networks = {"16-32-4, batch 8": ((16, 32, 4), 8, 0.0)} if task.tiny else side_by_side.NETWORKS
    for name, (widths, batch, _) in networks.items():
        for count in (1, 3) if task.tiny else MEMBERS:
            loop = side_by_side.begun(widths, batch, count, task.backend)
            side_by_side.epochs(loop, 1 if task.tiny else 3)
            seconds = min(side_by_side.epochs(loop, 1 if task.tiny else 3)) / side_by_side.BATCHES
            found["networks"][f"{name}, {count} at once"] = {
                "µs a step of all": round(1e6 * seconds, 2),
                "µs a step of one": round(1e6 * seconds / count, 3),
                "a block each": count > 1 and loop.loops[0].parts.backend.one_block,
            }
            task.keep(found)
    return found


def facts(task: Task) -> Found:
    """Ask for every fact of :mod:`device`."""
    found: Found = {}
    for name, value in examine(backends.get(task.backend), small=task.tiny):
        found[name] = value
        task.keep(found)
    return found
