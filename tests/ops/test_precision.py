"""Precisions: what each stores and computes in, and what is said where bfloat16 cannot be had."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from gpumlp.errors import ConfigError
from gpumlp.ops.precision import PRECISIONS, dtype_of, is_floating, is_narrow, wide


@pytest.mark.parametrize(
    ("name", "stored", "kept", "tf32"),
    [
        ("float32", "float32", "float32", False),
        ("float64", "float64", "float64", False),
        ("tf32", "float32", "float32", True),
        ("bf16", "bfloat16", "float32", False),
    ],
)
def test_what_each_precision_stores_and_keeps(name: str, stored: str, kept: str, tf32: bool) -> None:
    precision = PRECISIONS[name]
    assert (precision.dtype.name, wide(precision.dtype).name, precision.tf32) == (stored, kept, tf32)
    assert precision.trained == wide(precision.dtype)
    assert is_narrow(precision.dtype) == (stored != kept)
    assert is_floating(precision.dtype)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8, np.bool_, "V2", "<U3"])
def test_what_is_no_floating_point_stays_as_it_is(dtype: object) -> None:
    assert not is_floating(dtype)
    assert not is_narrow(dtype)
    assert wide(dtype) == np.dtype(dtype)


def test_without_its_package_bfloat16_is_refused_with_the_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(ConfigError, match=r"precision: bfloat16 needs .*ml_dtypes") as caught:
        dtype_of("bfloat16")
    assert "pip install 'gpumlp[bf16]'" in str(caught.value)
    assert dtype_of("float32") == np.float32
