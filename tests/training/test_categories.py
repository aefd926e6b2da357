"""Categories that are stored as codes train, measure and predict as the matrix of 0 and 1 does, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpumlp import backend as backends
from gpumlp.autodiff.coded import CodedRows
from gpumlp.backend.host.builder import compiler
from gpumlp.data import Dataset, Features
from gpumlp.nn import Dense, Loss, Sequential
from gpumlp.ops.batches import EXPAND
from gpumlp.ops.precision import PRECISIONS
from gpumlp.optim import Optimizer, Schedule
from gpumlp.training.device_data import outputs
from gpumlp.training.trainer import Trainer

ROWS, DENSE, FEW, MANY = 203, 5, (3, 40, 1), (3, 180, 1)
"""Values of each category: few, which are multiplied, and many, by whose codes weights are read."""
WIDTH = DENSE + sum(FEW)


def features(sizes: tuple[int, ...] = FEW, rows: int = ROWS) -> Features:
    """Return random rows; some have no category, as values that are new do."""
    rng, width = np.random.default_rng(1), DENSE + sum(sizes)
    starts = DENSE + np.cumsum([0, *sizes[:-1]])
    codes = np.stack(
        [start + rng.integers(size + 1, size=rows) for start, size in zip(starts, sizes, strict=True)], 1
    )
    for column, (start, size) in enumerate(zip(starts, sizes, strict=True)):
        codes[codes[:, column] == start + size, column] = width
    stored = np.concatenate([rng.standard_normal((rows, DENSE)), codes], axis=1).astype(np.float32)
    return Features(stored, DENSE, width)


def trained(
    rows: Features | np.ndarray[Any, Any], backend: str, precision: str, shards: int = 1
) -> tuple[dict[str, Any], np.ndarray]:
    labels = np.random.default_rng(2).integers(0, 3, len(rows)).astype(np.int32)
    chosen = PRECISIONS[precision]
    model = Sequential([Dense(16, "relu"), Dense(3, "softmax")])
    model.build(
        rows.width if isinstance(rows, Features) else rows.shape[1],
        backend=backends.get(backend, tf32=chosen.tf32),
        dtype=chosen.dtype,
        seed=0,
    )
    loss = Loss("cross_entropy", model)
    optimizer = Optimizer("adam", model.parameters, model.context.clock)
    schedule = Schedule("constant", learning_rate=1e-2)
    data = Dataset(rows, labels, None)
    trainer = Trainer(model, loss, optimizer, schedule, data, epochs=3, batch_size=32, shards=shards)
    for _ in range(3):
        trainer.run_epoch()
    return model.arrays(), np.concatenate([each.numpy() for each in outputs(model, data.features, 1.0, 64)])


@pytest.mark.parametrize(
    ("backend", "precision", "sizes", "shards"),
    [
        *(("numpy", precision, FEW, 1) for precision in PRECISIONS),  # the order of sums of MANY is its library's
        *(("native", precision, sizes, 1) for precision in PRECISIONS for sizes in (FEW, MANY)),
        ("native", "float32", MANY, 4),
    ],
)
def test_codes_train_as_their_matrix_does(backend: str, precision: str, sizes: tuple[int, ...], shards: int) -> None:
    if backend == "native" and compiler() is None:
        pytest.skip("there is no C++ compiler")
    if precision == "bf16":
        pytest.importorskip("ml_dtypes")
    rows = features(sizes)
    weights, predicted = trained(rows, backend, precision, shards)
    expected, answers = trained(rows.expanded(), backend, precision, shards)
    for name, array in expected.items():
        np.testing.assert_array_equal(weights[name], array, err_msg=name)
    np.testing.assert_array_equal(predicted, answers)


def test_expanded_rows_have_one_for_each_category() -> None:
    rows = features()
    matrix = rows.expanded()
    assert matrix.shape == (ROWS, WIDTH)
    np.testing.assert_array_equal(matrix[:, :DENSE], rows.stored[:, :DENSE])
    for row, codes in zip(matrix, rows.stored[:, DENSE:].astype(int), strict=True):
        assert np.flatnonzero(row[DENSE:]).tolist() == sorted(c - DENSE for c in codes if c < WIDTH)
        assert set(row[DENSE:]) <= {0, 1}
    assert rows[:0].expanded().shape == (0, WIDTH)
    only = Features.of_array(rows.stored)
    assert only.expanded() is rows.stored
    assert not only.has_categories


@pytest.mark.parametrize("code", [-1.0, 0.0, DENSE - 1, WIDTH, WIDTH + 7, 2.0**24, 1e30, -1e30, np.inf, np.nan])
def test_a_number_of_no_category_touches_nothing(kernels_of_this_machine: Any, code: float) -> None:
    stored = np.array([[1, 2, 3, 4, 5, code]], np.float32)
    (x,) = kernels_of_this_machine.run(EXPAND, "forward", (stored,), dense=DENSE, width=WIDTH, dtype=np.dtype("f4"))
    assert x.tolist() == [[1, 2, 3, 4, 5, *[0] * (WIDTH - DENSE)]]


@pytest.fixture
def kernels_of_this_machine() -> Any:
    if compiler() is None:
        pytest.skip("there is no C++ compiler")
    return backends.get("native")


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_a_step_that_reads_weights_by_code_makes_no_matrix(monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    widths: list[int] = []
    first = CodedRows._first
    monkeypatch.setattr(CodedRows, "_first", lambda self, width: widths.append(width) or first(self, width))
    trained(features(MANY), "numpy", precision)
    assert set(widths) == {DENSE}
