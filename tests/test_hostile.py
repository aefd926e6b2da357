"""Hostile input, thousands of it: whatever is in a file, the answer is a result or one error of the right kind.

The inputs come from a seeded generator, so a failure comes again. Warnings are errors, as in all tests.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

from gpumlp.config import dump, load
from gpumlp.data import Dialect, prepare_files
from gpumlp.errors import ConfigError, DataError

COUNT = 2000
SLOWEST = 3.0  # seconds of the processor for one small input; far more than any takes, far less than a hang

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


def survive(make: Callable[[random.Random], Callable[[], None]], error: type[Exception]) -> dict[str, int]:
    """Run ``COUNT`` attempts; count those that end well and those that end in the error that is allowed."""
    outcomes = {"good": 0, "refused": 0}
    for seed in range(COUNT):
        attempt = make(random.Random(seed))
        start = time.process_time()
        try:
            attempt()
            outcomes["good"] += 1
        except error as found:
            outcomes["refused"] += 1
            said = str(found)
            if not said.strip() or len(said) > 20_000:
                raise AssertionError(f"seed {seed}: nothing is said, or a flood") from found
        except Exception as other:
            raise AssertionError(f"seed {seed}: {type(other).__name__}: {other}") from other
        assert time.process_time() - start < SLOWEST, f"seed {seed}: too slow"
    return outcomes


def test_the_loader_of_configurations(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(TABLE)
    path = tmp_path / "run.yaml"

    def make(rng: random.Random) -> Callable[[], None]:
        path.write_bytes(hostile(rng, CONFIG, CONFIG_PIECES))
        keys = rng.choices(
            ["data", "train", "name", "model.hidden", "0", "units", "", "loss", "x"], k=rng.randint(1, 3)
        )
        overrides = [f"{'.'.join(keys)}={rng.choice(CONFIG_PIECES)}"] * (rng.random() < 0.2)

        def attempt() -> None:
            loaded = load(path, overrides)
            dump(loaded.settings, folder=tmp_path)

        return attempt

    outcomes = survive(make, ConfigError)
    assert ConfigError.exit_code == 2
    assert min(outcomes.values()) > COUNT / 50  # neither too easy nor hopeless


def test_the_reader_of_tables(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"

    def make(rng: random.Random) -> Callable[[], None]:
        path.write_bytes(hostile(rng, TABLE, CELLS))
        known = Dialect(
            separator=rng.choice([None] * 6 + [",", ";", " "]),
            quote=rng.choice([None] * 6 + ["double", "single", "none"]),
            header=rng.choice([None] * 6 + [True, False]),
            encoding=rng.choice([None] * 6 + ["utf-8", "utf-16", "latin-1"]),
            decimal=rng.choice([None] * 6 + [".", ","]),
        )
        task = rng.choice(["classification", "regression"])
        target = rng.choice(["y", "w", -1, 0, "column_1"])

        def attempt() -> None:
            prepared = prepare_files(path.name, folder=tmp_path, task=task, target=target, dialect=known, test=0)
            prepared.encoder.to_state()

        return attempt

    outcomes = survive(make, DataError)
    assert DataError.exit_code == 3
    assert min(outcomes.values()) > COUNT / 50
