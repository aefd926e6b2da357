"""Embeddings of numbers in networks stored in bfloat16: float32 up to their output, which is rounded once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ranks.threads import by_threads
from support import BACKENDS, bits

from gpumlp import backend as backends
from gpumlp.autodiff import GradientTape, Tensor, Variable, concat
from gpumlp.autodiff.tensor import as_dtype
from gpumlp.backend import Backend
from gpumlp.data import Dataset, Features
from gpumlp.nn import (
    Architecture,
    BinnedEmbedding,
    Dense,
    Ensemble,
    Hidden,
    Loss,
    Model,
    PeriodicEmbedding,
    ScaledFlags,
    Sequential,
    mlp,
)
from gpumlp.ops.precision import dtype_of
from gpumlp.optim import Optimizer, Schedule
from gpumlp.ranks import Ranks
from gpumlp.training.device_data import outputs
from gpumlp.training.trainer import Trainer

NARROW = dtype_of("bfloat16")
ROWS, NUMBERS, FLAGS, SIZES = 96, 4, 2, (12, 3)
DENSE, WIDTH = NUMBERS + FLAGS, NUMBERS + FLAGS + sum(SIZES)
HIDDEN = (Hidden(16, dropout=0.1), Hidden(16, norm="layer"))
MISSING: dict[str, Any] = {"flagged": (0, 2)}
TABLES: dict[str, Any] = {"values": SIZES, "table_above": 8, "table_size": 4, "scaled_flags": True}
MEMBERS: dict[str, Any] = {"heads": 3, "columns": (*range(DENSE), *[DENSE] * SIZES[0], *[DENSE + 1] * SIZES[1])}
NETWORKS: dict[str, dict[str, Any]] = {
    "ple": {"embedding": "ple", "bins": 8},
    "pbld": {"embedding": "pbld", "waves": 8, "frequency": 1.0},
    "both": {"embedding": "both", "bins": 8, "waves": 8},
    "missing": {"embedding": "ple", "bins": 8, **MISSING},
    "factors": {"embedding": "pbld", "waves": 8, "input_factors": True, "trained_activation": True},
    "hidden shared": {"embedding": "ple", "bins": 8, "share": "hidden", **MEMBERS},
    "weights shared": {"embedding": "both", "bins": 8, "waves": 8, "share": "weights", **MISSING, **MEMBERS},
    "all": {"embedding": "both", "bins": 8, "waves": 8, "input_factors": True, **MISSING, **TABLES},
}


def features() -> Features:
    """Return rows with numbers that bfloat16 does not tell apart, flags, and codes of categories."""
    rng = np.random.default_rng(2)
    numbers = 1.0 + 1e-3 * rng.standard_normal((ROWS, NUMBERS))
    codes = DENSE + np.cumsum([0, *SIZES[:-1]]) + np.column_stack([rng.integers(0, size, ROWS) for size in SIZES])
    rows = np.column_stack([numbers, rng.integers(0, 2, (ROWS, FLAGS)), codes])
    return Features(rows.astype(np.float32), DENSE, WIDTH)


LABELS = np.random.default_rng(4).integers(0, 3, ROWS).astype(np.int32)


def network(name: str, dtype: Any, machine: Backend) -> Sequential:
    """Return a network with bins between the rows, and weights that are all used."""
    architecture = Architecture(HIDDEN, numbers=NUMBERS, embedding_size=4, **NETWORKS[name])
    model = mlp(architecture, 3, "softmax").build(WIDTH, backend=machine, dtype=dtype, seed=5)
    rng = np.random.default_rng(6)
    for layer in model.chain:
        if isinstance(layer, BinnedEmbedding):
            layer.set_bins(features().stored)
            layer.weights["V"].assign(rng.standard_normal(layer.weights["V"].shape))
        if isinstance(layer, ScaledFlags):
            layer.set_scales(np.arange(NUMBERS, DENSE), np.array([20.0, 70.0]), float(ROWS))
    return model


def trainer(model: Sequential, rows: Features, *, batch: int = 32, **more: Any) -> Trainer:
    loss, clock = Loss("cross_entropy", model), model.context.clock
    optimizer = Optimizer("adamw", model.parameters, clock, clip_norm=1.0, averaging=0.9)
    schedule = Schedule("constant", learning_rate=1e-2)
    return Trainer(model, loss, optimizer, schedule, Dataset(rows, LABELS, None), epochs=3, batch_size=batch, **more)


@pytest.fixture(params=BACKENDS, scope="module")
def machine(request: pytest.FixtureRequest) -> Backend:
    return backends.get(request.param)


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_embedded_is_float32_and_then_rounded_once(name: str, machine: Backend) -> None:
    """Up to the first layer that does not embed, each output has the bits it has in float32; there it is rounded."""
    narrow, single = network(name, NARROW, machine), network(name, np.float32, machine)
    assert (narrow.input_dtype, single.input_dtype) == (np.float32, np.float32)
    x = features().expanded()
    layers = list(
        zip(narrow.chain, narrow.outputs(Tensor(x, machine)), single.outputs(Tensor(x, machine)), strict=True)
    )
    wide = [i for i, (_, value, _) in enumerate(layers[: len(layers) // 2]) if value.dtype == np.float32]
    assert wide == list(range(len(wide)))
    assert any(layer.takes == "compute" for layer in narrow.chain[: len(wide)])
    for _, value, expected in layers[: len(wide)]:
        assert bits(value.numpy()) == bits(expected.numpy())
    embedded = layers[len(wide) - 1][1]
    after = narrow.chain[len(wide)]
    assert {value.dtype for _, value, _ in layers[len(wide) : -1]} == {NARROW}
    assert bits(after(embedded).numpy()) == bits(after(Tensor(embedded.numpy().astype(NARROW), machine)).numpy())
    assert after.takes == "storage"


@pytest.mark.parametrize("name", NETWORKS)
def test_the_gradient_goes_back_through_one_cast(name: str, machine: Backend) -> None:
    """What is trained before the cast has float32's gradient of the rest's, which is stored in 16 bits."""
    model = network(name, NARROW, machine)
    loss, x = Loss("cross_entropy", model), Tensor(features().expanded(), machine)
    trained = list(model.parameters.variables.values())
    with GradientTape() as tape:
        value, _ = loss(model.forward(x, training=True), LABELS)
    gradients = {id(v): g.numpy() for v, g in zip(trained, tape.gradient(value, trained), strict=True)}
    assert all(np.isfinite(g).all() and g.any() for g in gradients.values())
    assert {g.dtype for g in gradients.values()} == {np.dtype(np.float32)}

    end = next(i for i, layer in enumerate(model.chain) if layer.takes == "storage")
    early = [v for layer in model.chain[:end] for v in layer.weights.values()]
    assert early
    with GradientTape() as tape:
        embedded = x
        for layer in model.chain[:end]:
            embedded = layer(embedded, training=True)
    boundary = Variable(embedded.numpy().astype(NARROW), machine)
    with GradientTape() as of_rest:
        h: Tensor = boundary
        for layer in model.chain[end:-1]:
            h = layer(h, training=True)
        value, _ = loss(model.chain[-1].linear(h, training=True), LABELS)
    (at_cast,) = of_rest.gradient(value, [boundary])
    assert at_cast.dtype == NARROW
    expected = tape.gradient(embedded, early, as_dtype(at_cast, np.float32))
    for variable, gradient in zip(early, expected, strict=True):
        assert bits(gradient.numpy()) == bits(gradients[id(variable)])


@pytest.mark.parametrize("name", NETWORKS)
def test_steps_are_near_those_of_numpy_in_float32(name: str, machine: Backend) -> None:
    def losses(dtype: Any, backend: Backend) -> list[float]:
        made = trainer(network(name, dtype, backend), features())
        return [made.run_epoch().loss for _ in range(3)]  # type: ignore[union-attr]

    expected = losses(np.float32, Backend())
    np.testing.assert_allclose(losses(np.float32, machine), expected, rtol=1e-4)
    found = losses(NARROW, machine)
    np.testing.assert_allclose(found, expected, rtol=0.02)
    assert found != expected


@pytest.mark.parametrize("name", NETWORKS)
def test_codes_train_as_the_matrix_does(name: str, machine: Backend) -> None:
    """Categories as codes are the columns of 0 and 1 that they stand for."""
    results = []
    for rows in (features(), Features.of_array(features().expanded())):
        made = trainer(network(name, NARROW, machine), rows)
        for _ in range(2):
            made.run_epoch()
        predicted = np.concatenate([each.numpy() for each in outputs(made.model, rows, 1.0, 40)])
        results.append({**made.model.arrays(), "predicted": predicted})
    for key, array in results[0].items():
        assert bits(array) == bits(results[1][key]), key
    assert made.data.arrays[0].dtype == np.float32  # type: ignore[union-attr]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_captured_step_is_the_eager_one(name: str, machine: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    captured, eager = (trainer(network(name, NARROW, machine), features(), mixup=0.3) for _ in range(2))
    monkeypatch.setattr(eager, "_step", lambda rows, count=1: [eager._define_step(rows) for _ in range(count)])
    losses = [[made.run_epoch().loss for _ in range(2)] for made in (captured, eager)]  # type: ignore[union-attr]
    assert losses[0] == losses[1]
    for key, array in captured.model.arrays().items():
        assert bits(array) == bits(eager.model.arrays()[key]), key


def test_ranks_change_no_bit() -> None:
    def trained(ranks: Ranks | None = None) -> dict[str, bytes]:
        made = trainer(network("all", NARROW, Backend()), features(), shards=4, ranks=ranks)
        made.run_epoch()
        return {key: bits(array) for key, array in made.model.arrays().items()}

    assert by_threads(2, trained) == [trained()] * 2


def test_a_network_without_embeddings_takes_what_it_stores() -> None:
    for layers in ([Dense(3)], [ScaledFlags(), Dense(3)]):
        assert Sequential(layers).build(4, dtype=NARROW).input_dtype == NARROW
    members = Ensemble([Sequential([PeriodicEmbedding(2), Dense(3)]) for _ in range(2)])
    assert members.build(4, dtype=NARROW).input_dtype == np.float32


def test_a_network_of_any_shape_rounds_where_a_layer_stores() -> None:
    """Inputs are float32 where any layer embeds them, and every other layer rounds what it is given."""

    class Beside(Model):
        def __init__(self) -> None:
            self.embedding, self.beside, self.output = PeriodicEmbedding(2, frequency=1.0), Dense(4, "tanh"), Dense(1)

        def forward(self, *inputs: Tensor, training: bool = False) -> Tensor:
            (x,) = inputs
            return self.output(concat([self.embedding(x), self.beside(x)]), training=training)

    model = Beside().build(2, dtype=NARROW, seed=1)
    x = 1.0 + 1e-3 * np.random.default_rng(0).standard_normal((6, 2)).astype(np.float32)
    rounded = x.astype(NARROW)
    assert bits(model.beside(x).numpy()) == bits(model.beside(rounded).numpy())
    assert model.beside(x).dtype == NARROW
    assert len({each.tobytes() for each in model.embedding(x).numpy()}) == 6
    between = concat([model.embedding(Tensor(x)), model.beside(Tensor(x))]).numpy().astype(NARROW)
    np.testing.assert_array_equal(model.predict(x), model.output(between).numpy().astype(np.float32))


def test_whole_numbers_are_embedded_as_they_are() -> None:
    whole = np.array([[1001, 3], [1002, 3]])  # bfloat16 has neither
    layer = PeriodicEmbedding(1)
    Sequential([layer, Dense(1)]).build(2, dtype=NARROW)
    assert layer(whole).numpy()[:, 3].tolist() == [1001, 1002]
    assert PeriodicEmbedding(1)(Tensor(whole.astype(NARROW))).dtype == np.float32
