"""Hostile files by the hundred thousand: whatever is in one, the answer is a result or one error of the right kind.

    python -m tests.fuzz configs --count 100000          configurations
    python -m tests.fuzz data --count 100000             data files of eight kinds
    python -m tests.fuzz data --guided --count 100000    inputs that reach new lines first (pip install atheris)

Input number N comes from the seed N, so a failure comes again with ``--start N --count 1``. Each has ``HANG_S``
seconds and the process ``MEMORY_BYTES``. Guided, the inputs depend on what atheris finds; it keeps one that fails.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import random
import resource
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FunctionType

import duckdb
import numpy as np

from gpumlp.config import dump, load
from gpumlp.data import Dialect, prepare_files
from gpumlp.errors import ConfigError, DataError, GpumlpError

HANG_S = 20
MEMORY_BYTES = 4 << 30
LONGEST_MESSAGE = 20_000

CONFIG = """\
task: classification
data:
  train: a.csv
  target: y
  split: {validation: 0.2, test: 0}
  scaling: quantile
  separator: ","
  header: true
  missing: ["", "?"]
  drop: [w, 0]
model: {hidden: [8, {units: 4, activation: tanh, dropout: 0.5, norm: batch}], initializer: auto}
loss: {class_weight: {a: 1, b: 2.5}, label_smoothing: 1e-7}
optimizer: {name: momentum, momentum: 0, clip_norm: 1, averaging: 0.99}
schedule: {name: one_cycle, warmup: 0.1}
training: {epochs: 1, batch_size: 1, seed: 4294967295, early_stopping: {patience: 3}}
backend: numpy
precision: float64
"""

CONFIG_PIECES = [
    *("1e39", "-1e-39", "1e999", ".nan", "-.inf", "9" * 5000, "0x", "null", "~", "[]", "{}", "[[[[", "}}", "''", '"'),
    *("&a [*a, *a]", "&b {c: *b}", "*nowhere", "!!python/object:os.system x", "!!binary aGk=", "!!int x", "<<: {}"),
    *("{name: {name: x}}", "- - - -", "? x", "|\n  x", ">-\n", "%YAML 9.9\n", "---\n", "...\n", "# \x85", "\t", "\0"),
    *('"\\uD800"', '"\\UFFFFFFFF"', "é" * 300, "\u2028", "\ufeff", "auto", "cupy", "huber", "{units: 2}", "true"),
    *(
        "version: 99\n",
        "data:\n",
        "  target: [1]\n",
        "task: regression\n",
        ": ",
        "x: " * 50,
        "[" * 2000,
        "{a: " * 500,
    ),
]

TABLE = "id,y,w,text\n" + "".join(f"{i},{'ab'[i % 2]},{i % 7}.5,{'xyz'[i % 3]} {i % 2}\n" for i in range(30))

CELLS = [
    *('"', '""', '"""', "'", ",", ";", "\t", "|", " ", "\n", "\r", "\r\n", "\n\n", "\0", "\ufeff", "\u2028", "\x85"),
    *("1e999", "-1e39", "1e-400", "nan", "inf", "-inf", "NaN", "1_0", "0x1", "1,5", "1.234,5", "٣", "½", "9" * 400),
    *("?", "-", "NA", "é", "𝟘", "|comment", "#", "=1+1", "true", "a" * 200_000, ",,,,,,,,", '","', "1;2;3\n" * 9),
]


def mangled(rng: random.Random, text: str, pieces: list[str]) -> bytes:
    """Return the text with pieces put in, cut out, repeated or exchanged, and perhaps some bytes changed."""
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(text) + 1)
        end = min(len(text), start + rng.choice([0, 0, 1, 5, 40]))
        piece = rng.choice([*pieces, "", text[start : start + rng.randrange(80)]])
        text = text[:start] + piece * rng.choice([1, 1, 1, 3]) + text[end:]
    encoding = rng.choice(["utf-8"] * 6 + ["utf-16", "utf-16-le", "latin-1", "utf-32"])
    content = bytearray(text.encode(encoding, "replace"))
    for _ in range(rng.choice([0, 0, 0, 1, 20])):
        content[rng.randrange(len(content) or 1) : rng.randrange(len(content) + 1)] = rng.randbytes(rng.randrange(3))
    return bytes(content[: rng.choice([None, None, None, rng.randrange(len(content) + 1)])])


def hostile(rng: random.Random, text: str, pieces: list[str]) -> bytes:
    """Return an input: nearly right, made of pieces only, or noise."""
    match rng.randrange(10):
        case 0:
            return rng.randbytes(rng.randrange(200))
        case 1:
            return "".join(rng.choices([*pieces, "a", ",", "\n", " "], k=rng.randrange(30))).encode(
                "utf-8", "replace"
            )
        case 2 | 3:
            return "".join(line for line in text.splitlines(keepends=True) if rng.random() > 0.1).encode()
        case _:
            return mangled(rng, text, pieces)


@dataclass
class Outcomes:
    """What became of the inputs so far."""

    good: int = 0
    refused: int = 0
    slowest: float = 0.0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, object]:
        """Return the figures, with the most memory that the process had."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return {**self.__dict__, "peak_memory_mb": round(peak / 1e6)}


@dataclass(frozen=True)
class Subject:
    """What reads hostile files.

    Parameters
    ----------
    error : the one that it may end in
    write : writes the file of a generator into a folder and returns its name
    read : reads the file of this name in a folder, by settings that a generator draws
    """

    error: type[GpumlpError]
    write: Callable[[random.Random, Path], str]
    read: Callable[[random.Random, Path, str], None]


def write_config(rng: random.Random, folder: Path) -> str:
    """Write a configuration."""
    (folder / "run.yaml").write_bytes(hostile(rng, CONFIG, CONFIG_PIECES))
    return "run.yaml"


def read_config(rng: random.Random, folder: Path, name: str) -> None:
    """Read a configuration, perhaps with one setting given on the command line, and write it out."""
    keys = rng.choices(["data", "train", "name", "model.hidden", "0", "units", "", "loss", "x"], k=rng.randint(1, 3))
    overrides = [f"{'.'.join(keys)}={rng.choice(CONFIG_PIECES)}"] * (rng.random() < 0.2)
    dump(load(folder / name, overrides).settings, folder=folder)


def whole_files(folder: Path) -> dict[str, bytes]:
    """Return a small file of each kind that is read, as it should be."""
    rng = np.random.default_rng(0)
    arrays = {"x": rng.normal(size=(30, 3)), "y": np.arange(30) % 2, "w": rng.random(30).astype(np.float16)}
    packed, plain, one = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.savez_compressed(packed, **arrays)
    np.savez(plain, **arrays)
    np.save(one, arrays["x"].astype(">f4"))
    rows = [line.split(",") for line in TABLE.splitlines()]
    records = [json.dumps(dict(zip(rows[0], row, strict=True))) for row in rows[1:]]
    header = (
        "@relation r\n@attribute id numeric\n@attribute y {a,b}\n@attribute w real\n@attribute text string\n@data\n"
    )
    (folder / "whole.csv").write_text(TABLE)
    duckdb.sql(f"COPY (FROM '{folder / 'whole.csv'}') TO '{folder / 'whole.parquet'}'")
    return {
        "a.npz": packed.getvalue(),
        "b.npz": plain.getvalue(),
        "a.npy": one.getvalue(),
        "a.jsonl": "\n".join(records).encode(),
        "a.arff": (header + "\n".join(",".join(row) for row in rows[1:])).encode(),
        "a.parquet": (folder / "whole.parquet").read_bytes(),
        "a.csv.gz": gzip.compress(TABLE.encode()),
        "a-idx3-ubyte": bytes([0, 0, 8, 3, 0, 0, 0, 4, 0, 0, 0, 2, 0, 0, 0, 2, *range(16)]),
    }


WHOLE: dict[str, bytes] = {}
"""Files of all kinds but CSV, by name; made when the first is asked for."""


def write_data(rng: random.Random, folder: Path) -> str:
    """Write a data file: in six of ten cases a CSV, else one of another kind with bytes changed, cut or put in."""
    if rng.random() < 0.6:
        (folder / "a.csv").write_bytes(hostile(rng, TABLE, CELLS))
        return "a.csv"
    if not WHOLE:
        WHOLE.update(whole_files(folder))
    name = rng.choice(list(WHOLE))
    content = bytearray(WHOLE[name])
    for _ in range(rng.choice([0, 1, 1, 2, 8])):
        place = min(len(content) - 1, rng.choice([rng.randrange(len(content)), rng.randrange(100)]))
        new = rng.choice([rng.randbytes(1), rng.randbytes(4), b"\xff" * 4, b"\0" * 8, rng.choice(CELLS)[:9].encode()])
        content[place : place + rng.choice([0, len(new)])] = new
    (folder / name).write_bytes(content[: rng.choice([None, None, rng.randrange(len(content) + 1)])])
    return name


def read_data(rng: random.Random, folder: Path, name: str) -> None:
    """Prepare a data file as a task."""
    known = Dialect(
        separator=rng.choice([None] * 6 + [",", ";", " "]),
        quote=rng.choice([None] * 6 + ["double", "single", "none"]),
        header=rng.choice([None] * 6 + [True, False]),
        encoding=rng.choice([None] * 6 + ["utf-8", "utf-16", "latin-1"]),
        decimal=rng.choice([None] * 6 + [".", ","]),
    )
    task = rng.choice(["classification", "regression"])
    target = rng.choice(["y", "w", -1, 0, "column_1"])
    prepared = prepare_files(name, folder=folder, task=task, target=target, dialect=known, test=0)
    prepared.encoder.to_state()


SUBJECTS = {
    "configs": Subject(ConfigError, write_config, read_config),
    "data": Subject(DataError, write_data, read_data),
}


class HangError(BaseException):
    """An input took too long. Nothing catches it on its way."""


def attempt(subject: Subject, rng: random.Random, folder: Path, outcomes: Outcomes, label: str) -> None:
    """Make one input, read it and count what comes of it."""
    name = subject.write(rng, folder)
    start = time.process_time()
    signal.setitimer(signal.ITIMER_REAL, HANG_S)
    try:
        subject.read(rng, folder, name)
        outcomes.good += 1
    except subject.error as error:
        outcomes.refused += 1
        said = str(error)
        if not said.strip() or len(said) > LONGEST_MESSAGE:
            outcomes.failures.append(f"{label}: a message of {len(said)} characters")
    except (Exception, HangError) as error:
        outcomes.failures.append(f"{label}: {type(error).__name__}: {error}"[:300])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    seconds = time.process_time() - start
    outcomes.seconds += seconds
    outcomes.slowest = max(outcomes.slowest, seconds)


def _hang(*_: object) -> None:
    raise HangError(f"more than {HANG_S} seconds")


def survive(subject: Subject, seeds: range, folder: Path) -> Outcomes:
    """Read the inputs of these seeds."""
    outcomes = Outcomes()
    (folder / "a.csv").write_text(TABLE)
    before = signal.signal(signal.SIGALRM, _hang)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for seed in seeds:
                attempt(subject, random.Random(seed), folder, outcomes, f"seed {seed}")
    finally:
        signal.signal(signal.SIGALRM, before)
    return outcomes


class Bytes(random.Random):
    """A generator that draws what the bytes of a fuzzer say, and its own numbers once they are used up."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self._stream = io.BytesIO(content)

    def random(self) -> float:
        """Return a number in [0, 1)."""
        two = self._stream.read(2)
        return int.from_bytes(two, "big") / 65536 if len(two) == 2 else super().random()

    def getrandbits(self, k: int) -> int:
        """Return k bits."""
        size = min(2, (k + 7) // 8)
        some = self._stream.read(size)
        return int.from_bytes(some, "big") % (1 << k) if len(some) == size else super().getrandbits(k)


def functions_of(subject: Subject) -> list[Callable[..., object]]:
    """Return the functions and methods of the package that reads the files of a subject."""
    package = "gpumlp.config" if subject.error is ConfigError else "gpumlp.data"
    modules = [module for name, module in sys.modules.items() if name.startswith(package)]
    owners = [*modules, *(c for m in modules for c in vars(m).values() if isinstance(c, type))]
    found = [value for owner in owners for value in vars(owner).values() if isinstance(value, FunctionType)]
    return list(dict.fromkeys(each for each in found if each.__module__.startswith(package)))


def survive_guided(subject: Subject, count: int, folder: Path) -> None:
    """Read inputs that atheris chooses by the lines that they reach; ends the process."""
    import atheris  # type: ignore[import-not-found]  # asked for by --guided alone

    outcomes = Outcomes()
    (folder / "a.csv").write_text(TABLE)
    signal.signal(signal.SIGALRM, _hang)

    def one(content: bytes) -> None:
        attempt(subject, Bytes(content), folder, outcomes, "an input")
        if outcomes.good + outcomes.refused >= count or outcomes.failures:
            print(json.dumps(outcomes.to_json()), flush=True)
        if outcomes.failures:
            raise AssertionError(outcomes.failures[0])

    for function in functions_of(subject):
        atheris.instrument_func(function)
    atheris.Setup([sys.argv[0], f"-runs={count}", "-max_len=400", "-rss_limit_mb=0"], one)
    atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subject", choices=list(SUBJECTS))
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--start", type=int, default=0, help="first seed")
    parser.add_argument("--guided", action="store_true", help="let atheris choose the inputs")
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    subject = SUBJECTS[options.subject]
    with tempfile.TemporaryDirectory() as scratch:
        if options.guided:
            survive_guided(subject, options.count, Path(scratch))
        outcomes = survive(subject, range(options.start, options.start + options.count), Path(scratch))
    print(json.dumps(outcomes.to_json()))
    return 1 if outcomes.failures else 0


if __name__ == "__main__":
    sys.exit(main())
