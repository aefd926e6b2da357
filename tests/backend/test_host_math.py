"""kernels/host/host_math.h, the mathematical functions of the kernels on a CPU: accuracy, edge values, no calls."""

from __future__ import annotations

import ctypes
import math
import platform
import re
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

HEADER = Path(__file__).resolve().parents[2] / "kernels" / "host" / "host_math.h"
COMPILER = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
FLAGS = ["-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd", "-ffp-contract=fast", "-fPIC"]
# With and without fused multiply-add.
TARGETS = [["-march=native"], ["-march=x86-64"]] if platform.machine() in ("x86_64", "AMD64") else [[]]
NAMES = ["exp", "expm1", "log", "log1p", "log1p_unit", "tanh", "normal_cdf", "normal_pdf", "sinpi", "cospi"]
NORMAL = ("normal_cdf", "normal_pdf")  # where the error is counted in units of the value itself
WAVES = ("sinpi", "cospi")
INF, NAN = math.inf, math.nan
EPS32, EPS64 = 2.0**-23, 2.0**-52

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler: no c++, g++ or clang++ on the PATH")

SOURCE = f'#include "{HEADER.as_posix()}"\n' + "".join(
    f'extern "C" void {name}_{c_type}(const {c_type}* x, {c_type}* y, long n) {{\n'
    f'_Pragma("omp simd")\nfor (long i = 0; i < n; ++i) y[i] = gpumlp_math::{name}(x[i]);\n}}\n'
    for name in NAMES
    for c_type in ("float", "double")
)


def compile_source(folder: Path, target: list[str], *options: str, output: str) -> Path:
    source, result = folder / "host_math.cpp", folder / output
    source.write_text(SOURCE)
    command = [COMPILER, *FLAGS, *target, *options, str(source), "-o", str(result)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return result


@pytest.fixture(scope="module", params=TARGETS, ids=lambda target: " ".join(target) or "default")
def call(request, tmp_path_factory):
    """call(name, x): the function over the array, in x's type."""
    folder = tmp_path_factory.mktemp("host_math")
    library = ctypes.CDLL(str(compile_source(folder, request.param, "-shared", output="host_math.so")))

    def call(name, x):
        x = np.ascontiguousarray(x)
        y = np.empty_like(x)
        function = getattr(library, f"{name}_{'float' if x.dtype == np.float32 else 'double'}")
        function(ctypes.c_void_p(x.ctypes.data), ctypes.c_void_p(y.ctypes.data), ctypes.c_long(x.size))
        return y

    return call


def wave(name, x):
    """Return sin or cos of π x, which π in double is good for: what is multiplied is at most a quarter."""
    if not math.isfinite(x):
        return NAN
    quarters = round(Fraction(x) * 2)
    rest = math.pi * float(Fraction(x) - Fraction(quarters, 2)) if x else math.pi * x
    quarters += name == "cospi"
    value = math.cos(rest) if quarters % 2 else math.sin(rest)
    return -value if quarters % 4 > 1 else value


def exact(name, x):
    """Python's value for one double."""
    if name == "normal_cdf":
        z = x / math.sqrt(2)
        # erfc multiplies what the rounding of z loses by z²; e^(z² - x²/2) puts that right.
        right = math.exp(float(Fraction(z) ** 2 - Fraction(x) ** 2 / 2)) if -40 < x < 0 else 1
        return 0.5 * math.erfc(-z) * right
    if name == "normal_pdf":
        half = -(Fraction(x) ** 2) / 2 if abs(x) < 40 else Fraction(-800)
        rounded = float(half)
        return math.exp(rounded) * (1 + float(half - Fraction(rounded))) / math.sqrt(2 * math.pi)
    if name in WAVES:
        return wave(name, x)
    try:
        return getattr(math, name.removesuffix("_unit"))(x)
    except OverflowError:
        return INF
    except ValueError:
        return -INF if x == (-1 if name == "log1p" else 0) else NAN


def arguments(name, dtype, count):
    """Any bit pattern, numbers of everyday size, and the range where the function is neither 0 nor a constant.

    Those between 0 and 1, or NaN, where the function is for these alone.
    """
    rng = np.random.default_rng(7)
    bits = np.uint32 if dtype == np.float32 else np.uint64
    x = [rng.integers(0, np.iinfo(bits).max, count, bits, endpoint=True).view(dtype)]
    x += [rng.standard_normal(count), rng.uniform(-1, 1, count) * 10 ** rng.uniform(-9, 3, count)]
    x += [np.linspace(-1, 3, count), np.linspace(-20, 20, count)]
    if name in ("log", "log1p"):
        x = [*x, np.abs(x[1]), np.abs(x[2])]
    with np.errstate(all="ignore"):  # signalling NaNs
        everything = np.concatenate([part.astype(dtype) for part in x])
    return np.abs(everything[~(np.abs(everything) > 1)]) if name == "log1p_unit" else everything


def compare(name, x, y, expected):
    """The largest error, in units in the last place or (of the normal distribution) in eps; the rest must agree."""
    dtype = x.dtype.type
    with np.errstate(all="ignore"):
        rounded = expected.astype(dtype)
        np.testing.assert_array_equal(np.isnan(y), np.isnan(rounded))
        usual = np.isfinite(rounded) & np.isfinite(y)
        # Next to overflow, the one may be infinite and the other the largest number.
        edge = np.abs(expected) > 0.999999 * float(np.finfo(dtype).max)
        special = ~usual & ~np.isnan(rounded) & ~edge
        np.testing.assert_array_equal(y[special], rounded[special])
        unit = np.spacing(np.abs(rounded)).astype(np.float64)
        if name in NORMAL:
            unit = np.maximum(unit, np.abs(expected) * np.finfo(dtype).eps)
        error = np.abs(y.astype(np.float64) - expected) / unit
    error, at = error[usual], x[usual]
    worst = int(np.argmax(error))
    return error[worst], f"{name}({at[worst]!r}) is wrong by {error[worst]:.2f} units"


@pytest.mark.parametrize("name", NAMES)
def test_float_accuracy(call, name):
    x = arguments(name, np.float32, 50_001)
    with np.errstate(all="ignore"):
        wide = x.astype(np.float64)
        if name in NORMAL:
            expected = np.array([exact(name, v) if v == v else NAN for v in wide.tolist()])
        elif name in WAVES:
            turn = wide - 2 * np.rint(wide / 2)
            beyond = np.where(np.abs(turn) > 0.5, np.copysign(1, turn) - turn, turn)
            expected = np.sin(math.pi * (beyond if name == "sinpi" else 0.5 - np.abs(turn)))
        else:
            expected = getattr(np, name.removesuffix("_unit"))(wide)
    error, message = compare(name, x, call(name, x), expected)
    assert error * EPS32 <= (1e-6 if name in NORMAL else 2 * EPS32), message


@pytest.mark.parametrize("name", NAMES)
def test_double_accuracy(call, name):
    x = arguments(name, np.float64, 5_001)
    expected = np.array([exact(name, v) if v == v else NAN for v in x.tolist()])
    error, message = compare(name, x, call(name, x), expected)
    assert error * EPS64 <= (5e-15 if name in NORMAL else 4 * EPS64), message


CONSTANTS = [  # from mpmath, 40 digits
    ("exp", 1.0, 2.7182818284590452),
    ("exp", -1.5, 0.22313016014842983),
    ("exp", 700.25, 1.3022997366991784e304),
    ("exp", -708.0, 3.307553003638408e-308),
    ("expm1", 0.3466, 0.41425091185052867),
    ("expm1", -0.75, -0.52763344725898529),
    ("expm1", 1e-10, 1.00000000005e-10),
    ("expm1", 40.5, 3.8808469624362032e17),
    ("tanh", 0.0625, 0.062418746747512514),
    ("tanh", 0.3, 0.2913126124515909),
    ("tanh", -2.5, -0.98661429815143029),
    ("tanh", 1e-08, 9.9999999999999999e-9),
    ("log", 0.7071, -0.346583180371942),
    ("log", 1.001, 0.00099950033308342314),
    ("log", 3.0, 1.0986122886681097),
    ("log", 1e-310, -713.80137882815417),
    ("log1p", 0.625, 0.48550781578170081),
    ("log1p", -0.999, -6.9077552789821362),
    ("log1p", 1e-10, 9.9999999995000004e-11),
    ("log1p", 1e300, 690.77552789821371),
    ("log1p_unit", 0.4142, 0.34656400018800339),
    ("log1p_unit", 1.0, 0.69314718055994531),
    ("normal_pdf", 0.0, 0.39894228040143268),
    ("normal_pdf", -10.5, 4.5753755905208053e-25),
    ("sinpi", 1 / 3, 0.86602540378443862),
    ("sinpi", 1e-10, 3.1415926535897934e-10),
    ("cospi", 0.4, 0.30901699437494736),
    ("cospi", 0.49999, 3.1415926530761638e-05),
    ("cospi", 123456.25, 0.70710678118654752),
    ("normal_cdf", -0.5, 0.3085375387259869),
    ("normal_cdf", -3.0, 0.0013498980316300945),
    ("normal_cdf", -10.0, 7.6198530241605261e-24),
    ("normal_cdf", -37.5, 4.6053530095819548e-308),
    ("normal_cdf", 2.0, 0.97724986805182079),
]


@pytest.mark.parametrize(("name", "x", "expected"), CONSTANTS)
def test_doubles_from_mpmath(call, name, x, expected):
    (y,) = call(name, np.array([x]))
    assert y == pytest.approx(expected, rel=5e-15 if name in NORMAL else 8e-16, abs=0)


SPECIAL = [
    ("exp", [INF, -INF, NAN, 0.0, -0.0, 1e30, -1e30], [INF, 0.0, NAN, 1.0, 1.0, INF, 0.0]),
    ("expm1", [INF, -INF, NAN, 0.0, -0.0, 1e30, -1e30], [INF, -1.0, NAN, 0.0, -0.0, INF, -1.0]),
    ("log", [INF, -INF, NAN, 0.0, -0.0, -1e-30, 1.0], [INF, NAN, NAN, -INF, -INF, NAN, 0.0]),
    ("log1p", [INF, -INF, NAN, 0.0, -0.0, -1.0, -1.5], [INF, NAN, NAN, 0.0, -0.0, -INF, NAN]),
    ("tanh", [INF, -INF, NAN, 0.0, -0.0, 1e30, -1e30], [1.0, -1.0, NAN, 0.0, -0.0, 1.0, -1.0]),
    ("log1p_unit", [NAN, 0.0, 1e-30], [NAN, 0.0, 1e-30]),
    ("normal_pdf", [INF, -INF, NAN, 1e30, -1e30], [0.0, 0.0, NAN, 0.0, 0.0]),
    (
        "sinpi",
        [INF, -INF, NAN, 0.0, -0.0, 1e30, 0.5, 1.5, 4e6 + 0.5],
        [NAN, NAN, NAN, 0.0, -0.0, 0.0, 1.0, -1.0, 1.0],
    ),
    ("cospi", [INF, -INF, NAN, 0.0, -0.0, 1e30, 1.0, 16777215.0], [NAN, NAN, NAN, 1.0, 1.0, 1.0, -1.0, -1.0]),
    ("normal_cdf", [INF, -INF, NAN, 0.0, -0.0, 1e30, -1e30], [1.0, 0.0, NAN, 0.5, 0.5, 1.0, 0.0]),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("name", "x", "expected"), SPECIAL)
def test_special_values(call, name, x, expected, dtype):
    y = call(name, np.tile(np.array(x, dtype), 5))  # long enough for the vector loop and its remainder
    expected = np.tile(np.array(expected, dtype), 5)
    np.testing.assert_array_equal(y, expected)
    kept = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(y[kept]), np.signbit(expected[kept]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["expm1", "log1p", "log1p_unit", "tanh"])
def test_the_smallest_numbers_come_back_unchanged(call, name, dtype):
    limits = np.finfo(dtype)
    tiny = np.array([1e-30, limits.tiny, limits.smallest_subnormal, 7 * limits.smallest_subnormal, 1e-20] * 5, dtype)
    np.testing.assert_array_equal(call(name, tiny), tiny)
    if name != "log1p_unit":
        np.testing.assert_array_equal(call(name, -tiny), -tiny)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_underflow_is_gradual_and_overflow_comes_no_sooner_than_it_must(call, dtype):
    limits = np.finfo(dtype)
    low, high = np.log(float(limits.smallest_subnormal)), np.log(float(limits.max))
    y = call("exp", np.array([low + 0.7, low - 2, high * (1 - 1e-6), high * (1 + 1e-6)], dtype))
    np.testing.assert_array_equal(y == 0, [False, True, False, False])
    np.testing.assert_array_equal(np.isinf(y), [False, False, False, True])


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: " ".join(target) or "default")
def test_the_loops_call_nothing(tmp_path, target):
    text = compile_source(tmp_path, target, "-S", output="host.s").read_text()
    assert re.findall(r"^\s*(?:call|callq|bl)\s.*$", text, re.MULTILINE) == []
