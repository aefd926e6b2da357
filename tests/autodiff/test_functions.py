"""Every taped function: gradients against differences, with the shapes that broadcasting allows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumlp import autodiff as ad
from gpumlp.autodiff import GradientTape, Tensor, Variable, fused, gradcheck
from gpumlp.autodiff.functions import FUNCTIONS, TapedModule
from gpumlp.autodiff.tensor import getitem, greater, greater_equal, primitive, scatter
from gpumlp.backend import Backend
from gpumlp.errors import BackendError, ShapeError, TapeError
from gpumlp.ops import ACTIVATIONS, LOSS_RECORDS


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def positive(*shape, seed=0):
    return np.abs(normal(*shape, seed=seed)) + 0.5


def apart(*shape, seed=0):
    """Values that are not close to each other or to 0, so that no kink is near."""
    size = int(np.prod(shape))
    return (np.random.default_rng(seed).permutation(size) - size // 2 + 0.4).reshape(shape)


SHAPES = [
    ((3,), (3,)),
    ((2, 3), (3,)),
    ((2, 1), (1, 3)),
    ((), (2, 2)),
    ((4, 1, 3), (2, 1)),
    ((0, 3), (3,)),
    ((1,), ()),
]

CASES = {
    "abs": [(ad.abs, [apart(2, 3)])],
    "broadcast_to": [(lambda x: ad.broadcast_to(x, shape=(4, 2, 3)), [normal(2, 1)])],
    "concatenate": [
        (lambda a, b: ad.concat([a, b], axis=0), [normal(2, 3), normal(1, 3)]),
        (lambda a, b: ad.concat([a, b, a]), [normal(2, 3), normal(2, 1)]),
    ],
    "exp": [(ad.exp, [normal(2, 3)])],
    "expm1": [(ad.expm1, [normal(2, 3)])],
    "log": [(ad.log, [positive(2, 3)])],
    "log1p": [(ad.log1p, [positive(2, 3)])],
    "max": [
        (ad.max, [apart(3, 4)]),
        (lambda x: ad.max(x, axis=0), [apart(3, 4)]),
        (lambda x: ad.max(x, axis=(0, -1), keepdims=True), [apart(2, 3, 4)]),
    ],
    "maximum": [(ad.maximum, [apart(2, 3), apart(3, seed=1) + 0.2]), (lambda x: ad.maximum(x, 0.0), [apart(4)])],
    "mean": [
        (ad.mean, [normal(2, 3)]),
        (lambda x: ad.mean(x, axis=-1), [normal(2, 3)]),
        (lambda x: ad.mean(x, axis=(0, 2), keepdims=True), [normal(2, 3, 4)]),
    ],
    "reshape": [(lambda x: ad.reshape(x, (3, -1)), [normal(2, 3)])],
    "minimum": [(ad.minimum, [apart(2, 3), apart(3, seed=1) + 0.2]), (lambda x: ad.minimum(0.0, x), [apart(4)])],
    "sign": [(lambda x: ad.sign(x) * x, [apart(2, 3)])],
    "sin": [(ad.sin, [normal(3, 2)])],
    "cos": [(ad.cos, [normal(3, 2)])],
    "sqrt": [(ad.sqrt, [positive(2, 3)])],
    "sum": [
        (ad.sum, [normal(2, 3)]),
        (lambda x: ad.sum(x, axis=0), [normal(2, 3)]),
        (lambda x: ad.sum(x, axis=(-1, 0), keepdims=True), [normal(2, 3, 4)]),
        (lambda x: ad.sum(x, axis=()), [normal(2, 3)]),
    ],
    "transpose": [
        (lambda x: x.T * np.arange(6.0).reshape(3, 2), [normal(2, 3)]),
        (lambda x: ad.transpose(x, (2, 0, 1)) * np.arange(24.0).reshape(4, 2, 3), [normal(2, 3, 4)]),
        (lambda x: ad.transpose(x, (0, -1, 1)) * np.arange(24.0).reshape(2, 4, 3), [normal(2, 3, 4)]),
        (ad.transpose, [normal(5, 2, 3)]),
        (ad.transpose, [normal(3)]),
    ],
    "tanh": [(FUNCTIONS["tanh"], [normal(2, 3)])],
    "where": [
        (lambda a, b: ad.where(np.array([True, False, True]), a, b), [normal(2, 3), normal(2, 1)]),
        (lambda a, b: ad.where(a > b, a * b, b), [apart(2, 3), apart(3, seed=1) + 0.2]),
    ],
}
EDGES = np.array([[-0.7, 0.1, 0.9], [-0.3, 3e38, 3e38]])
SCALES = np.array([[1 / 0.8, 1 / 0.8, 2.0], [1.5, 0.0, 0.0]])
DROPPED = {"rate": 0.4, "clock": np.array([3, 0, 0]), "key": (1, 2)}
CODES = np.array([[9.0, 0, 1], [9, 2, 5], [9, 7, 0], [9, 2, 1]])

OTHERS = {
    "add": [(ad.add, [normal(*a), normal(*b, seed=1)]) for a, b in SHAPES],
    "sub": [(ad.sub, [normal(*a), normal(*b, seed=1)]) for a, b in SHAPES],
    "mul": [(ad.mul, [normal(*a), normal(*b, seed=1)]) for a, b in SHAPES],
    "div": [(ad.div, [normal(*a), positive(*b, seed=1)]) for a, b in SHAPES],
    "power": [
        *((ad.power, [positive(*a), normal(*b, seed=1)]) for a, b in SHAPES),
        (lambda x: x**3, [normal(2, 3)]),
        (lambda x: x**-1.5, [positive(2, 3)]),
        (lambda x: 2.0**x, [normal(2, 3)]),
        (lambda x: x ** np.array([-2.0, 0.0, 3.0]), [positive(2, 3)]),
    ],
    "operators": [
        (lambda x: -x + 1 - x * 2 / (3 + x) - 1 / (2 - x) + (1 - x), [np.linspace(-0.5, 0.5, 4)]),
        (lambda x: np.ones(3) + x * np.arange(3.0) - np.ones((2, 1)) / (x + 5), [normal(3)]),
    ],
    "matmul": [
        (ad.matmul, [normal(*a), normal(*b, seed=1)])
        for a, b in [
            ((2, 3), (3, 4)), ((3,), (3, 4)), ((2, 3), (3,)), ((3,), (3,)), ((5, 2, 3), (3, 4)),
            ((5, 2, 3), (5, 3, 4)),
            ((2, 1, 2, 3), (5, 3, 1)), ((2, 3), (5, 3, 2)), ((0, 3), (3, 2)), ((5, 2, 3), (3,)), ((3,), (5, 3, 2)),
        ]
    ],
    "matmul with a constant": [
        (lambda x: x @ np.ones((3, 2)), [normal(2, 3)]),
        (lambda x: np.ones((4, 2)) @ x, [normal(2, 3)]),
        (lambda x: np.arange(2.0) @ x, [normal(2, 3)]),
    ],
    "reshape": [
        (lambda x: x.reshape(3, -1) * np.arange(3.0)[:, None], [normal(2, 6)]),
        (lambda x: x.T.reshape((-1,)) * np.arange(6.0), [normal(2, 3)]),
    ],
    "slice": [
        (lambda x: x[1], [normal(3, 4)]),
        (lambda x: x[..., ::-2, None], [normal(3, 4)]),
        (lambda x: x[1:, -1] * x[:-1, 0], [normal(3, 4)]),
        (lambda x: x[np.array([0, 0, 2])] * normal(3, 4), [normal(3, 4)]),
        (lambda x: x[np.array([0, 0]), np.array([1, 1])], [normal(3, 4)]),
        (lambda x: x[Tensor(np.array([2, 0, 2]), x.backend)], [normal(3)]),
        (lambda x: x[Tensor(np.array([2, 0]), x.backend), 1:], [normal(3, 4)]),
        (lambda x: x[x > 0.5], [apart(3, 4)]),
        (lambda x: ad.stack(list(x)), [normal(3, 2)]),
    ],
    "scatter": [(lambda x: scatter(x, shape=(4,), index=np.array([1, 1, 3])) ** 2, [normal(3)])],
    "stack": [
        (lambda a, b: ad.stack([a, b]), [normal(2, 3), normal(2, 3, seed=1)]),
        (lambda a, b: ad.stack([a, b], axis=-1) * np.arange(2.0), [normal(2, 3), normal(2, 3, seed=1)]),
        (lambda a: ad.stack([a, np.ones(3)], axis=1), [normal(3)]),
    ],
    "cast": [(lambda x: x.astype("float64") * 2.0, [normal(3)])],
    "dense": [
        *((lambda x, W, b, name=name: ad.dense(x, W, b, name), [apart(4, 3) / 7, normal(3, 2), normal(2)])
          for name in ACTIVATIONS),
        (lambda x, W, b: ad.dense(x, W, b, "tanh"), [normal(2, 4, 3), normal(3, 2), normal(2)]),
        (lambda x, W, b: ad.dense(ad.transpose(x, (2, 1, 0)), W, b, "tanh"),
         [normal(3, 4, 2), normal(3, 2), normal(2)]),
        (lambda x, W, b: ad.dense(x, W, b, "silu"), [normal(3), normal(3, 2), normal(2)]),
        (lambda x, W: ad.dense(x, W, None, "tanh"), [normal(4, 3), normal(3, 2)]),
        (lambda x, W: ad.dense(x, W, None), [normal(4, 3), normal(3, 2)]),
        (lambda x, W, b: ad.dense(x, W.T, b[:, 0], "tanh"), [normal(4, 3), normal(2, 3), normal(2, 2)]),
    ],
    "member_scale": [
        (ad.member_scale, [normal(4, 3), normal(2, 3)]),
        (ad.member_scale, [normal(4, 3), normal(2, 3), normal(2, 3)]),
        (ad.member_scale, [normal(4, 2, 3), normal(2, 3), normal(2, 3)]),
        (ad.member_scale, [normal(1, 1), normal(1, 1)]),
    ],
    "member_dense": [
        (ad.member_dense, [normal(6, 3), normal(2, 3, 4), normal(2, 4)]),
        (ad.member_dense, [normal(2, 1), normal(2, 1, 1), normal(2, 1)]),
    ],
    "square": [(ad.square, [normal(3, 2)])],
    "clip": [
        (lambda x: ad.clip(x, -0.5, 0.6), [apart(4, 3) / 5]),
        (ad.clip, [apart(4, 3) / 5, -positive(3), positive(4, 1)]),
    ],
    "var": [(ad.var, [normal(3, 2)]), (lambda x: ad.var(x, axis=0), [normal(3, 2)])],
    "log_softmax": [(ad.log_softmax, [normal(3, 4)]), (lambda x: ad.log_softmax(x, axis=0), [normal(3, 4)])],
    "split": [
        (lambda x: ad.split(x, [2, 0, 3])[2], [normal(3, 5)]),
        (lambda x: ad.split(x, 2, axis=0)[0], [normal(4, 2)]),
    ],
    "einsum": [
        (lambda a, b: ad.einsum("ij,jk->ik", a, b), [normal(2, 3), normal(3, 4)]),
        (lambda a, b: ad.einsum("nij, nj", a, b), [normal(2, 3, 2), normal(2, 2)]),
        (lambda a: ad.einsum("ij->j", a), [normal(2, 3)]),  # a letter that is summed over by itself
        (lambda a, b: ad.einsum("ij,k->i", a, b), [normal(2, 3), normal(4)]),
        (lambda a, b, c: ad.einsum("i,ij,j->", a, b, c), [normal(2), normal(2, 3), normal(3)]),
        (lambda a: ad.einsum("ij,ij->i", a, a), [normal(2, 3)]),
        (lambda a, b: ad.einsum(",i->i", a, b), [normal(), normal(3)]),
    ],
    "layer_norm": [
        (ad.layer_norm, [normal(4, 3), positive(3), normal(3)]),
        (ad.layer_norm, [normal(2, 4, 3), positive(3), normal(3)]),
        (lambda x, g: ad.layer_norm(x, g, g), [normal(4, 3), positive(3)]),
    ],
    "batch_norm": [(lambda x, g, b: ad.batch_norm(x, g, b)[0], [normal(4, 3), positive(3), normal(3)])],
    **{f"mix {name}": [(lambda x, a, name=name: ad.mixed(name, x, a), [apart(4, 3) / 7, normal(3)])]
       for name, op in ACTIVATIONS.items() if not op.of_rows},
    "dense_mixed": [
        (lambda x, W, b, a, name=name, dropped=dropped: ad.dense_mixed(x, W, b, a, name, dropped),
         [normal(4, 2), normal(2, 3), normal(3), positive(3)])
        for name, dropped in [("mish", None), ("mish", DROPPED), ("selu", DROPPED), ("tanh", DROPPED)]
    ],
    "pbld": [
        (ad.pbld, [normal(4, 3), normal(2, 5), normal(2, 5), normal(2, 4, 5), normal(2, 4)]),
        (lambda w, V: ad.pbld(normal(4, 3), w, np.ones((3, 2)), V, np.ones((3, 1))), [normal(3, 2), normal(3, 1, 2)]),
    ],
    "ple": [
        (lambda x, a, c, V: ad.ple(x, EDGES, SCALES, a, c, V),
         [normal(5, 3), normal(2, 2), normal(2, 2), normal(2, 3, 2)]),
        (lambda V: ad.ple(normal(5, 3), EDGES, SCALES, np.ones((2, 2)), np.ones((2, 2)), V), [normal(2, 3, 2)]),
    ],
    "lookup": [(lambda table: ad.lookup(CODES, np.array([0, 3, 5]), table, first=1) ** 2, [normal(5, 2)])],
    "dropout": [(lambda x: ad.dropout(x, **DROPPED), [normal(4, 3)])],
}  # fmt: skip

LOSS_CASES = {}
for _name, _op in LOSS_RECORDS.items():
    _targets = [np.array([0, 2, 1, 1])] if _op.link == "softmax" else []
    _soft = positive(4, 3) / positive(4, 3).sum(axis=1, keepdims=True)
    _numbers = apart(4, 3) / 5 if _op.least is None else np.abs(apart(4, 3)) / 5
    _targets.append(_soft if _op.link != "identity" else _numbers)
    LOSS_CASES[_name] = [
        (
            lambda z, *rest, t=t, op=_op, p=p, w=w, c=c: ad.loss_value(op, z, t, w, c, **p)[0],
            [apart(4, 3, seed=2) / 4.1],  # no difference is 1, where a margin begins
        )
        for t in _targets
        for w in (None, positive(4))
        for c in (None, *((positive(3 if _op.link == "softmax" else 2),) if _op.link != "identity" else ()))
        for p in ({}, {key: {"label_smoothing": 0.2}.get(key, 0.7) for key in _op.hyper})
    ]

FIRST = {
    **CASES,
    **OTHERS,
    **LOSS_CASES,
    **{name: [(fused.FUSED[name], [apart(3, 4) / 5])] for name in ACTIVATIONS},
}


def cases(table):
    return [pytest.param(f, x, id=f"{name}-{i}") for name, some in table.items() for i, (f, x) in enumerate(some)]


WITHOUT_A_GRADIENT = {"activate", "argmax", "custom_gradient", "gradcheck", "loss_value", "stop_gradient"}
"""Of the public functions: those that have none, or take a function that says what it is."""


def test_every_function_has_a_case():
    assert set(CASES) == set(FUNCTIONS)
    assert set(fused.FUSED) <= set(FIRST)
    public = {name for name in ad.__all__ if name.islower() and name not in WITHOUT_A_GRADIENT}
    aliases = {"concat": "concatenate", "mixed": "mix tanh"}
    assert {aliases.get(name, name) for name in public} <= set(FIRST)


@pytest.mark.parametrize(("function", "inputs"), cases(FIRST))
def test_gradient(function, inputs):
    check = gradcheck(function, inputs, tolerance=1e-7)
    assert check.taped != 0 or any(np.size(x) == 0 for x in inputs)


@pytest.mark.parametrize(("function", "inputs"), cases(FIRST))
def test_gradient_on_another_backend(function, inputs):
    """Constants in a rule must come to the backend of the tensors, not to the reference."""
    gradcheck(function, inputs, tolerance=1e-7, backend=Backend())


def derivative(function):
    """The gradient of ``Σ w·function`` as a function of its inputs, joined into one vector."""

    def gradient(*inputs):
        with GradientTape() as tape:
            tape.watch(*inputs)
            y = function(*inputs)
            weights = np.linspace(0.5, 1.5, max(y.size, 1)).reshape(y.shape) if y.size else np.zeros(y.shape)
            total = ad.sum(y * weights)
        found = tape.gradient(total, list(inputs))
        return ad.concat([part.reshape(-1) for part in found if part is not None] or [inputs[0].reshape(-1) * 0.0])

    return gradient


# kinks and casts to whole numbers have no second derivative worth a check
SECOND = {name: some for name, some in FIRST.items() if name not in ("sign",)}


@pytest.mark.parametrize("backend", [None, Backend()], ids=["reference", "another"])
@pytest.mark.parametrize(("function", "inputs"), cases(SECOND))
def test_second_derivative(function, inputs, backend):
    gradcheck(derivative(function), inputs, tolerance=1e-6, backend=backend)


@pytest.mark.parametrize("name", [n for n in ACTIVATIONS if n not in ("identity", "relu", "leaky_relu")])
def test_second_derivatives_of_activations_are_not_zero(name):
    assert gradcheck(derivative(fused.FUSED[name]), [apart(3, 4) / 5]).taped != 0


@pytest.mark.parametrize("function", [lambda x: x**4, FUNCTIONS["tanh"], fused.FUSED["tanh"], fused.FUSED["gelu"]])
def test_third_derivative(function):
    gradcheck(derivative(derivative(function)), [np.array([-1.2, -0.3, 0.4, 1.5])], tolerance=1e-6)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_derivatives_far_from_zero_are_finite(name):
    """Where a formula has two sides, the one that is not taken must not bring 0·inf into the gradient."""
    x = Variable(np.array([-1e4, -800.0, -300.0, 300.0, 800.0, 1e4]))
    with GradientTape() as outer:
        with GradientTape() as inner:
            y = fused.FUSED[name](x)
        g = inner.gradient(y, x)
    h = outer.gradient(g, x)
    assert np.isfinite(g.numpy()).all()
    assert h is None or np.isfinite(h.numpy()).all()


def test_third_derivatives_by_formula():
    x = Variable(np.array([0.0, 0.5, -1.5]))

    def third(function):
        with GradientTape() as a:
            with GradientTape() as b:
                with GradientTape() as c:
                    y = function(x)
                first = c.gradient(y, x)
            second = b.gradient(first, x)
        return a.gradient(second, x).numpy()

    v = x.numpy()
    np.testing.assert_allclose(third(lambda x: x**4), 24 * v)
    np.testing.assert_allclose(third(lambda x: x**2), 0 * v)
    t = np.tanh(v)
    for tanh in (FUNCTIONS["tanh"], fused.FUSED["tanh"]):
        np.testing.assert_allclose(third(tanh), (1 - t * t) * (6 * t * t - 2), rtol=1e-12)


@pytest.mark.parametrize("axis", [None, 0, 1, -1, (0, 2), (1, -1)])
@pytest.mark.parametrize("keepdims", [False, True])
def test_mean_is_that_of_numpy(axis, keepdims):
    x = normal(2, 3, 5)
    got = ad.mean(Tensor(x), axis=axis, keepdims=keepdims)
    np.testing.assert_allclose(got.numpy(), x.mean(axis=axis, keepdims=keepdims), rtol=1e-14)


def test_the_exponent_of_0_and_of_negative_numbers_has_the_gradient_0():
    base, exponent = np.array([0.0, -0.0, -2.0, 2.0]), Variable(np.array([2.0, 2.0, 2.0, 2.0]))
    with GradientTape() as tape:
        y = Tensor(base) ** exponent
    np.testing.assert_allclose(tape.gradient(y, exponent).numpy(), [0, 0, 0, 4 * np.log(2)], rtol=1e-14)
    for number, expected in ((0, 0.0), (2.0, 4 * np.log(2))):
        one = Variable(np.array(2.0))
        with GradientTape() as tape:
            y = number**one
        np.testing.assert_allclose(tape.gradient(y, one).numpy(), expected, rtol=1e-6)


def test_mean_of_nothing_is_nan():
    assert np.isnan(ad.mean(Tensor(np.ones((0, 3)))).numpy())
    assert ad.mean(Tensor(np.ones((0, 3))), axis=1).shape == (0,)


def test_slopes_where_two_are_equal():
    x = Variable(np.array([1.0, 3.0, 3.0]))
    with GradientTape() as tape:
        y = ad.max(x)
    assert tape.gradient(y, x).numpy().tolist() == [0, 0.5, 0.5]
    zero = Variable(np.array([0.0]))
    exponents = (0, 2, np.float32(0), np.zeros(1), Tensor(np.zeros(1)))
    powers = [(lambda v, p=power: v**p, 0) for power in exponents]
    for function, slope in ((ad.abs, 0), (lambda v: ad.maximum(v, 0.0), 0), *powers):
        with GradientTape() as tape:
            y = function(zero)
        assert tape.gradient(y, zero).numpy().tolist() == [slope]


def test_the_mixed_derivative_of_a_power_where_the_exponent_is_0():
    """That of a^b is a^(b - 1) (1 + b log a), and the same in either order."""
    a, b = Variable(np.array([2.0, 0.5])), Variable(np.array([0.0, 1.0]))
    for inner_source, outer_source in ((a, b), (b, a)):
        with GradientTape() as outer:
            with GradientTape() as inner:
                y = a**b
            slope = inner.gradient(y, inner_source)
        np.testing.assert_allclose(outer.gradient(slope, outer_source).numpy(), [0.5, 1 + np.log(0.5)], rtol=1e-14)


def test_comparisons_and_signs_have_no_gradient():
    x = Variable(np.array([1.0, -2.0]))
    for function in (greater, greater_equal):
        with GradientTape() as tape:
            y = ad.where(function(x, 0.0), 1.0, 2.0)
        assert tape.gradient(y, x) is None
    assert (x > 0).numpy().tolist() == (x >= 0).numpy().tolist() == [True, False]
    assert (x < 0).numpy().tolist() == (x <= 0).numpy().tolist() == [False, True]


def test_views_share_memory():
    x = Tensor(np.arange(12.0).reshape(3, 4))
    for view in (x.T, x.reshape(2, 6), x[1:], x[:, None], x[0, 0], ad.transpose(x, (1, 0))):
        assert np.shares_memory(view.array, x.array)
    assert not np.shares_memory(x[np.array([0])].array, x.array)
    assert x[0, 0].shape == ()


# ---- broadcasting against NumPy ------------------------------------------------------------------


@st.composite
def broadcastable(draw):
    full = draw(st.lists(st.integers(1, 3), max_size=3))

    def part():
        kept = full[draw(st.integers(0, len(full))) :]
        return tuple(1 if draw(st.booleans()) else n for n in kept)

    return part(), part(), draw(st.integers(0, 1000))


def folded(g, shape):
    """Sum a gradient back to the shape it was broadcast from, element by element."""
    result = np.zeros(shape)
    at = np.broadcast_to(np.arange(result.size).reshape(shape), g.shape)
    np.add.at(result.reshape(-1), at.ravel(), g.ravel())
    return result


@given(broadcastable(), st.sampled_from(["add", "sub", "mul", "div", "maximum", "where"]))
def test_broadcast_gradients(shapes, name):
    sa, sb, seed = shapes
    a, b = normal(*sa, seed=seed), positive(*sb, seed=seed + 1)
    x, y = Variable(a), Variable(b)
    full = np.broadcast_shapes(sa, sb)
    g = normal(*full, seed=seed + 2)
    above = a > b
    with GradientTape() as tape:
        z = ad.where(above, x, y) if name == "where" else getattr(ad, name)(x, y)
    dx, dy = tape.gradient(z, [x, y], Tensor(g))
    wanted = {
        "add": (g, g), "sub": (g, -g), "mul": (g * b, g * a), "div": (g / b, -g * a / b**2),
        "maximum": (g * above, g * ~above), "where": (g * above, g * ~above),
    }[name]  # fmt: skip
    np.testing.assert_allclose(dx.numpy(), folded(np.broadcast_to(wanted[0], full), sa), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(dy.numpy(), folded(np.broadcast_to(wanted[1], full), sb), rtol=1e-12, atol=1e-12)


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.sampled_from([(), (2,), (1,)]), st.integers(0, 99))
def test_matmul_gradients(n, k, m, batch, seed):
    a, b = normal(*batch, n, k, seed=seed), normal(k, m, seed=seed)
    x, y = Variable(a), Variable(b)
    with GradientTape() as tape:
        z = x @ y
    g = normal(*z.shape, seed=seed)
    dx, dy = tape.gradient(z, [x, y], Tensor(g))
    np.testing.assert_allclose(dx.numpy(), np.einsum("...nm,km->...nk", g, b), atol=1e-12)
    np.testing.assert_allclose(
        dy.numpy(), np.einsum("bnk,bnm->km", a.reshape(-1, n, k), g.reshape(-1, n, m)), atol=1e-12
    )


# ---- dtypes and mistakes -------------------------------------------------------------------------


def test_numbers_do_not_change_the_dtype():
    x = Variable(np.ones(3, np.float32))
    for number in (2, 2.0, True, np.float64(2), np.float32(2), np.int64(2), np.sqrt(2.0)):
        for y in (x * number, number * x, x + number, x**number, x / number, ad.maximum(x, number)):
            assert y.dtype == np.float32, number
    assert Tensor(1.5).dtype == np.float32
    assert Tensor([1, 2]).dtype == np.int64
    assert Variable([1, 2]).dtype == np.float32
    assert Tensor(np.ones(2)).dtype == np.float64


def test_a_gradient_has_the_dtype_of_its_source():
    x, y = Variable(np.ones(3, np.float32)), Variable(np.ones(3))
    with GradientTape() as tape:
        z = x * y + x.astype("float64")
    dx, dy = tape.gradient(z, [x, y])
    assert (dx.dtype, dy.dtype) == (np.float32, np.float64)


@pytest.mark.parametrize("function", [*(fused.FUSED[n] for n in ACTIVATIONS), FUNCTIONS["sqrt"], FUNCTIONS["mean"]])
def test_float32_stays_float32_to_the_second_derivative(function):
    x = Variable(np.full((2, 3), 0.7, np.float32))
    with GradientTape() as outer:
        with GradientTape() as inner:
            y = function(x)
        g = inner.gradient(y, x)
        total = ad.sum(g * g)
    h = outer.gradient(total, x)
    assert {y.dtype, g.dtype} == {np.dtype(np.float32)}
    assert h is None or h.dtype == np.float32


MISTAKES = {
    "add": (lambda x: x + np.ones(4), r"add: shapes \(2, 3\), \(4,\)"),
    "matmul": (lambda x: x @ np.ones((2, 2)), r"matmul: shapes \(2, 3\), \(2, 2\)"),
    "number": (lambda x: ad.matmul(x, 2.0), "use \\* to scale"),
    "reshape": (lambda x: x.reshape(4, -1), r"reshape: shapes \(2, 3\)"),
    "concat": (lambda x: ad.concat([x, np.ones((3, 3))]), r"concat: shapes \(2, 3\), \(3, 3\)"),
    "slice": (lambda x: x[5], r"slice: shapes \(2, 3\)"),
    "where": (lambda x: ad.where(np.ones(2, bool), x, 0.0), r"where: shapes \(2,\), \(2, 3\)"),
    "transpose": (lambda x: ad.transpose(x, (0, 1, 2)), r"transpose: shapes \(2, 3\)"),
    "broadcast": (lambda x: ad.broadcast_to(x, shape=(2, 4)), r"broadcast: shapes \(2, 3\)"),
    "max": (lambda x: ad.max(x, axis=5), r"max: shapes \(2, 3\)"),
    "dense": (lambda x: ad.dense(x, np.ones((2, 2)), np.ones(2)), r"dense: x \(2, 3\), W \(2, 2\) and b \(2,\)"),
    "dense b": (lambda x: ad.dense(x, np.ones((3, 2)), np.ones(3)), r"b \(3,\) do not fit"),
    "member_scale": (lambda x: ad.member_scale(x, np.ones((2, 2))), r"member_scale: x \(2, 3\) and gain \(2, 2\)"),
    "member_dense": (lambda x: ad.member_dense(x, np.ones((4, 3, 1)), np.ones((4, 1))), r"member_dense: x \(2, 3\)"),
    "layer_norm": (lambda x: ad.layer_norm(x, np.ones(2), np.ones(3)), r"layer_norm: x \(2, 3\), gain \(2,\)"),
    "mix": (lambda x: ad.mixed("tanh", x, np.ones((2, 3))), r"mix: x \(2, 3\) and a \(2, 3\) do not fit"),
    "dense_mixed": (
        lambda x: ad.dense_mixed(x, np.ones((3, 2)), np.ones(2), np.ones(3), "mish"),
        r"x \(2, 3\), W \(3, 2\), b \(2,\) and a \(3,\) do not fit",
    ),
    "outputs": (lambda x: ad.loss_value(LOSS_RECORDS["huber"], x[0], x[0]), r"outputs must be \(N, K\), not \(3,\)"),
    "targets": (lambda x: ad.loss_value(LOSS_RECORDS["huber"], x, x[0]), r"targets must be \(2, 3\), not \(3,\)"),
    "labels": (
        lambda x: ad.loss_value(LOSS_RECORDS["softmax_cross_entropy"], x, np.zeros(3, int)),
        r"targets must be \(2,\) or \(2, 3\), not \(3,\)",
    ),
    "rows": (lambda x: ad.loss_value(LOSS_RECORDS["huber"], x, x, np.ones(3)), r"row weights must be \(2,\)"),
    "classes": (
        lambda x: ad.loss_value(LOSS_RECORDS["softmax_cross_entropy"], x, np.zeros(2, int), None, np.ones(2)),
        r"class weights must be \(3,\), not \(2,\)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_shape_errors_name_the_operation_and_the_shapes(mistake):
    function, message = MISTAKES[mistake]
    with pytest.raises(ShapeError, match=message):
        function(Tensor(np.ones((2, 3))))


def test_a_tensor_of_a_tensor_is_where_that_is():
    backend = Backend()
    x = Tensor([1.0, 2.0], backend)
    for made in (Tensor(x), Variable(x), Tensor(x, dtype=np.float64)):
        assert made.backend is backend
    assert Tensor(x).array is x.array
    assert Tensor(x, Backend()).backend is not backend


def test_two_backends_do_not_mix():
    a, b = Tensor(np.ones(2), Backend()), Tensor(np.ones(2), Backend())
    for function in (
        lambda: a + b,
        lambda: ad.concat([a, b]),
        lambda: ad.stack([a, b]),
        lambda: a @ b,
        lambda: ad.layer_norm(a, b, b),
        lambda: ad.where(a > 0, a, b),
    ):
        with pytest.raises(BackendError, match="two backends"):
            function()


# ---- gradcheck itself ----------------------------------------------------------------------------


def test_gradcheck_rejects_a_wrong_gradient():
    @primitive("wrong", lambda g, y, x: g * 3.0001 * x * x)
    def wrong(backend, x):
        return backend.compute("cube", lambda x, out: np.power(x, 3, out=out), x)

    @primitive("right", lambda g, y, x: g * 3.0 * x * x)
    def right(backend, x):
        return backend.compute("cube", lambda x, out: np.power(x, 3, out=out), x)

    assert gradcheck(right, [normal(3)]).error < 1e-8
    with pytest.raises(TapeError, match="the gradient is wrong"):
        gradcheck(wrong, [normal(3)])
    with pytest.raises(TapeError, match="the gradient is wrong"):
        gradcheck(lambda x: ad.sqrt(x - 10.0), [positive(2)])  # NaN does not pass
    with pytest.raises(TapeError, match="the gradient is wrong"):
        gradcheck(lambda x: Tensor(x.numpy() ** 2) + 0.0 * x, [normal(3)])  # a value cut from the tape


def test_gradcheck_widens_floats_and_leaves_whole_numbers_alone():
    seen = []

    def function(x, labels):
        seen.append((x.dtype, labels.dtype, labels.numpy().tolist()))
        return x * 2.0

    check = gradcheck(function, [np.ones(2, np.float32), np.array([1, 2], np.int8)])
    assert check.passed()
    assert set(map(str, seen)) == {str((np.dtype("f8"), np.dtype("i1"), [1, 2]))}


def test_a_formula_on_the_taped_module_keeps_constants_plain():
    module, x = TapedModule(Backend()), Tensor(np.ones(2))
    assert isinstance(module.exp(np.ones(2)), np.ndarray)
    assert isinstance(module.exp(x), Tensor)
    assert isinstance(module.concatenate([x, np.ones(2)]), Tensor)
    assert module.float64 is np.float64


def test_getitem_and_scatter_are_transposes():
    x, g = normal(4, 3), normal(2, 3, seed=1)
    index = np.array([3, 3])
    forward = getitem(Tensor(x), index=index).numpy()
    backward = scatter(Tensor(g), shape=(4, 3), index=index).numpy()
    np.testing.assert_allclose((forward * g).sum(), (x * backward).sum())
