"""What each precision costs in accuracy: whole runs of the shipped configurations, from several seeds.

    python benchmarks/precision.py [--only digits ...] [--precisions bf16 ...] [--seeds 3] [--json FILE]
    python benchmarks/precision.py --read FILE ...

A seed decides the split, the first weights and the order of batches; the same seeds are run in every precision. Each
number is measured on the test rows of a run: the median over the seeds, and behind it the lowest and the highest.
`difference` is the median, over the seeds, of what a precision changes against float32.

The numbers of a run depend on the precision and not on who computes, so all is computed on this processor. It has no
TF32: its products are emulated, their operands rounded to 10 bits of mantissa as `cvt.rna.tf32.f32` does (to the
nearest, of two equally near ones away from zero), their sums float32. MNIST is read from the folder in GPUMLP_DATA.
`--read` shows the figures of earlier calls instead of training.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from reader import until_reader_leaves

from gpumlp import backend as backends
from gpumlp.backend import BACKENDS, NativeBackend
from gpumlp.config import load
from gpumlp.ops.precision import PRECISIONS
from gpumlp.runs import train

CONFIGS = Path(__file__).parent.parent / "configs"
LARGER = Path(os.environ.get("GPUMLP_DATA", CONFIGS.parent.parent / "shared" / "data"))
ALL = ("breast_cancer", "digits", "diabetes", "bikeshare", "diamonds", "adult", "mnist")
FOLDERS = {"mnist": LARGER / "mnist"}
REFERENCE = "float32"
SHOWN = {"classification": ("accuracy", 100.0, "accuracy, %"), "regression": ("r2", 1.0, "R²")}

Found = dict[str, dict[str, Any]]


def to_tf32(x: np.ndarray[Any, Any], *, out: np.ndarray[Any, Any] | None) -> np.ndarray[Any, Any]:
    """Return float32 numbers rounded to 10 bits of mantissa, of two equally near ones the one away from zero."""
    out = np.empty_like(x) if out is None else out
    bits = x.view(np.uint32)
    np.add(bits, np.uint32(1 << 12), out=out.view(np.uint32), where=np.isfinite(x))
    np.copyto(out, x, where=~np.isfinite(x))
    out.view(np.uint32)[...] &= np.uint32(~((1 << 13) - 1) & 0xFFFFFFFF)
    return out


class EmulatedTf32(NativeBackend):
    """This processor, with products that see their operands as TF32 does."""

    def __init__(self, *, tf32: bool) -> None:
        super().__init__()  # sums and products in float32
        self.tf32 = tf32

    def matmul(self, a: Any, b: Any, out: Any = None) -> Any:
        a, b = (self.compute("round", to_tf32, x) for x in (a, b))
        return super().matmul(a, b, out)


def run(name: str, precision: str, seed: int) -> dict[str, Any]:
    """Train a configuration as it is shipped, but for precision and seed; return the metrics of its test rows."""
    overrides = [f"precision={precision}", f"training.seed={seed}", "backend=native"]
    if name in FOLDERS:
        overrides.append(f"data.folder={FOLDERS[name]}")
    BACKENDS["native"] = EmulatedTf32 if PRECISIONS[precision].tf32 else NativeBackend
    loaded = load(CONFIGS / f"{name}.yaml", overrides)
    with tempfile.TemporaryDirectory() as folder:
        summary = train(loaded, Path(folder) / "run").summary
    return {"task": loaded.settings.task, "seconds": summary["seconds"], **summary["metrics"]["test"]}


def table(found: Found) -> str:
    """Return the figures as a table in Markdown."""
    lines = [
        "| configuration | precision | test | lowest to highest | difference | loss |",
        "|---|---|---|---|---|---|",
    ]
    for name, by_precision in found.items():
        task = by_precision[REFERENCE][0]["task"]
        key, factor, title = SHOWN[task]
        digits = 2 if factor == 100 else 4
        for precision, runs in by_precision.items():
            values = [factor * each[key] for each in runs]
            changes = [factor * (a[key] - b[key]) for a, b in zip(runs, by_precision[REFERENCE], strict=True)]
            cells = (
                f"{name} ({title})",
                precision,
                f"{statistics.median(values):.{digits}f}",
                f"{min(values):.{digits}f} to {max(values):.{digits}f}",
                "" if precision == REFERENCE else f"{statistics.median(changes):+.{digits}f}",
                f"{statistics.median(each['loss'] for each in runs):.4f}",
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", nargs="+", choices=(*ALL, "fashion_mnist"), default=ALL, help="these configurations"
    )
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS, help="besides float32")
    parser.add_argument("--seeds", type=int, default=3, help="how many runs of each (default: 3)")
    parser.add_argument("--json", type=Path, help="write every figure here")
    parser.add_argument("--read", type=Path, nargs="+", help="show the figures of these files, and train nothing")
    options = parser.parse_args()
    if missing := [str(file) for file in options.read or () if not file.is_file()]:
        parser.error(f"no such file: {', '.join(missing)}")
    found: Found = {}
    for file in options.read or ():
        found |= json.loads(file.read_text())["found"]
    for name in () if options.read else options.only:
        found[name] = {precision: [] for precision in (REFERENCE, *options.precisions)}
        for seed in range(options.seeds):
            for precision, runs in found[name].items():
                runs.append(run(name, precision, seed))
                print(f"{name} {precision} {seed}: {runs[-1]}", flush=True)
    print(table(found))
    if options.json:
        machine = {"machine": platform.processor() or platform.machine(), "backend": backends.get("native").name}
        record = {**machine, "numpy": np.__version__, "seeds": options.seeds, "found": found}
        options.json.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    until_reader_leaves(main)
