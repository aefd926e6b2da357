"""Tensors as values: comparing, printing, converting; whole numbers where floating point is meant; wrong ranks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from support import BACKENDS

import gpumlp
from gpumlp import autodiff as ad
from gpumlp.autodiff import GradientTape, Tensor, Variable, fused
from gpumlp.backend import get
from gpumlp.errors import ConfigError, GpumlpError, ShapeError
from gpumlp.nn import BatchNorm, Dense, Dropout, LayerNorm, Loss, Sequential
from gpumlp.ops import ACTIVATIONS
from gpumlp.optim import Optimizer, Schedule

backends = pytest.mark.parametrize("name", BACKENDS)


# ---- comparing ---------------------------------------------------------------------------------------------------


@backends
def test_equality_is_element_by_element(name):
    backend = get(name)
    x = Variable(np.array([0.0, -0.0, 2.0, np.nan], np.float32), backend)
    other = Tensor(np.array([0.0, 1.0, 2.0, np.nan], np.float32), backend)
    for right in (other, other.numpy(), [0.0, 1.0, 2.0, math.nan]):
        assert (x == right).tolist() == [True, False, True, False]
        assert (x != right).tolist() == [False, True, False, True]
    assert (x == 0).tolist() == (0 == x).tolist() == [True, True, False, False]  # noqa: SIM300
    assert (np.zeros(4) == x).tolist() == [True, True, False, False]
    with pytest.raises(ShapeError, match=r"equal: shapes \(4,\), \(3,\)"):
        x == np.zeros(3)  # noqa: B015
    labels = Tensor(np.array([1, 0, 2]), backend)
    assert float(ad.mean(labels == np.array([1, 1, 2]))) == pytest.approx(2 / 3)


def test_what_is_no_number_is_not_equal():
    x = Tensor([1.0])
    for other in (None, "1", object(), {1.0}):
        assert (x == other) is False
        assert (x != other) is True
    assert len({x, Tensor([1.0]), x}) == 2  # hashed by identity


def test_masks():
    x = Variable(np.array([-1.0, 0.0, 1.0, 2.0]))
    assert ((x > 0) & (x < 2)).tolist() == [False, False, True, False]
    assert ((x < 0) | (x == 2)).tolist() == [True, False, False, True]
    assert ((x < 1) ^ (x < 2)).tolist() == [False, False, True, False]
    assert (~(x > 0)).tolist() == [True, True, False, False]
    assert (np.array([True] * 4) & (x > 0)).tolist() == [False, False, True, True]
    assert (Tensor([6, 3]) & 2).tolist() == [2, 2]
    for wrong in (lambda: x & (x > 0), lambda: ~x, lambda: x | 1):
        with pytest.raises(ShapeError, match=r"does not take .*float64"):
            wrong()
    with GradientTape() as tape:
        y = ad.where(x == 0, 0.0 * x, 1.0 / ad.where(x == 0, 1.0, x))
    np.testing.assert_array_equal(y.numpy(), [-1, 0, 1, 0.5])
    np.testing.assert_array_equal(tape.gradient(y, x).numpy(), [-1, 0, -1, -0.25])


# ---- printing and converting -------------------------------------------------------------------------------------


@backends
def test_a_tensor_of_one_element_is_a_number(name):
    for x in (Tensor(2.5, get(name)), Tensor([[2.5]], get(name)), Variable([2.5], get(name))):
        assert f"{x:.3f}" == "2.500" == "%.3f" % x  # noqa: UP031
        assert f"{x:8.2e}" == "2.50e+00"
        assert (float(x), int(x), x.item(), round(x), round(x, 1), bool(x)) == (2.5, 2, 2.5, 2, 2.5, True)
        assert isinstance(x.item(), float)
    count = Tensor(3, get(name))
    assert f"{count:d}" == "3"
    assert isinstance(count.item(), int)
    assert isinstance((count > 2).item(), bool)


def test_a_tensor_of_more_is_a_list():
    x = Tensor([[1.0, 2.0]])
    assert x.tolist() == [[1, 2]]
    assert Tensor(2.5).tolist() == 2.5
    assert f"{x}" == str(x) == repr(x)
    for use in (x.item, lambda: int(x), lambda: f"{x:.2f}", lambda: round(x)):
        with pytest.raises(ShapeError, match=r"a tensor of shape \(1, 2\) has no single value"):
            use()
    with pytest.raises(TypeError, match="no length"):
        len(Tensor(1.0))


def test_signs():
    x = Variable(np.array([-1.0, -0.0, 0.0, 2.0]))
    with GradientTape() as tape:
        y = abs(x) + (+x)
    assert y.tolist() == [0, 0, 0, 4]
    assert tape.gradient(y, x).tolist() == [0, 1, 1, 2]
    big = Tensor([2**53 + 1, -5])
    assert (-big).tolist() == [-(2**53) - 1, 5]
    assert (-big).dtype == np.int64
    assert abs(big).tolist() == [2**53 + 1, 5]


# ---- dtypes ------------------------------------------------------------------------------------------------------

WHOLE = {
    "list": [[1, 2, 3], [3, 1, 0]],
    "int64": np.array([[1, 2, 3], [3, 1, 0]]),
    "int8": np.array([[1, 2, 3], [3, 1, 0]], np.int8),
    "uint8": np.array([[1, 2, 3], [3, 1, 0]], np.uint8),
    "bool": np.array([[True, False, True], [False, True, True]]),
    "tensor": Tensor(np.array([[1, 2, 3], [3, 1, 0]], np.int32)),
}
FLOATING = {
    **{name: fused.FUSED[name] for name in ACTIVATIONS},
    "exp": ad.exp,
    "expm1": ad.expm1,
    "log1p": ad.log1p,
    "sqrt": ad.sqrt,
    "mean": ad.mean,
    "log": lambda x: ad.log(ad.add(x, 1)),
    "div": lambda x: ad.div(x, 4),
    "halves": lambda x: ad.mul(x, 0.5),
    "root": lambda x: ad.power(x, 0.5),
    "inverse": lambda x: ad.power(ad.add(x, 1), -1),
    "layer_norm": lambda x: ad.layer_norm(x, [1, 1, 1], [0, 0, 0]),
    "batch_norm": lambda x: ad.batch_norm(x, [1, 1, 1], [0, 0, 0])[0],
    "mix": lambda x: ad.mixed("tanh", x, [1, 0, 2]),
    "dense_mixed": lambda x: ad.dense_mixed(x, [[1], [0], [2]], [1], [2], "mish"),
    "dense": lambda x: ad.dense(x, [[1], [0], [2]], [1], "tanh"),
    "dense of linear": lambda x: ad.dense(x, [[0.5], [0.25], [2]], None),
    "dropout": lambda x: ad.dropout(x, 0.5, clock=np.array([3, 0, 0])),
    **{
        loss: lambda x, loss=loss: fused.FUSED[loss](x, [[0, 1, 0], [0, 0, 1]], [1, 2]) for loss in fused.LOSS_RECORDS
    },
    "Dense": lambda x: Dense(2, "tanh")(x),
    "LayerNorm": lambda x: LayerNorm()(x),
    "BatchNorm": lambda x: BatchNorm()(x, training=True),
    "model": lambda x: Sequential([Dense(2, "tanh"), Dense(1)]).build(3)(x),
}


@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize("function", FLOATING)
def test_whole_numbers_are_the_default_float_where_a_float_is_meant(function, kind):
    given = WHOLE[kind]
    exact = np.asarray(given.numpy() if isinstance(given, Tensor) else given).astype(np.float32)
    got, want = FLOATING[function](given), FLOATING[function](exact)
    assert got.dtype == want.dtype == np.float32
    np.testing.assert_array_equal(got.numpy(), want.numpy())
    assert np.ptp(got.numpy()) > 0 or got.size == 1


@backends
def test_whole_numbers_on_every_backend(name):
    backend = get(name)
    x, floats = Tensor([[1, 2, 3]], backend), Tensor([[1.0, 2.0, 3.0]], backend)
    for function in ("softmax", "tanh", "gelu"):
        np.testing.assert_array_equal(fused.FUSED[function](x).numpy(), fused.FUSED[function](floats).numpy())
    assert float(gpumlp.squared_error(Tensor([[1], [2]], backend), [[1.5], [2.5]])) == 0.25
    loss = Loss("squared_error", Sequential([Dense(1)]).build(3, backend=backend))
    sums = loss.evaluate(Tensor([[1], [2]], backend), [[1.5], [2.5]], [1, 3])
    assert backend.to_host(sums).tolist() == [1, 4, 0, 4]


def test_whole_numbers_beside_floats_get_their_dtype():
    for dtype in (np.float32, np.float64):
        x, count = Variable(np.array([0.5, 1.5], dtype)), np.array([2, 3])
        for other in (count, count.astype(np.int8), count > 2, Tensor(count), [2, 3]):
            with GradientTape() as tape:
                y = x * other + other - x / other + ad.maximum(x, other) + ad.where([True, False], x, other)
                z = ad.concat([y, other]) + ad.stack([y, other]).reshape(4) @ np.ones((4, 4), int)
            assert z.dtype == y.dtype == dtype
            assert tape.gradient(z, x).dtype == dtype
    assert (Variable(np.zeros(1)) + np.array([2**40 + 1])).tolist() == [2**40 + 1]  # not by way of float32
    assert ad.add([1, 2], [3, 4]).dtype == ad.matmul([[1]], [[2]]).dtype == np.int64  # exact
    assert ad.add(1, 2).tolist() == 3
    assert (
        ad.add(1.0, 2).dtype
        == ad.exp(2).dtype
        == gpumlp.tanh(0.5).dtype
        == ad.sqrt(np.float64(2)).dtype
        == np.float32
    )


@pytest.mark.parametrize(
    "wrong", [np.array([1j]), ["a", "b"], np.array(["2020-01-01"], "M8[D]"), [[1], [1, 2]], [None], {}]
)
def test_what_is_no_number_is_refused(wrong):
    for make in (
        Tensor,
        Variable,
        gpumlp.tanh,
        lambda v: Tensor([1.0]) * v,
        lambda v: ad.exp(v),
        lambda v: Dense(1)(v),
    ):
        with pytest.raises(ShapeError, match="a tensor takes"):
            make(wrong)
    with pytest.raises(ShapeError, match="join them by stack"):
        Tensor([Tensor(1.0), Tensor(2.0)])


def test_axes_are_any_whole_numbers():
    x = Variable(np.ones((2, 3)))
    for axis in (1, np.int64(1), [1], (np.int8(1),), np.array([1])):
        for reduce in (ad.sum, ad.max, ad.mean):
            with GradientTape() as tape:
                y = reduce(x, axis=axis)
            assert y.shape == (2,)
            assert tape.gradient(y, x).shape == (2, 3)


# ---- ranks -------------------------------------------------------------------------------------------------------

RANKS = {
    "softmax of a number": lambda: gpumlp.softmax(1.0),
    "softmax of nothing": lambda: gpumlp.softmax(np.ones((2, 0))),
    "layer_norm of a number": lambda: ad.layer_norm(1.0, 1.0, 1.0),
    "batch_norm of a row": lambda: ad.batch_norm(np.ones(3), np.ones(3), np.ones(3)),
    "dense of a number": lambda: ad.dense(1.0, np.ones((1, 1)), np.ones(1)),
    "dense by three axes": lambda: ad.dense(np.ones((2, 3)), np.ones((3, 1, 1)), np.ones((1, 1))),
    "stack of nothing": lambda: ad.stack([]),
    "concat of nothing": lambda: ad.concat([]),
    "concat of numbers": lambda: ad.concat([1.0, 2.0]),
    "loss of a row": lambda: gpumlp.huber(np.ones(3), np.ones(3)),
    "loss of columns of labels": lambda: gpumlp.softmax_cross_entropy(np.ones((2, 3)), np.zeros((2, 1), int)),
    "evaluate with columns of labels": lambda: Loss("cross_entropy", Sequential([Dense(3)]).build(2)).evaluate(
        Tensor(np.ones((2, 3), np.float32)), np.zeros((2, 1), int)
    ),
    "largest of nothing": lambda: ad.max(np.ones((0, 3))),
}


@pytest.mark.parametrize("case", RANKS)
def test_wrong_ranks_are_one_sentence(case):
    with pytest.raises(ShapeError) as error:
        RANKS[case]()
    assert isinstance(error.value, GpumlpError)
    assert "\n" not in error.value.what


@pytest.mark.parametrize("rate", [1.0, -0.1, math.nan])
def test_a_dropout_rate_that_is_none(rate):
    with pytest.raises(ConfigError, match=r"the dropout rate is .*\s+allowed: >= 0 and < 1"):
        ad.dropout(np.ones(3), rate, clock=np.zeros(3, int))


@backends
@pytest.mark.parametrize("activation", ["tanh", "gelu"])
def test_a_layer_of_one_dtype_takes_inputs_of_another(name, activation):
    """Its gradients have its own dtype, into its own buffers."""
    rows, backend = np.random.default_rng(0).standard_normal((4, 3)), get(name)
    model = Sequential([Dense(3, activation), LayerNorm(), Dense(1)]).build(3, backend=backend)
    buffers = []
    for dtype in (np.float32, np.float64):
        x = Variable(rows.astype(dtype), backend)
        with GradientTape(persistent=True) as tape:
            loss = ad.mean(model.forward(x, training=True) ** 2)
        model.parameters.collect(tape, loss)
        buffers.append(backend.to_host(model.parameters.gradients))
        assert tape.gradient(loss, x).dtype == dtype
        assert {g.dtype for g in tape.gradient(loss, list(model.parameters.variables.values()))} == {
            np.dtype(np.float32)
        }
    np.testing.assert_allclose(buffers[0], buffers[1], rtol=1e-3, atol=1e-6)


def test_lists_beside_floats_have_their_dtype():
    x = Variable(np.array([1.0, 2.0]))
    for y in (
        x * [0.1, 0.2],
        [0.1, 0.2] * x,
        ad.where([True, False], [0.1, 0.1], x),
        ad.maximum(x * 0.0, [0.1, 0.2]),
    ):
        assert y.dtype == np.float64
        assert float(y[0]) == 0.1
    assert float(ad.concat([x, [0.1]])[2]) == 0.1
    x.assign([0.1, 0.2])
    assert x.tolist() == [0.1, 0.2]
    z = np.array([[0.0]])
    assert (
        float(gpumlp.absolute_error(z, [[0.1]], [0.3]))
        == float(gpumlp.absolute_error(z, np.array([[0.1]]), [1]))
        == 0.1
    )


def test_lists_and_numbers_are_reshaped_too():
    """A view of what is no tensor is not a view of a variable."""
    assert gpumlp.transpose([[1, 2], [3, 4]]).tolist() == [[1, 3], [2, 4]]
    assert gpumlp.reshape([1, 2, 3, 4], (2, 2)).tolist() == [[1, 2], [3, 4]]
    assert gpumlp.reshape(2.5, (1, 1)).tolist() == [[2.5]]
    with GradientTape():
        assert gpumlp.transpose(np.ones((1, 2))).shape == (2, 1)


SETTINGS = {
    "units": lambda value: Dense(value),
    "activation": lambda value: Dense(2, value),
    "width": lambda value: Sequential([Dense(2)]).build(value),
    "layer": lambda value: Sequential([value]),
    "rate of dropout": lambda value: Dropout(value),
    "momentum": lambda value: BatchNorm(value),
    "learning rate": lambda value: optimizer(learning_rate=value),
    "weight decay": lambda value: optimizer(weight_decay=value),
    "clip norm": lambda value: optimizer(clip_norm=value),
    "averaging": lambda value: optimizer(averaging=value),
    "beta1": lambda value: optimizer(beta1=value),
    "rate of a schedule": lambda value: Schedule("constant", learning_rate=value),
    "warmup": lambda value: Schedule("constant", learning_rate=0.1, warmup=value),
    "delta": lambda value: Loss("huber", MODEL, delta=value),
    "batch": lambda value: MODEL.predict(np.ones((2, 3)), batch=value),
}
MODEL = Sequential([Dense(1)]).build(3)


def optimizer(**settings):
    return Optimizer("adam", MODEL.parameters, MODEL.context.clock, **settings)


@pytest.mark.parametrize(
    "wrong",
    ["a", [1, 2], np.ones(2), object(), -1, -0.5, math.nan, 1j],
    ids=["text", "list", "array", "object", "-1", "-0.5", "nan", "complex"],
)
@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_that_are_none(setting, wrong):
    with pytest.raises(ConfigError):
        SETTINGS[setting](wrong)
