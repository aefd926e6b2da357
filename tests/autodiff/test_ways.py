"""What loops written for other libraries use: several targets, Jacobians, own gradients, constants, optimizers."""

from __future__ import annotations

import operator

import numpy as np
import pytest
from support import BACKENDS

import gpumlp as g
from gpumlp import GradientTape, Optimizer, Parameters, Tensor, Variable
from gpumlp.autodiff.tensor import OURS
from gpumlp.backend import get
from gpumlp.errors import ShapeError, TapeError


def rows(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def test_sources_come_back_as_they_were_given():
    v, w = Variable(rows(3)), Variable(rows(3, seed=1))
    with GradientTape(persistent=True) as tape:
        y = g.sum(v * w) + 2 * g.sum(w)
    np.testing.assert_array_equal(tape.gradient(y, {"v": v, "w": w})["w"].numpy(), v.numpy() + 2)
    nested = tape.gradient(y, [v, {"rest": (w, [v])}])
    assert [type(part) for part in (nested, nested[1], nested[1]["rest"])] == [list, dict, list]
    np.testing.assert_array_equal(nested[1]["rest"][1][0].numpy(), w.numpy())


def test_several_targets_are_their_sum():
    v = Variable(rows(3))
    with GradientTape(persistent=True) as tape:
        a, b = v * v, g.exp(v)
    both = 2 * v.numpy() + np.exp(v.numpy())
    np.testing.assert_allclose(tape.gradient([a, b], v).numpy(), both, rtol=1e-12)
    np.testing.assert_allclose(tape.gradient({"a": a, "b": b}, v).numpy(), both, rtol=1e-12)
    weights = rows(3, seed=2)
    weighted = tape.gradient([a, b], v, [weights, np.zeros(3)])
    np.testing.assert_allclose(weighted.numpy(), 2 * v.numpy() * weights, rtol=1e-12)
    with pytest.raises(ShapeError, match="2 targets and 1 output_gradients"):
        tape.gradient([a, b], v, [weights])
    # a target that the other one was computed from
    with GradientTape() as tape:
        a = v * v
        b = a * a
    np.testing.assert_allclose(tape.gradient([a, b], v).numpy(), 2 * v.numpy() + 4 * v.numpy() ** 3, rtol=1e-12)


def test_what_is_not_connected_is_none_or_zero():
    v, w = Variable(rows(3)), Variable(rows(2, 2))
    with GradientTape(persistent=True) as tape:
        tape.watch([w])
        y = g.sum(v)
    assert tape.gradient(y, w) is None
    found = tape.gradient(y, [v, w], unconnected_gradients="zero")
    np.testing.assert_array_equal(found[1].numpy(), np.zeros((2, 2)))
    assert tape.jacobian(y, w) is None
    assert tape.jacobian(y, w, unconnected_gradients="zero").shape == (2, 2)
    with pytest.raises(TapeError, match="unconnected_gradients is 'nothing'"):
        tape.gradient(y, v, unconnected_gradients="nothing")


def test_watch_takes_lists():
    a, b, c = Tensor(rows(2)), Tensor(rows(2, seed=1)), Tensor(rows(2, seed=2))
    with GradientTape() as tape:
        tape.watch([a, b], c)
        y = g.sum(a * b * c)
    for found, wanted in zip(tape.gradient(y, [a, b, c]), (b * c, a * c, a * b), strict=True):
        np.testing.assert_allclose(found.numpy(), wanted.numpy())


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_jacobian_is_that_of_pytorch(backend):
    torch = pytest.importorskip("torch", reason="needs PyTorch: pip install '.[oracle]'")
    W, x = rows(3, 4), rows(2, 3)
    v = Variable(W, get(backend))
    inputs = Tensor(x, v.backend)
    with GradientTape() as tape:
        tape.watch(inputs)
        y = g.tanh(inputs @ v)
    ours = tape.jacobian(y, {"W": v, "x": inputs})
    theirs = torch.autograd.functional.jacobian(lambda x, W: torch.tanh(x @ W), (torch.tensor(x), torch.tensor(W)))
    assert ours["W"].shape == (2, 4, 3, 4)
    np.testing.assert_allclose(ours["x"].numpy(), theirs[0].numpy(), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(ours["W"].numpy(), theirs[1].numpy(), rtol=1e-6, atol=1e-7)
    with pytest.raises(TapeError, match="already used"):
        tape.jacobian(y, v)


def test_a_jacobian_of_a_gradient_is_the_hessian():
    v = Variable(rows(3))
    with GradientTape() as outer:
        with GradientTape() as inner:
            y = g.sum(v**3) + v[0] * v[1]
        slope = inner.gradient(y, v)
    wanted = np.diag(6 * v.numpy())
    wanted[0, 1] = wanted[1, 0] = 1
    np.testing.assert_allclose(outer.jacobian(slope, v).numpy(), wanted, rtol=1e-12, atol=1e-12)


def test_a_jacobian_can_be_differentiated():
    v = Variable(rows(3))
    with GradientTape() as outer, GradientTape() as inner:
        y = v**3
        J = inner.jacobian(y, v)
        total = g.sum(J)
    np.testing.assert_allclose(outer.gradient(total, v).numpy(), 6 * v.numpy(), rtol=1e-12)


@pytest.mark.parametrize("shape", [(), (0,), (0, 2), (1, 1)])
def test_jacobians_of_odd_shapes(shape):
    v = Variable(np.ones(shape))
    with GradientTape() as tape:
        y = v * 2.0
    found = tape.jacobian(y, v)
    assert found.shape == shape + shape
    np.testing.assert_array_equal(found.numpy(), 2 * np.eye(v.size).reshape(found.shape))


def test_a_constant_stops_the_gradient():
    v = Variable(rows(3))
    with GradientTape(persistent=True) as tape:
        y = g.stop_gradient(v) * v
    np.testing.assert_array_equal(tape.gradient(y, v).numpy(), v.numpy())
    assert tape.gradient(g.stop_gradient(v), v) is None


def test_a_function_with_a_gradient_of_its_own():
    @g.custom_gradient
    def clipped(x, scale):
        return x * scale, lambda slope: (g.clip(slope, -1.0, 1.0), None)

    v, w = Variable(np.array([2.0, 3.0])), Variable(np.array([1.0, 2.0]))
    with GradientTape() as tape:
        y = g.sum(clipped(v, w) * np.array([0.5, 7.0]))
    found = tape.gradient(y, [v, w])
    np.testing.assert_array_equal(found[0].numpy(), [0.5, 1.0])
    assert found[1] is None


def test_a_gradient_of_its_own_can_be_differentiated_again():
    @g.custom_gradient
    def cube(x):
        return x * x * x, lambda slope: slope * 3.0 * x * x

    v = Variable(np.array([2.0, -1.0]))
    with GradientTape() as outer:
        with GradientTape() as inner:
            y = g.sum(cube(v))
        slope = inner.gradient(y, v)
    np.testing.assert_array_equal(slope.numpy(), 3 * v.numpy() ** 2)
    np.testing.assert_array_equal(outer.gradient(slope, v).numpy(), 6 * v.numpy())


@pytest.mark.parametrize(
    ("gradient", "message"),
    [
        (lambda slope: (slope, slope), "wrong takes 1 arguments and gives 2 gradients"),
        (lambda slope: g.sum(slope), r"wrong gives a gradient \(\) of an argument \(3,\)"),
    ],
)
def test_a_wrong_gradient_of_its_own(gradient, message):
    @g.custom_gradient
    def wrong(x):
        return x * 2.0, gradient

    v = Variable(rows(3))
    with GradientTape() as tape:
        y = wrong(v)
    with pytest.raises(TapeError, match=message):
        tape.gradient(y, v)


def test_variables_are_added_to_in_place():
    v = Variable(np.array([1.0, 2.0]))
    memory = v.array
    v.assign_add([1.0, 1.0])
    v.assign_sub(Tensor([0.5, 0.5]))
    np.testing.assert_array_equal(v.numpy(), [1.5, 2.5])
    assert v.array is memory
    with GradientTape() as tape:
        y = v * v
        v.assign_add(v)
    with pytest.raises(TapeError, match="was overwritten"):
        tape.gradient(y, v)
    with pytest.raises(ShapeError, match="values of shape"):
        v.assign_add(np.ones((3, 2)))


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_an_own_loop_is_that_of_pytorch(name, backend):
    torch = pytest.importorskip("torch", reason="needs PyTorch: pip install '.[oracle]'")
    x, t = rows(16, 3), rows(16, 1, seed=1)
    start = [rows(3, 1, seed=2), rows(1, seed=3)]
    used = get(backend)
    ours = [Variable(values, used, dtype="float64") for values in start]
    optimizer = Optimizer(name, Parameters.of(ours), learning_rate=0.05, weight_decay=0.0)
    theirs = [torch.tensor(values, requires_grad=True) for values in start]
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    judge = kind(theirs, lr=0.05, **({} if name == "sgd" else {"eps": 1e-8, "weight_decay": 0.0}))
    for _ in range(20):
        with GradientTape() as tape:
            loss = g.mean(g.square(Tensor(x, used) @ ours[0] + ours[1] - t))
        optimizer.apply_gradients(zip(tape.gradient(loss, ours), ours, strict=True))
        judge.zero_grad()
        torch.mean((torch.tensor(x) @ theirs[0] + theirs[1] - torch.tensor(t)) ** 2).backward()
        judge.step()
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a.numpy(), b.detach().numpy(), rtol=1e-6, atol=1e-8)


def test_gradients_that_do_not_fit_an_optimizer():
    v, w = Variable(rows(3)), Variable(rows(2))
    optimizer = Optimizer("sgd", Parameters.of([v, w]), learning_rate=1.0)
    before = w.numpy()
    optimizer.apply_gradients([(np.ones(3), v)])  # w is not among them: its gradient is 0
    np.testing.assert_array_equal(w.numpy(), before)
    optimizer.apply_gradients([(None, v), (np.ones(2), w)])
    np.testing.assert_array_equal(w.numpy(), before - 1)
    for pairs in ([(np.ones(3), v), (np.ones(3), v)], [(np.ones(3), Variable(rows(3)))]):
        with pytest.raises(ShapeError, match="in pairs with the variables"):
            optimizer.apply_gradients(pairs)
    with pytest.raises(ShapeError, match=r"the gradient of 1_ has shape \(3,\)"):
        optimizer.apply_gradients([(np.ones(3), w)])
    for wrong in ([], [v, v], [rows(3)], [v, Variable(rows(2).astype("f4"))]):
        with pytest.raises(ShapeError):
            Parameters.of(wrong)


def test_methods_are_the_functions():
    t = Tensor(rows(3, 4))
    for name in ("sum", "mean", "max"):
        np.testing.assert_array_equal(getattr(t, name)(axis=1).numpy(), getattr(g, name)(t, axis=1).numpy())
        np.testing.assert_allclose(getattr(t, name)().numpy(), getattr(np, name)(t.numpy()), rtol=1e-12)


@pytest.mark.parametrize("name", sorted(set(OURS.values())))
def test_what_numpy_is_refused_for_is_there(name):
    assert callable(getattr(g, name))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda t: np.exp(t), r"numpy\.exp takes no tensor.*use gpumlp\.exp, or tensor\.numpy\(\)"),
        (lambda t: np.concatenate([t, t]), r"use gpumlp\.concat"),
        (lambda t: np.mean(t), r"use gpumlp\.mean"),
        (lambda t: np.linalg.norm(t), r"numpy\.linalg\.norm takes no tensor, .*: use tensor\.numpy\(\)"),
        (lambda t: np.add.reduce(t), r"numpy\.add takes no tensor"),
        (lambda t: np.ones((2, 2)).__iadd__(t), r"numpy\.add takes no tensor"),
    ],
)
def test_numpys_functions_are_refused_by_a_sentence(function, message):
    with pytest.raises(TypeError, match=message):
        function(Tensor(rows(2, 2)))


def test_numpys_operators_and_questions_are_answered():
    a, t = rows(2, 2), Tensor(rows(2, 2, seed=1))
    operations = (
        operator.add,
        operator.sub,
        operator.mul,
        operator.truediv,
        operator.matmul,
        operator.lt,
        operator.ge,
    )
    for operation in operations:
        for left, right in ((a, t), (t, a)):
            ours = operation(left, right)
            assert isinstance(ours, Tensor)
            np.testing.assert_allclose(ours.numpy(), operation(np.asarray(left), np.asarray(right)), rtol=1e-12)
    assert np.shape(t) == (2, 2)
    assert np.allclose(t, t.numpy())


@pytest.mark.parametrize("backend", BACKENDS)
def test_values_of_the_functions(backend):
    x = rows(4, 6)
    t = Tensor(x, get(backend))
    np.testing.assert_allclose(g.var(t, axis=0).numpy(), x.var(axis=0), rtol=1e-6)
    np.testing.assert_array_equal(g.argmax(t, axis=1).numpy(), x.argmax(axis=1))
    assert g.argmax(t).item() == x.argmax()
    np.testing.assert_allclose(g.clip(t, -0.1, 0.2).numpy(), x.clip(-0.1, 0.2), rtol=1e-6)
    for ours, theirs in zip(g.split(t, 3, axis=1), np.split(x, 3, axis=1), strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-6)
    cube, rule = x.reshape(2, 2, 6), "nij,nj->ni"
    ours = g.einsum(rule, Tensor(cube, t.backend), t[:2])
    np.testing.assert_allclose(ours.numpy(), np.einsum(rule, cube, x[:2]), rtol=1e-5)
    far = g.log_softmax(Tensor([[1000.0, 0.0, -1000.0]], t.backend)).numpy()
    np.testing.assert_array_equal(far, [[0.0, -1000.0, -2000.0]])


def test_the_ends_of_a_clip():
    v = Variable(np.array([-1.0, 0.0, 1.0, np.nan, 2.0, -3.0]))
    with GradientTape() as tape:
        y = g.clip(v, -1.0, 1.0)
    np.testing.assert_array_equal(y.numpy(), [-1, 0, 1, np.nan, 1, -1])
    np.testing.assert_array_equal(tape.gradient(y, v).numpy(), [1, 1, 1, 1, 0, 0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: g.split(t, 4), "3 elements along axis -1 do not make 4 equal parts"),
        (lambda t: g.split(t, [1, 1]), r"\[1, 1\] do not add up to 3"),
        (lambda t: g.split(t, 1, axis=5), "has no axis 5"),
        (lambda t: g.einsum("ii->i", t), "a letter is repeated"),
        (lambda t: g.einsum("i...->i", t), "is not a rule of letters"),
        (lambda t: g.einsum("ij->ik", t), "a letter that no operand has"),
        (lambda t: g.einsum("i->i", t), r"does not fit shapes \(2, 3\)"),
        (lambda t: g.einsum("ij,ij->i", t, t.T), "does not fit shapes"),
        (lambda t: g.einsum("ij,jk", t), "does not fit shapes"),
    ],
)
def test_wrong_arguments_are_told(call, message):
    with pytest.raises(ShapeError, match=message):
        call(Tensor(rows(2, 3)))


def test_every_tape_that_was_blind_knows_a_jacobian() -> None:
    """Two tapes that were opened too late to have recorded the forward pass: neither may give a wrong answer."""
    v = Variable(rows(3))
    with GradientTape(persistent=True) as tape:
        y = v**3
    with GradientTape() as second, GradientTape() as third:
        total = g.sum(tape.jacobian(y, v))
    for blind in (second, third):
        with pytest.raises(TapeError, match="a gradient that this tape did not record"):
            blind.gradient(total, v)
