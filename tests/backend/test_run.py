"""Running operations: outputs made, filled, checked."""

from __future__ import annotations

import numpy as np
import pytest
from support import bits

from gpumlp import backend as backends
from gpumlp.backend import Backend
from gpumlp.errors import ConfigError, ShapeError
from gpumlp.ops import RECORDS

TANH, NORM = RECORDS["tanh"], RECORDS["layer_norm"]
X = np.linspace(-2, 2, 6, dtype=np.float32).reshape(2, 3)


def test_run_makes_the_outputs_it_is_not_given():
    (y,) = Backend().run(TANH, "forward", (X,))
    assert (y.shape, y.dtype) == ((2, 3), np.float32)
    np.testing.assert_array_equal(y, np.tanh(X))


def test_run_fills_the_outputs_it_is_given_and_returns_them():
    backend, mean = Backend(), np.empty((2, 1), np.float32)
    inputs = (X, np.ones(3, np.float32), np.zeros(3, np.float32))
    y, returned, variance = backend.run(NORM, "forward", inputs, (None, mean, None))
    assert returned is mean
    for a, b in zip((y, mean, variance), backend.run(NORM, "forward", inputs), strict=True):
        assert bits(a) == bits(b)


def test_run_writes_through_a_view():
    buffer = np.full(10, 7.0, np.float32)
    Backend().run(TANH, "forward", (X,), (buffer[2:8].reshape(2, 3),))
    np.testing.assert_array_equal(buffer, [7, 7, *np.tanh(X).ravel(), 7, 7])


@pytest.mark.parametrize("out", [np.empty((3, 2), np.float32), np.empty((2, 3)), np.empty((2, 3), np.int32)])
def test_run_names_the_output_that_does_not_fit(out):
    with pytest.raises(ShapeError, match=r"tanh_forward gives y as float32 \(2, 3\)"):
        Backend().run(TANH, "forward", (X,), (out,))


def test_run_wants_one_place_for_each_output():
    with pytest.raises(ValueError, match=r"shorter|longer"):
        Backend().run(NORM, "forward", (X, X[0], X[0]), (None, None))


def test_services():
    backend = Backend()
    a = backend.asarray([[1, 2], [3, 4]], np.float32)
    assert backend.owns(a)
    assert not backend.owns([1.0])
    assert backend.asarray(a.T).flags.c_contiguous
    assert backend.asarray(2.5).shape == ()
    host = backend.to_host(a)
    host[...] = 0
    assert a.sum() == 10
    backend.write(a, [[0, 0], [0, 1]])
    assert a.tolist() == [[0, 0], [0, 1]]
    assert backend.zeros((2,), np.int64).tolist() == [0, 0]
    assert backend.empty((2, 0), np.float32).shape == (2, 0)
    b = backend.zeros((2, 2), np.float32)
    backend.copy(a, b)
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(backend.matmul(a, b), a @ b)
    with pytest.raises(ShapeError, match=r"\(2,\) were written to an array of shape \(2, 2\)"):
        backend.write(a, [1.0, 2.0])


def test_compute_gives_an_array_even_where_numpy_gives_a_number():
    total = Backend().compute("sum", np.sum, X)
    assert isinstance(total, np.ndarray)
    assert total.shape == ()


def test_overflow_and_nan_are_results_and_not_warnings():
    x = np.array([-1e30, 1e30, np.nan, -np.inf], np.float32)
    for name in ("softplus", "elu", "mish", "softmax"):
        Backend().run(RECORDS[name], "forward", (x,))
    Backend().compute("exp", np.exp, x)


def test_get():
    assert type(backends.get("numpy")) is Backend
    assert backends.get("auto").name in backends.BACKENDS
    assert backends.get("numpy") is not backends.get("numpy")
    with pytest.raises(ConfigError, match="did you mean 'numpy'"):
        backends.get("nunpy")
