"""The checked form finds what is wrong in a kernel, and nothing in what is right."""

from __future__ import annotations

import re
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import pytest
from agreement import check_agreement
from checked.machine import CheckedBackend, KernelError, Machine
from support import FLOATS, directions

from gpumlp.backend import geometry
from gpumlp.backend.kernels import required_folder
from gpumlp.checks.agreement import Shift, alike, askew, straight
from gpumlp.ops import RECORDS

TEXTS = {path.name: path.read_text(encoding="utf-8") for path in required_folder().glob("*.cu*")}
ENTRIES = {RECORDS[name].entry(direction): (RECORDS[name], direction) for name, direction in directions()}


def run_with(machine: Machine, file: str, text: str, kernel: str, shape: tuple[int, int], shift: Shift) -> None:
    """Run a kernel with another text in the place of a file, and compare it with its formula."""
    with closing(Machine(machine.folder, {file: text})) as changed:
        op, direction = ENTRIES[kernel]
        check_agreement(CheckedBackend(changed), op, direction, *shape, np.float32, shift)


@dataclass
class Bug:
    """A mistake planted in a text: what becomes of what, where it shows, and the report that names it."""

    file: str
    right: str
    wrong: str
    kernel: str
    report: str
    shape: tuple[int, int] = (5, 40)
    shift: Shift = straight


PRELUDE = "prelude.cuh"
BLOCK = (2, 1025)  # a row to each block
BUGS = {
    # ---- barriers and shuffles
    "barrier in a branch": Bug(
        PRELUDE,
        "if (thread() % WARP == 0) of_warp[thread() / WARP] = x;\n    __syncthreads();",
        "if (thread() % WARP == 0) { of_warp[thread() / WARP] = x; __syncthreads(); }",
        "softmax_forward",
        r"uninitialised read: .* reads shared memory \(fold_block.*of_warp \+ \d+ bytes\) at prelude.cuh:\d+",
        BLOCK,
    ),
    "return before a barrier": Bug(
        "loss.cuh",
        "second = block_sum(second);\n    if (thread() != 0) return;",
        "if (thread() != 0) return;\n    second = block_sum(second);",
        "huber_forward",
        r"divergent shuffle: of block \(0, 0\), 1 threads .* for lanes 0xffffffff, 255 have returned",
    ),
    "return before a barrier alone": Bug(
        PRELUDE,
        "    __syncthreads();\n    x = of_warp[0];",
        "    if (thread() > 40) return x;\n    __syncthreads();\n    x = of_warp[0];",
        "gradient_norm_forward",
        r"return before a barrier: of block \(0, 0\), 41 threads .* wait at the barrier at prelude.cuh:\d+",
    ),
    "two barriers instead of one": Bug(
        PRELUDE,
        "    __syncthreads();\n    x = of_warp[0];",
        "    if (thread() < WARP) {\n        __syncthreads();\n    } else {\n        __syncthreads();\n    }\n"
        "    x = of_warp[0];",
        "gradient_norm_forward",
        r"divergent barrier: of block \(0, 0\), 32 threads from \(0, 0\) .*, 224 threads",
    ),
    "mask of the whole warp for a part of it": Bug(
        PRELUDE,
        "u32 mask = width == WARP ? 0xffffffffu :",
        "u32 mask = width > 0 ? 0xffffffffu :",
        "softmax_forward",
        "divergent shuffle: .* for lanes 0xffffffff",
        (3, 5),
    ),
    "mask of the first team for every team": Bug(
        PRELUDE,
        " << (thread() % WARP / width * width);",
        ";",
        "softmax_forward",
        r"softmax_forward: wrong mask: thread \(\d, \d\) .* is not among the lanes 0xff",
        (3, 5),
    ),
    "shuffle with a lane outside of the mask": Bug(
        PRELUDE, "int d = width / 2; d > 0", "int d = width; d > 0", "softmax_forward", "wrong mask", (3, 5)
    ),
    "shift by the width of its type": Bug(
        PRELUDE, "width == WARP ? 0xffffffffu : ", "", "softmax_forward", "arithmetic: .* a shift by more bits"
    ),
    # ---- one thread's work done by all, or by none
    "every thread leaves the sum": Bug(
        "gradient_norm.cu",
        "if (thread() == 0) scratch",
        "scratch",
        "gradient_norm_forward",
        r"gradient_norm_forward: race: .* writes scratch\[0\] at gradient_norm.cu:8, which thread .* wrote too",
    ),
    "every lane leaves the mean": Bug(
        "layer_norm.cu", "if (lane() == 0) {", "{", "layer_norm_forward", r"race: .* writes mean\[\d\]"
    ),
    "every team leaves the sums": Bug(
        "activation.cuh",
        "if (team() == 0) OWNED(k, c, c0, cols) scratch",
        "OWNED(k, c, c0, cols) scratch",
        "tanh_bias_backward",
        r"race: .* writes scratch\[\d+\]",
    ),
    "no thread leaves the sum": Bug(
        "gradient_norm.cu",
        "if (thread() == 0) scratch",
        "if (thread() < 0) scratch",
        "gradient_norm_forward",
        r"gradient_norm_forward_finish: uninitialised read: .* scratch\[0\]",
    ),
    # ---- bounds and tails
    "one element too many": Bug(
        PRELUDE, "i < (n); i += gridDim", "i <= (n); i += gridDim", "accumulate_forward", "out of bounds: .* behind"
    ),
    "one column too many": Bug(
        PRELUDE,
        "c < (cols); c += lanes()",
        "c <= (cols); c += lanes()",
        "layer_norm_forward",
        r"out of bounds: .* at layer_norm.cu:\d+|race",
        (1, 40),
    ),
    "one vector too many": Bug(
        PRELUDE,
        "(n - head) / PACK<T>, tail",
        "(n - head + 3) / PACK<T>, tail",
        "tanh_forward",
        "out of bounds",
        (5, 7),
    ),
    "no tail": Bug(
        PRELUDE, "j < head + n - tail;", "j < head;", "tanh_forward", r"output not written: y\[32\] of 35", (5, 7)
    ),
    "no head": Bug(
        PRELUDE, "j < head ? j : tail + j - head", "tail + j", "tanh_forward", "out of bounds", (5, 8), alike
    ),
    "no guard of the last four": Bug(
        "dropout.cu", "if (i + q < n) y[i", "y[i", "dropout_forward", r"out of bounds: .* at dropout.cu:\d+", (1, 5)
    ),
    "a shared array too small": Bug(
        PRELUDE,
        "T of_warp[32];",
        "T of_warp[4];",
        "gradient_norm_forward",
        r"out of bounds: .* uses index [4-7] of an array at prelude.cuh:\d+",
    ),
    "a shared array read beyond its warps": Bug(
        PRELUDE,
        "w < threads() / WARP; ++w",
        "w < 32; ++w",
        "gradient_norm_forward",
        r"uninitialised read: .* shared memory \(.*of_warp \+ 64 bytes\)|32 bytes\)",
    ),
    "a place beyond the batch": Bug(
        "gather.cu",
        "outside = left > 0;",
        "outside = false;",
        "gather_forward",
        r"out of bounds: thread \(\d, \d+\) of block \(0, 0\) reads 4 bytes, .* behind inputs",
        (33, 4),
    ),
    # ---- vectors
    "vectors from unaligned addresses": Bug(
        PRELUDE,
        "i64 head = (PACK<T> - at) % PACK<T>;",
        "i64 head = 0;",
        "tanh_forward",
        r"misaligned: .* uses (x|y)\[\d+\] as one of 16 bytes at once, 4 past such a place, at prelude.cuh:\d+",
        shift=alike,
    ),
    "vectors though the arrays differ": Bug(
        PRELUDE, "return together && head < n", "return head < n", "tanh_forward", "misaligned", shift=askew
    ),
    # ---- parts, blocks, scratch memory
    "rows that no part takes": Bug(
        PRELUDE,
        "return n * (blockIdx.y + (i64)1) / gridDim.y;",
        "return n / gridDim.y * (blockIdx.y + (i64)1);",
        "tanh_bias_backward",
        r"output not written: dx\[",
        (77, 40),
    ),
    "a row in two parts": Bug(
        PRELUDE,
        "return n * (blockIdx.y + (i64)1) / gridDim.y;",
        "return n * (blockIdx.y + (i64)1) / gridDim.y + (blockIdx.y + 1 < gridDim.y);",
        "tanh_bias_backward",
        r"race between blocks: .* of block \(\d, \d\) writes dx",
        (77, 40),
    ),
    "blocks that take the same rows": Bug(
        PRELUDE,
        "r < (rows); r += gridDim.x * (i64)teams()",
        "r < (rows); r += teams()",
        "layer_norm_forward",
        "race between blocks",
        (77, 40),
    ),
    "blocks that take the same elements": Bug(
        PRELUDE,
        "i64 i = blockIdx.x * (i64)threads() + thread();",
        "i64 i = thread();",
        "dropout_forward",
        "race between blocks",
        (77, 64),
    ),
    "a part forgotten in the end": Bug(
        PRELUDE,
        "for (i64 p = team(); p < (parts); p += teams())",
        "for (i64 p = team() + 1; p < (parts); p += teams())",
        "tanh_bias_backward",
        "differ",
        (77, 40),
    ),
    "parts that leave their sums in one place": Bug(
        "activation.cuh",
        "scratch[part() * cols + c]",
        "scratch[part() + c]",
        "tanh_bias_backward",
        r"race between blocks: .* writes scratch\[\d+\] at activation.cuh:\d+, which thread .* wrote too",
        (77, 40),
    ),
    "scratch memory read at another place": Bug(
        "columns.cuh",
        "scratch[p * pitch + c]",
        "scratch[p * pitch + c + 1]",
        "tanh_bias_backward",
        r"tanh_bias_backward_finish: uninitialised read: .* scratch\[\d+\]",
        (77, 40),
    ),
    # ---- values
    "a write to an input": Bug(
        "softmax.cu",
        "dx[r * cols + c] =",
        "((T*)dy)[r * cols + c] =",
        "softmax_backward",
        r"softmax_backward: write to an input: thread \(\d+, \d+\) .* writes dy\[\d+\] at softmax.cu:\d+",
    ),
    "an output read before it is written": Bug(
        "accumulate.cu",
        "result[i] = totals[i]",
        "result[i] += totals[i]",
        "accumulate_forward",
        r"uninitialised read: .* reads totals\[\d\] at accumulate.cu:3",
    ),
    "an accumulator that does not begin at 0": Bug(
        "softmax.cu", "wide<T> inner = 0;", "wide<T> inner;", "softmax_backward", "differ"
    ),
    "columns that do not begin at 0": Bug(
        "activation.cuh", "wide<T> sum[OWN] = {};", "wide<T> sum[OWN];", "tanh_bias_backward", "differ"
    ),
    "a loop that does not end": Bug(
        PRELUDE, "i += gridDim.x * (i64)threads()", "i += 0", "accumulate_forward", "no end: .* at accumulate.cu"
    ),
    "a parameter of another type": Bug(
        "moving_average.cu", "double momentum,", "i64 momentum,", "moving_average_forward", "wrong arguments"
    ),
}


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_found_and_named(machine: Machine, name: str) -> None:
    bug = BUGS[name]
    assert bug.right in TEXTS[bug.file], f"{bug.file} has changed: plant this bug anew"
    with pytest.raises(AssertionError, match=bug.report):
        run_with(machine, bug.file, TEXTS[bug.file].replace(bug.right, bug.wrong), bug.kernel, bug.shape, bug.shift)


BARRIERS = [
    (file, match.start())
    for file, text in TEXTS.items()
    if file != "blocks.cuh"  # between kernels, not in one: test_blocks.py leaves it out
    for match in re.finditer(r"__syncthreads\(\);", text)
]


@pytest.mark.parametrize(("file", "at"), BARRIERS)
def test_no_barrier_can_be_left_out(machine: Machine, file: str, at: int) -> None:
    text = TEXTS[file][:at] + TEXTS[file][at:].replace("__syncthreads();", "", 1)
    found = []
    for kernel in ("layer_norm_forward", "batch_norm_forward"):
        try:
            run_with(machine, file, text, kernel, BLOCK, straight)
        except KernelError as finding:
            found.append(str(finding))
    assert any(": race: " in each or ": uninitialised read: " in each for each in found)


@pytest.mark.parametrize("number", range(100))
def test_nothing_is_found_in_what_is_right(machine: Machine, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any operation, shape, dtype and alignment, in any order of threads, on devices of other sizes."""
    rng = np.random.default_rng(number)
    for name, values in (
        ("THREADS", (32, 64, 128, 256, 512, 1024)),
        ("LONG_ROW", (8, 32, 100, 1024)),
        ("MOST_BLOCKS", (1, 2, 7, 2048)),
        ("MOST_PARTS", (1, 3, 512)),
        ("PER_THREAD", (1, 4)),
    ):
        monkeypatch.setattr(geometry, name, int(rng.choice(values)))
    op, direction = ENTRIES[str(rng.choice(list(ENTRIES)))]
    rows, cols = (int(2 ** rng.uniform(0, 8)) for _ in range(2))
    shift, dtype = (straight, alike, askew)[rng.integers(3)], FLOATS[rng.integers(2)]
    check_agreement(CheckedBackend(machine, int(rng.integers(1 << 20))), op, direction, rows, cols, dtype, shift)
