"""Optimizers against steps written out in float64, and on problems they must solve."""

from __future__ import annotations

import copy
import inspect
from types import SimpleNamespace

import numpy as np
import pytest
from support import BACKENDS, FLOATS, assert_close, decaying, update_reference

from gpumlp import backend as backends
from gpumlp.autodiff import GradientTape, Tensor
from gpumlp.backend import Backend
from gpumlp.errors import ConfigError
from gpumlp.nn import Clamp, Declared, Dense, Layer, LayerNorm, Loss, Sequential
from gpumlp.nn.members import MemberHeads, MemberScale
from gpumlp.ops import UPDATES
from gpumlp.optim import OPTIMIZERS, Optimizer
from gpumlp.optim.muon import orthogonal

every = pytest.mark.parametrize("name", OPTIMIZERS)
flat_ones = pytest.mark.parametrize("name", [name for name, spec in OPTIMIZERS.items() if not spec.of_matrices])
SIZE, DECAYED = 33, 20
GROUPS = decaying(DECAYED, SIZE)


def flat(dtype, seed=0):
    values = np.random.default_rng(seed).standard_normal(SIZE).astype(dtype)
    gradients = np.zeros(SIZE, dtype)
    return SimpleNamespace(
        backend=Backend(),
        values=values,
        gradients=gradients,
        groups=GROUPS,
        shadow=None,
        overwrote=lambda: None,
    )


def clock():
    return np.zeros(3, np.int64)


@flat_ones
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    "extra", [{}, {"weight_decay": 0.1}, {"clip_norm": 3.0}, {"clip_norm": 1e9, "weight_decay": 0.1}]
)
def test_steps_agree_with_the_reference(name, dtype, extra):
    parameters, time = flat(dtype), clock()
    optimizer = Optimizer(name, parameters, time, learning_rate=0.05, **extra)
    spec = OPTIMIZERS[name]
    hyper = {key: h.default for key, h in spec.hyper.items()}
    shared = {"groups": GROUPS, "weight_decay": spec.weight_decay} | extra
    p, state = parameters.values.astype(np.float64), [s.astype(np.float64) for s in optimizer.slots.values()]
    rng = np.random.default_rng(1)
    for t in range(1, 9):
        parameters.gradients[...] = rng.standard_normal(SIZE)
        g = parameters.gradients.astype(np.float64)
        p = update_reference(spec.update.name, p, g, state, t, 0.05, **shared, **hyper)
        optimizer.step()
        assert_close(parameters.values, p)
        for slot, expected in zip(optimizer.slots.values(), state, strict=True):
            assert_close(slot, expected)
    assert time.tolist() == [8, 8, 0]


@flat_ones
def test_settings_are_used(name):
    """Each number of an optimizer, moved from its default, changes where three steps lead."""

    def end(**hyper):
        parameters = flat(np.float64)
        optimizer = Optimizer(name, parameters, clock(), **hyper)
        for _ in range(3):
            parameters.gradients[...] = np.sin(np.arange(SIZE)) * 1e-3 + parameters.values
            optimizer.step()
        return parameters.values.copy()

    plain = end()
    for key, h in OPTIMIZERS[name].hyper.items():
        assert not np.array_equal(end(**{key: h.default * 0.9}), plain)
    for shared in ({"learning_rate": 1e-4}, {"weight_decay": 0.5}, {"clip_norm": 1e-3}):
        assert not np.array_equal(end(**shared), plain) or (
            name in ("adam", "adamw", "adagrad") and "clip_norm" in shared
        )


@flat_ones
def test_trains_a_quadratic(name):
    """½ Σ c (x - 3)² with curvatures from 0.2 to 2."""
    parameters = flat(np.float64)
    optimizer = Optimizer(
        name,
        parameters,
        clock(),
        learning_rate={"adagrad": 1.0, "schedule_free": 0.5}.get(name, 0.05),
        weight_decay=0.0,
    )
    curvature = np.linspace(0.2, 2, SIZE)
    for _ in range(600):
        parameters.gradients[...] = curvature * (parameters.values - 3)
        optimizer.step()
    assert np.abs(optimizer.weights - 3).max() < 0.06  # rmsprop and adam end up circling within a step or so


@every
def test_trains_a_small_net(name):
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (64, 2)).astype(np.float32)
    labels = (x[:, 0] * x[:, 1] > 0).astype(np.int32)  # exclusive or
    model = Sequential([Dense(16, "tanh"), Dense(1, "sigmoid")]).build(2, seed=1)
    rate = OPTIMIZERS[name].learning_rate * (10 if name in ("rmsprop", "adam", "adamw", "adagrad", "sgd") else 5)
    optimizer = Optimizer(name, model.parameters, model.context.clock, learning_rate=rate)
    loss = Loss("cross_entropy", model)
    for _ in range(300):
        with GradientTape() as tape:
            value, sums = loss(model.forward(Tensor(x)), labels)
        model.parameters.collect(tape, value)
        optimizer.step()
    assert sums[2] >= 60
    assert float(value) < 0.3


@pytest.mark.parametrize("shape", [(3, 3), (5, 8), (9, 4)])
def test_muon_brings_singular_values_near_1_and_leaves_their_vectors(shape):
    N = np.random.default_rng(2).standard_normal(shape)
    u, _, v = np.linalg.svd(N, full_matrices=False)
    found = u.T @ orthogonal(Backend(), N) @ v.T
    assert np.abs(found - np.diag(np.diag(found))).max() < 1e-12
    assert 0.6 < np.diag(found).min() <= np.diag(found).max() < 1.3
    assert not orthogonal(Backend(), np.zeros(shape)).any()
    assert np.isfinite(orthogonal(Backend(), np.full(shape, 1e30, np.float32))).all()


def test_muon_is_for_hidden_matrices_alone():
    """Not for the last layer, biases, gains, factors of members or their heads; for all of them AdamW is."""
    layers = [MemberScale(2), Dense(4, "tanh"), LayerNorm(), Dense(3, "tanh"), MemberHeads(2, 2)]
    for model, hidden in (
        (Sequential(layers), ["dense_1.W", "dense_2.W"]),
        (Sequential([Dense(4, "tanh"), Dense(2), Clamp()]), ["dense_1.W"]),
        (Sequential([Dense(2)]), []),
    ):
        model.build(5, seed=1)
        assert list(model.parameters.hidden) == hidden
        other = copy.deepcopy(model)
        muon = Optimizer("muon", model.parameters, model.context.clock, learning_rate=0.1, others=0.5, momentum=0.9)
        adamw = Optimizer("adamw", other.parameters, other.context.clock, learning_rate=0.05)
        for each, optimizer in ((model, muon), (other, adamw)):
            each.parameters.gradients[...] = np.sin(np.arange(len(each.parameters.gradients)))
            optimizer.step()
        for key, found in model.arrays().items():
            assert np.array_equal(found, other.arrays()[key]) == (key not in hidden)


@every
def test_decay_is_for_weights_alone_and_decoupled(name):
    model = Sequential([Dense(3, "tanh"), LayerNorm(), Dense(2)]).build(4)
    before = {k: v + 0.5 for k, v in model.arrays().items()}
    model.load(before)
    model.parameters.gradients[...] = 0
    same = {"others": 1.0} if name == "muon" else {}
    Optimizer(name, model.parameters, model.context.clock, learning_rate=0.1, weight_decay=0.2, **same).step()
    for key, after in model.arrays().items():
        factor = 1 - 0.1 * 0.2 if key.endswith(".W") else 1.0
        np.testing.assert_allclose(after, before[key] * factor, rtol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, "bfloat16"])
def test_a_layer_gives_its_arrays_factors_of_rate_and_decay(backend, dtype):
    """Each is updated as by an optimizer of its own, with these factors multiplied into its settings."""
    backend = backends.get(backend)
    declared = {
        "slow": Declared((5,), "weight", lambda rng: rng.standard_normal(5), rate=0.1, decay=0.5),
        "W": Declared((5, 2), "weight", lambda rng: rng.standard_normal((5, 2))),
        "factors": Declared((5,), "offset", lambda rng: rng.standard_normal(5), rate=6.0, decay=6.0),
        "b": Declared((2,), "offset", lambda rng: rng.standard_normal(2), rate=0.1),
        "fixed": Declared((3,), "weight", lambda rng: rng.standard_normal(3), rate=0.0),
    }

    class Grouped(Layer):
        def declare(self, inputs):
            return declared

        def forward(self, x, *, training=False):
            return x

    model = Sequential([Grouped()]).build(5, backend=backend, dtype=dtype)
    parameters, rng = model.parameters, np.random.default_rng(2)
    assert [row[1:] for row in parameters.ranges] == [(0, 1), (0.1, 0.5), (1, 1), (6, 6), (0.1, 0)]
    optimizer = Optimizer(
        "adamw", parameters, model.context.clock, learning_rate=0.02, weight_decay=0.3, averaging=0.9
    )
    hyper = {key: h.default for key, h in OPTIMIZERS["adamw"].hyper.items()}
    expected = {name: values.astype(np.float64).ravel() for name, values in model.arrays().items()}
    states = {name: [np.zeros(values.size), np.zeros(values.size)] for name, values in expected.items()}
    for t in range(1, 4):
        for name, values in expected.items():
            array = declared[name.partition(".")[2]]
            g = rng.standard_normal(array.shape)
            backend.write(parameters.view(name, parameters.gradients), g)
            decay = 0.3 * (array.role == "weight" if array.decay is None else array.decay)
            settings = {"groups": [(values.size, 1, 1)], "weight_decay": decay, **hyper}
            expected[name] = update_reference(
                "adam", values, g.ravel(), states[name], t, 0.02 * array.rate, **settings
            )
        optimizer.step()
    for name, values in model.arrays().items():
        np.testing.assert_allclose(values.ravel(), expected[name], rtol=1e-5, atol=1e-6)


def test_equal_groups_are_one_range_wherever_they_stand():
    layers = [Dense(4, "relu"), LayerNorm(), Dense(2)]
    model = Sequential(layers).build(3)
    assert [row[1:] for row in model.parameters.ranges] == [(1, 1), (1, 0)]
    twin = copy.deepcopy(model)
    assert twin.parameters.groups.tolist() == model.parameters.groups.tolist()


@pytest.mark.parametrize("factors", [{"rate": -1.0}, {"decay": -0.5}, {"rate": np.nan}, {"decay": np.inf}])
def test_a_factor_is_a_number_of_at_least_0(factors):
    with pytest.raises(ConfigError, match=f"{next(iter(factors))} of an array is"):
        _ = Declared((2,), "weight", np.zeros, **factors).group


def test_decay_by_default():
    assert {name for name, spec in OPTIMIZERS.items() if spec.weight_decay} == {"adamw", "muon", "schedule_free"}
    assert Optimizer("adamw", flat(np.float32), clock()).settings["weight_decay"] == 0.01
    assert Optimizer("adamw", flat(np.float32), clock(), weight_decay=0.0).settings["weight_decay"] == 0


def test_clipping_bounds_the_norm_of_the_whole_gradient():
    for size, expected in ((100.0, 2.0), (1.0, 1.0), (0.0, 0.0)):
        parameters = flat(np.float64)
        before = parameters.values.copy()
        parameters.gradients[...] = size / SIZE**0.5
        optimizer = Optimizer("sgd", parameters, clock(), learning_rate=1.0, clip_norm=2.0)
        optimizer.step()
        np.testing.assert_allclose(np.linalg.norm(before - parameters.values), expected, rtol=1e-12)
        np.testing.assert_allclose(optimizer.norm, [size], rtol=1e-12)
        np.testing.assert_allclose(parameters.gradients, size / SIZE**0.5)  # the gradients themselves stay


def test_the_average_follows_its_formula():
    parameters = flat(np.float64)
    optimizer = Optimizer("sgd", parameters, clock(), learning_rate=0.1, averaging=0.6)
    average = parameters.values.copy()
    np.testing.assert_array_equal(optimizer.average, average)
    for t in range(1, 21):
        parameters.gradients[...] = np.cos(np.arange(SIZE) * t)
        optimizer.step()
        beta = min(0.6, (1 + t) / (10 + t))
        average = beta * average + (1 - beta) * parameters.values
        np.testing.assert_allclose(optimizer.average, average, rtol=1e-12)
    assert (1 + 20) / (10 + 20) > 0.6 > 2 / 11  # both sides of the minimum were seen
    assert optimizer.weights is optimizer.average
    assert Optimizer("sgd", parameters, clock()).weights is parameters.values


def test_rates_are_read_at_the_batch_of_the_clock():
    parameters, time = flat(np.float64), clock()
    optimizer = Optimizer("sgd", parameters, time)
    optimizer.rates = np.array([1.0, 10.0, 100.0])
    parameters.gradients[...] = 1.0
    for batch, rate in ((0, 1), (1, 10), (2, 100), (3, 100), (0, 1)):
        time[...] = [7, batch, 2]
        before = parameters.values.copy()
        optimizer.step()
        np.testing.assert_allclose(before - parameters.values, rate, rtol=1e-12)


def test_the_bias_correction_counts_from_the_clock():
    """A resumed run has the step count on its clock and the slots of its optimizer, and nothing else."""
    whole, time = flat(np.float32), clock()
    optimizer = Optimizer("adam", whole, time, averaging=0.9)
    for t in range(6):
        if t == 3:
            parts = SimpleNamespace(
                **{**vars(whole), "values": whole.values.copy(), "gradients": whole.gradients.copy()}
            )
            later = time.copy()
            resumed = Optimizer("adam", parts, later, averaging=0.9)
            assert set(resumed.state) == {"m", "v", "average"}
            for key, array in optimizer.state.items():
                resumed.state[key][...] = array
        for p, o in ((whole, optimizer), *(((parts, resumed),) if t >= 3 else ())):
            p.gradients[...] = np.sin(np.arange(SIZE) + t)
            o.step()
    np.testing.assert_array_equal(whole.values, parts.values)
    np.testing.assert_array_equal(optimizer.average, resumed.average)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_schedule_free_weighs_by_squared_rates_and_goes_on_from_its_state(backend, dtype):
    """Against its three sequences kept apart, with rates that rise from 0, clipping, and a stop in the middle."""
    backend, rates = backends.get(backend), np.array([0.0, 0.01, 0.02, 0.05, 0.05, 0.02])
    start = np.random.default_rng(0).standard_normal(SIZE)
    x, y, z, v, squares = start.copy(), start.copy(), start.copy(), np.zeros(SIZE), 0.0

    def make():
        parameters = flat(dtype)
        fields = ("values", "gradients", "groups")
        on_device = {name: backend.asarray(vars(parameters)[name], copy=True) for name in fields}
        parameters = SimpleNamespace(**{**vars(parameters), **on_device, "backend": backend})
        time = backend.asarray(clock())
        return Optimizer("schedule_free", parameters, time, clip_norm=3.0, weight_decay=0.3, beta1=0.8), parameters

    optimizer, p = make()
    assert_close(backend.to_host(optimizer.weights), start.astype(dtype).astype(np.float64))
    table = backend.asarray(rates.astype(dtype))
    for t, rate in enumerate(rates, 1):
        if t == 4:
            (again, p2), kept = make(), optimizer.state
            assert set(kept) == {"z", "v", "rate_squares"}
            for key, array in again.state.items():
                backend.write(array, backend.to_host(kept[key]))
            backend.write(p2.values, backend.to_host(p.values))
            backend.write(again.clock, backend.to_host(optimizer.clock))
            optimizer, p = again, p2
        g = np.sin(np.arange(SIZE) * t)
        backend.write(p.gradients, g)
        optimizer.step(table)
        g *= min(1.0, 3.0 / np.linalg.norm(g))
        v = 0.999 * v + 0.001 * g**2
        z = z - rate * (g / (np.sqrt(v / (1 - 0.999**t)) + 1e-8) + 0.3 * y * (np.arange(SIZE) < DECAYED))
        squares += rate**2
        c = rate**2 / squares if squares else 0.0
        x = (1 - c) * x + c * z
        y = 0.2 * z + 0.8 * x
        for array, wanted in ((p.values, y), (optimizer.slots["z"], z), (optimizer.weights, x)):
            assert_close(backend.to_host(array), wanted)
    assert np.abs(x - z).max() > 0.01
    with pytest.raises(ConfigError, match="averages the weights by itself"):
        Optimizer("schedule_free", p, averaging=0.9)


def test_nan_gradients_are_not_hidden_by_clipping():
    parameters = flat(np.float32)
    parameters.gradients[3] = np.nan
    Optimizer("sgd", parameters, clock(), clip_norm=1.0).step()
    assert np.isnan(parameters.values[3])


def test_every_update_has_a_name_and_its_settings_are_those_of_its_rule():
    assert {spec.update.name for spec in OPTIMIZERS.values()} == set(UPDATES)
    for spec in OPTIMIZERS.values():
        assert spec.hyper == {**spec.of_matrices, **spec.update.hyper}
        assert not spec.of_matrices.keys() & spec.update.hyper.keys()
        assert all(h.meaning for h in spec.hyper.values())
    assert "learning_rate" in inspect.signature(Optimizer).parameters


def test_unknown_names():
    with pytest.raises(ConfigError, match="did you mean 'adam'"):
        Optimizer("adma", flat(np.float32), clock())
    with pytest.raises(ConfigError, match="did you mean 'epsilon'"):
        Optimizer("adam", flat(np.float32), clock(), epsilom=0.5)
    with pytest.raises(ConfigError, match="the optimizer sgd has no setting 'momentum'"):
        Optimizer("sgd", flat(np.float32), clock(), momentum=0.5)


def test_the_formula_of_muon_is_that_of_hidden_matrices_and_then_that_of_the_others() -> None:
    matrices, _, others = OPTIMIZERS["muon"].meaning.partition("; of others ")
    assert "orthogonal" in matrices
    assert others == OPTIMIZERS["adamw"].meaning
