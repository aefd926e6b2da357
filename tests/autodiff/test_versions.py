"""Gradients are those of the forward pass: what was overwritten since is refused, what was shared was copied."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from support import BACKENDS

from gpumlp import autodiff as ad
from gpumlp.autodiff import GradientTape, Tensor, Variable, fused
from gpumlp.backend import Backend, get
from gpumlp.errors import ShapeError, TapeError
from gpumlp.nn import BatchNorm, Dense, Dropout, Loss, Sequential
from gpumlp.ops import ACTIVATIONS
from gpumlp.optim import Optimizer

backends = pytest.mark.parametrize("name", BACKENDS)
READERS = {
    "mul": lambda v: v * v,
    "power": lambda v: v**3,
    "log": ad.log,
    "div": lambda v: 1 / v,
    "matmul": lambda v: v @ v,
    "dense": lambda v: ad.dense(np.ones((2, 2)), v.reshape(1, 2) * np.ones((2, 1)), v, "tanh"),
    "slice": lambda v: v[0] * v[1],
    "reshape": lambda v: v.reshape(2, 1) ** 2,
    "transpose": lambda v: v.reshape(2, 1).T ** 2,
    "member_scale": lambda v: ad.member_scale(np.array([[1.0, 2.0]]), v[None], v[None]),
    "member_dense": lambda v: ad.member_dense(np.array([[1.0, 2.0]]), v.reshape(1, 2, 1), np.ones((1, 1))),
    "layer_norm": lambda v: ad.layer_norm(np.array([[1.0, 2.0]]), v, v),
    "mix": lambda v: ad.mixed("tanh", np.array([[1.0, 2.0]]), v),
    "dense_mixed": lambda v: ad.dense_mixed(np.ones((1, 2)), np.ones((2, 2)), v, v, "mish"),
    **{name: fused.FUSED[name] for name in ACTIVATIONS},
}


@pytest.mark.parametrize("reader", READERS)
def test_a_variable_that_was_assigned_to_since_is_named(reader):
    v = Variable(np.array([2.0, 3.0]), name="v")
    with GradientTape(persistent=True) as tape:
        y = READERS[reader](v)
    before = tape.gradient(y, v).numpy()
    v.assign([100.0, 200.0])
    with pytest.raises(TapeError, match=r"v \(2,\) was overwritten after .* had read it"):
        tape.gradient(y, v)
    with GradientTape() as tape:
        y = READERS[reader](v)
    assert tape.gradient(y, v).shape == before.shape  # the new values are read as ever


def test_the_gradient_of_another_variable_is_refused_too():
    """The product reads a view of v on its way back to u, and v is on no way to u."""
    u, v = Variable(np.array([1.0, 2.0])), Variable(np.array([[3.0, 4.0]]), name="v")
    for view in (lambda: v[0], lambda: v.reshape(2), lambda: v.T.reshape(2), lambda: Tensor(v)[0], lambda: v[0][:2]):
        with GradientTape() as tape:
            y = u * view()
        v.assign(v.numpy() + 1)
        with pytest.raises(TapeError, match=r"v .*was overwritten after mul had read it"):
            tape.gradient(y, u)


def test_what_was_not_overwritten_is_not_refused():
    u, v = Variable(np.array([1.0, 2.0])), Variable(np.array([3.0, 4.0]))
    with GradientTape(persistent=True) as tape:
        y = u * u
        z = v * 2.0
        v.assign([5.0, 6.0])
        w = v * v
    assert tape.gradient(y, u).numpy().tolist() == [2, 4]
    assert tape.gradient(w, v).numpy().tolist() == [10, 12]
    with pytest.raises(TapeError, match="overwritten"):
        tape.gradient(z, v)


def test_a_view_of_a_variable_ends_when_that_is_overwritten():
    v = Variable(np.array([1.0, 2.0]), name="v")
    views = [v[0], v.reshape(2, 1), v.reshape(1, 2).T, Tensor(v), v[:1][0]]
    copies = [v * 1.0, v[np.array([0, 1])], v.astype("float32"), Variable(v)]
    kept = [c.numpy() for c in copies]
    v.assign([10.0, 20.0])
    for view in views:
        for use in (view.numpy, lambda view=view: view * 2.0, lambda view=view: float(ad.sum(view))):
            with pytest.raises(TapeError, match=r"this is a view .* of v, which has been overwritten"):
                use()
    for c, values in zip(copies, kept, strict=True):
        np.testing.assert_array_equal(c.numpy(), values)
    assert float(v[0]) == 10


@backends
@pytest.mark.parametrize("captured", [False, True])
def test_a_step_of_an_optimizer_is_noticed(name, captured):
    model = Sequential([Dense(3, "tanh"), Dense(1)]).build(2, backend=get(name))
    parameters, backend = model.parameters, model.context.backend
    optimizer = Optimizer("sgd", parameters, model.context.clock)
    x = backend.asarray(np.ones((4, 2), np.float32))

    def step():
        with GradientTape() as tape:
            loss = ad.mean(model.forward(Tensor(x, backend), training=True) ** 2)
        parameters.collect(tape, loss)
        optimizer.step()

    plan = backend.capture(step) if captured else step
    for change in (plan, lambda: parameters.write(parameters.values), lambda: model.load(model.arrays())):
        with GradientTape() as tape:
            loss = ad.mean(model.forward(Tensor(x, backend)))
        change()
        with pytest.raises(TapeError, match=r"dense_\d\.[Wb] .* was overwritten"):
            parameters.collect(tape, loss)
    plan()  # a step of its own is never refused


@backends
def test_arrays_and_lists_of_the_caller_are_copied(name):
    backend = get(name)
    W = Variable(np.array([[2.0]]), backend)

    def gradients(use):
        buffer, index, numbers = backend.asarray(np.array([[3.0]])), np.array([0]), [3.0]
        with GradientTape() as tape:
            y = use(buffer, index, numbers)
        buffer[...], index[...], numbers[0] = 1000.0, 5, 1000.0
        return tape.gradient(y, W).numpy().ravel().tolist()

    assert gradients(lambda b, i, n: Tensor(b, backend) @ W) == [3]
    assert gradients(lambda b, i, n: b @ W) == [3]
    assert gradients(lambda b, i, n: W * b) == [3]
    assert gradients(lambda b, i, n: W * n) == [3]
    assert gradients(lambda b, i, n: W[i] * 3.0) == [3]
    assert gradients(lambda b, i, n: ad.dense(b, W, np.zeros(1))) == [3]
    assert gradients(lambda b, i, n: ad.where(b > 5.0, 0.0, W * 3.0)) == [3]
    assert gradients(lambda b, i, n: ad.loss_value(fused.LOSS_RECORDS["squared_error"], W, b)[0]) == [-2]
    tensor = Tensor(buffer := backend.asarray(np.ones(2)), backend)
    buffer[...] = 7.0
    assert tensor.numpy().tolist() == [1, 1]


def test_the_clock_and_running_averages_are_those_of_the_forward_pass():
    clock, x = np.array([3, 0, 0]), Variable(np.ones(64))
    with GradientTape() as tape:
        y = ad.dropout(x, 0.5, clock=clock)
    clock[0] = 4
    np.testing.assert_array_equal(tape.gradient(y, x).numpy(), y.numpy())
    layer, x = BatchNorm(), Variable(np.random.default_rng(0).standard_normal((5, 3)))
    with GradientTape(persistent=True) as tape:
        y = layer(x)
    before = tape.gradient(y, x).numpy()
    layer(x * 10.0, training=True)
    np.testing.assert_array_equal(tape.gradient(y, x).numpy(), before)


@backends
def test_a_captured_step_gets_the_new_values_of_its_inputs(name):
    backend = get(name)
    for kind in (Tensor, Variable):
        plan = backend.capture(lambda x: x * x, kind(np.array([1.0, 2.0], np.float32), backend))
        assert plan(backend.asarray(np.array([3.0, 4.0], np.float32))).numpy().tolist() == [9, 16]


# ---- tapes about gradients ---------------------------------------------------------------------------------------


def test_a_persistent_tape_does_not_answer_about_its_own_gradient():
    a, b = Variable(2.0), Variable(3.0)
    with GradientTape(persistent=True) as tape:
        w = a * a * b
        da = tape.gradient(w, a)
        penalty = w + da * da
        fresh = Variable(5.0)
        product = fresh * da
    for target in (da, penalty):
        for source in (a, b):
            with pytest.raises(TapeError, match="made from a gradient that this tape did not record"):
                tape.gradient(target, source)
    assert float(tape.gradient(product, fresh)) == 12  # which da does not depend on
    assert float(tape.gradient(w, b)) == 4


def test_a_tape_that_was_opened_after_the_forward_pass_does_not_answer_in_part():
    """v e^v: an outer tape would see the v of the product rule, and not that of e^v."""
    v, u = Variable(2.0), Variable(1.0)
    with GradientTape() as inner:
        y = v * ad.exp(v)
    with GradientTape(persistent=True) as outer:
        slope = inner.gradient(y, v, u)
    with pytest.raises(TapeError, match="open the tape for second derivatives first"):
        outer.gradient(slope, v)
    np.testing.assert_allclose(float(outer.gradient(slope, u)), 3 * np.exp(2), rtol=1e-6)  # it has seen all of that


def test_a_tape_is_entered_once_at_a_time():
    x = Variable(3.0)
    with GradientTape() as tape, pytest.raises(TapeError, match="already recording"), tape:
        pass
    with GradientTape(persistent=True) as tape:
        y = x * x
    with tape:
        z = y * x
    assert float(tape.gradient(z, x)) == 27


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_tape_is_not_copied(how):
    with GradientTape() as tape:
        Variable(1.0) * 2.0
    with pytest.raises(TapeError, match="a tape cannot be copied or pickled"):
        how(tape)


def test_what_watch_and_output_gradients_take():
    x = Tensor([1.0, 2.0])
    with GradientTape(persistent=True) as tape:
        for wrong in ([x, 1.0], np.ones(2), 1.0):
            with pytest.raises(TapeError, match="watch takes tensors, not a"):
                tape.watch(wrong)
        tape.watch(x)
        y = fused.FUSED["tanh"](x)
    expected = tape.gradient(y, x, Tensor([1.0, 3.0])).numpy()
    for weights in ([1, 3], np.array([1, 3]), np.array([1.0, 3.0]), (1.0, 3.0), Tensor([1, 3])):
        got = tape.gradient(y, x, weights)
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got.numpy(), expected)
    with pytest.raises(ShapeError, match="output_gradients has shape"):
        tape.gradient(y, x, [1.0])


def test_versions_count_on_any_backend():
    v = Variable([1.0], Backend())
    assert v.version == 0
    v.assign([2.0])
    v.assign(v)
    assert v.version == 2
    layer = Sequential([Dense(2), Dropout(0.5)]).build(3)
    loss = Loss("squared_error", layer)
    assert loss(layer.forward(Tensor(np.ones((1, 3)))), np.zeros((1, 2)))[0].shape == ()
