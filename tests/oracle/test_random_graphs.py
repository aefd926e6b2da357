"""A sample of the random graphs, and what they would see."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra 'oracle': pip install gpumlp[oracle]")

from gpumlp import autodiff as ad
from gpumlp.ops import ACTIVATIONS, LOSS_RECORDS
from oracle import random_graphs
from oracle.random_graphs import BINARY, LAYERS, LOSSES, REDUCTIONS, TOLERANCE, UNARY, compare, draw

SAMPLE = 60


def test_a_sample_agrees():
    report = compare(range(10_000, 10_000 + SAMPLE))
    assert report.failed == []
    assert report.zeros > SAMPLE / 2
    assert report.repeated > SAMPLE / 2


def test_every_operation_is_drawn():
    """So that what is compared is what there is; every record of an activation and a loss among it."""
    names = {step.name for seed in range(250) for step in draw(seed).operations}
    shapes = {"transpose", "reshape", "slice", "reverse", "take", "concat", "stack", "broadcast"}
    assert names == {*UNARY, *BINARY, *REDUCTIONS, *LAYERS, *LOSSES, *shapes}
    assert set(ACTIVATIONS) <= set(UNARY)
    assert set(LOSS_RECORDS) == set(LOSSES)


@pytest.mark.parametrize(
    ("name", "wrong", "order"),
    [
        ("maximum", lambda a, b: ad.where(a >= b, a, b), 1),  # another way with ties
        ("softplus", lambda x: ad.maximum(x, 0.0) + ad.log1p(ad.exp(-ad.abs(x))), 1),  # a seam at 0
        ("square", lambda x: x * ad.Tensor(x.numpy()) * 2.0 - ad.Tensor(x.numpy() ** 2), 2),  # cut from the tape
    ],
)
def test_a_planted_fault_is_seen(monkeypatch: pytest.MonkeyPatch, name, wrong, order):
    table = UNARY if name in UNARY else BINARY
    monkeypatch.setitem(table, name, (wrong, table[name][1]))
    seeds = [seed for seed in range(120) if any(step.name == name for step in draw(seed).operations)][:12]
    with np.errstate(all="ignore"):
        report = compare(seeds)
    assert report.failed
    assert any(errors[order] > TOLERANCE for _, errors in report.failed)
    assert random_graphs.error([np.array([1.0])], [np.array([np.nan])]) == np.inf
