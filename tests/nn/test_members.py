"""Networks that share their hidden layers: as many networks written out one by one, in float64 and in PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
from support import BACKENDS, assert_close, bits

from gpumlp import backend as backends
from gpumlp.autodiff import GradientTape, Tensor
from gpumlp.errors import ConfigError, ShapeError
from gpumlp.nn import Architecture, Clamp, Dense, Dropout, Ensemble, Hidden, LayerNorm, Loss, Sequential, mlp
from gpumlp.nn.members import MemberHeads, MemberScale, ones
from gpumlp.optim import Optimizer
from gpumlp.training.device_data import evaluated

COUNT, ROWS, WIDTH = 3, 7, 5


def mini(outputs, link, **build):
    return Sequential(
        [MemberScale(COUNT), Dense(8, "relu"), Dense(6, "tanh"), MemberHeads(COUNT, outputs, link)]
    ).build(WIDTH, **build)


def full(outputs, link, **build):
    def layers(units, first):
        initial = {} if first else {"initial": ones}
        return [
            MemberScale(COUNT, first=first, **initial),
            Dense(units, bias=False),
            MemberScale(COUNT, bias=True, first=False, initial=ones),
            Dense(units, "tanh"),
        ]

    return Sequential([*layers(8, True), *layers(6, False), MemberHeads(COUNT, outputs, link)]).build(WIDTH, **build)


def of_each(model, x):
    """Return the linear values of each member, (N, k, K), by products of its own alone."""
    arrays = model.arrays()
    found = []
    for member in range(COUNT):
        h = x
        for name, layer in model.layers().items():
            own = {key.removeprefix(f"{name}."): a for key, a in arrays.items() if key.startswith(f"{name}.")}
            if isinstance(layer, MemberScale):
                h = h * own["factors"][member] + (own["bias"][member] if layer.bias else 0.0)
            elif isinstance(layer, MemberHeads):
                h = h @ own["W"][member] + own["b"][member]
            else:
                z = h @ own["W"] + own.get("b", 0.0)
                h = {"relu": z.clip(0), "tanh": np.tanh(z), "identity": z}[layer.activation]
        found.append(h)
    return np.stack(found, axis=1)


def shares(z):
    powers = np.exp(z - z.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


@pytest.fixture
def rows():
    return np.random.default_rng(5).standard_normal((ROWS, WIDTH))


@pytest.mark.parametrize("network", [mini, full])
@pytest.mark.parametrize("link", ["softmax", "sigmoid", "identity"])
@pytest.mark.parametrize("name", BACKENDS)
def test_each_member_computes_what_it_would_alone_and_they_predict_by_their_mean(network, link, name, rows):
    backend = backends.get(name)
    outputs = 1 if link == "sigmoid" else 3
    model = network(outputs, link, backend=backend, dtype=np.float64)
    each = of_each(model, rows)
    x = Tensor(rows, backend)
    assert_close(model.forward(x, training=True).numpy(), each)
    predicted = {"softmax": shares, "sigmoid": lambda z: 1 / (1 + np.exp(-z)), "identity": lambda z: z}[link](each)
    assert len({bits(member) for member in np.moveaxis(predicted, 1, 0)}) == COUNT
    assert_close(model(x).numpy(), predicted.mean(axis=1))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("task", "outputs"), [("cross_entropy", 3), ("cross_entropy", 1), ("squared_error", 2)])
def test_the_loss_is_the_mean_of_the_losses_of_all_members(task, outputs, weighted, rows):
    link = {3: "softmax", 1: "sigmoid", 2: "identity"}[outputs]
    model = mini(outputs, link, dtype=np.float64)
    rng = np.random.default_rng(1)
    labels = rng.integers(0, max(outputs, 2), ROWS).astype(np.int32)
    targets = rng.standard_normal((ROWS, outputs)) if task == "squared_error" else labels
    weights = rng.uniform(0.5, 2.0, ROWS) if weighted else None
    loss = Loss(task, model)
    value, sums = loss(model.forward(Tensor(rows), training=True), targets, weights)
    each = [loss(Tensor(z), targets, weights) for z in np.moveaxis(of_each(model, rows), 1, 0)]
    assert_close(value.numpy(), np.mean([float(one.numpy()) for one, _ in each]))
    assert_close(sums.numpy(), np.sum([one.numpy() for _, one in each], axis=0), "reduction")


def test_the_start_is_random_signs_for_each_member_and_a_head_for_each():
    model = mini(2, "softmax", seed=4)
    arrays = model.arrays()
    factors = arrays["memberscale_1.factors"]
    assert set(np.unique(factors)) == {-1.0, 1.0}
    assert len({bits(row) for row in factors}) == COUNT
    assert len({bits(head) for head in arrays["memberheads_1.W"]}) == COUNT


@pytest.mark.parametrize("kind", [{"embedding": "ple", "bins": 3}, {"embedding": "pbld", "waves": 3}], ids=str)
@pytest.mark.parametrize("share", ["hidden", "weights"])
def test_factors_of_embedded_numbers_start_normal_and_alike_in_all_values_of_a_number(share, kind):
    numbers, size, rest = 40, 4, 25
    architecture = Architecture((Hidden(8),), heads=30, share=share, numbers=numbers, embedding_size=size, **kind)
    model = mlp(architecture, 2, "softmax").build(numbers + rest, seed=1)
    factors = model.arrays()["memberscale_1.factors"]
    size += kind["embedding"] == "pbld"  # the number itself stands before its waves
    assert factors.shape == (30, numbers * size + rest)
    embedded = factors[:, : numbers * size].reshape(30, numbers, size)
    assert (embedded == embedded[:, :, :1]).all()
    drawn = np.concatenate([embedded[:, :, 0], factors[:, numbers * size :]], axis=1)
    assert len(np.unique(drawn)) == drawn.size
    assert abs(drawn.mean()) < 4 / drawn.size**0.5
    assert abs(drawn.std() - 1) < 4 / (2 * drawn.size) ** 0.5


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_captured_step_takes_the_bits_of_steps_that_are_not(name, dtype, rows):
    backend = backends.get(name)

    def run(captured):
        layers = [MemberScale(COUNT), Dense(8, "relu"), Dropout(0.3), LayerNorm(), MemberHeads(COUNT, 3, "softmax")]
        model = Sequential(layers).build(WIDTH, backend=backend, dtype=dtype, seed=2)
        optimizer = Optimizer("adamw", model.parameters, model.context.clock, averaging=0.9)
        loss = Loss("cross_entropy", model)
        x = backend.asarray(rows.astype(np.float32))
        x = backend.cast(x, model.context.dtype)
        y = backend.asarray(np.arange(ROWS, dtype=np.int32) % 3)

        def step():
            with GradientTape() as tape:
                value, _ = loss(model.forward(Tensor(x, backend), training=True), y)
            model.parameters.collect(tape, value)
            optimizer.step()

        if captured:
            plan = backend.capture(step)
            for _ in range(4):
                plan()
        else:
            for _ in range(5):
                step()
        return model.arrays()

    eager, replayed = run(False), run(True)
    assert {key: bits(a) for key, a in eager.items()} == {key: bits(a) for key, a in replayed.items()}


def test_a_clamp_behind_the_heads_bounds_the_mean_alone(rows):
    model = Sequential([MemberScale(COUNT), Dense(4, "relu"), MemberHeads(COUNT, 1), Clamp()]).build(WIDTH)
    x = Tensor(rows.astype(np.float32))
    free = model(x).numpy()
    middle = float(np.median(free))
    clamp = model.chain[-1]
    assert isinstance(clamp, Clamp)
    clamp.set(middle, middle)
    assert (model(x).numpy() == np.float32(middle)).all()
    assert np.ptp(model.forward(x, training=True).numpy()) > 0


@pytest.mark.parametrize("network", [mini, full])
def test_the_rows_of_all_members_are_those_that_are_computed_at_once(network, rows):
    """As many values of a layer are held as those of a network without members, and predictions are the same."""
    for model in (network(2, "softmax"), Ensemble([network(2, "softmax", seed=seed) for seed in range(2)])):
        for batch, sizes in ((1, [1] * ROWS), (2 * COUNT + 1, [2, 2, 2, 1]), (COUNT * ROWS, [ROWS])):
            found = list(evaluated(model, ROWS, lambda block: Tensor(rows[block].astype(np.float32)), batch))
            assert [len(linear) for _, linear in found] == sizes
            whole = model.forward(Tensor(rows.astype(np.float32))).numpy()
            assert_close(np.concatenate([linear.numpy() for _, linear in found]), whole)


def test_what_does_not_fit_is_refused(rows):
    with pytest.raises(ConfigError, match="the number of members is 0"):
        MemberScale(0)
    with pytest.raises(ShapeError, match="7 rows are not those of 3 members"):
        MemberScale(COUNT, first=False)(Tensor(rows))
    with pytest.raises(ShapeError, match=r"member_dense: x \(7, 5\)"):
        MemberHeads(COUNT, 2).linear(Tensor(rows))


@pytest.mark.parametrize("network", [mini, full])
def test_training_agrees_with_pytorch(network, rows):
    torch = pytest.importorskip("torch", reason="needs the extra 'oracle': pip install gpumlp[oracle]")
    model = network(3, "softmax", dtype=np.float64)
    labels = np.arange(ROWS) % 3
    theirs = {key: torch.tensor(a, requires_grad=True) for key, a in model.arrays().items()}
    decays = [a for key, a in theirs.items() if not key.endswith(("b", "bias"))]
    others = [a for key, a in theirs.items() if key.endswith(("b", "bias"))]
    adam = torch.optim.AdamW(
        [{"params": decays, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}], lr=1e-2
    )

    def their_loss():
        h = torch.tensor(rows)[:, None].expand(-1, COUNT, -1)
        for name, layer in model.layers().items():
            if isinstance(layer, MemberScale):
                h = h * theirs[f"{name}.factors"] + (theirs[f"{name}.bias"] if layer.bias else 0.0)
            elif isinstance(layer, MemberHeads):
                h = torch.einsum("nkp,kpc->nkc", h, theirs[f"{name}.W"]) + theirs[f"{name}.b"]
            else:
                h = h @ theirs[f"{name}.W"] + theirs.get(f"{name}.b", 0.0)
                h = {"relu": torch.relu, "tanh": torch.tanh, "identity": lambda z: z}[layer.activation](h)
        return torch.nn.functional.cross_entropy(h.reshape(-1, 3), torch.tensor(labels).repeat_interleave(COUNT))

    optimizer = Optimizer("adamw", model.parameters, model.context.clock, learning_rate=1e-2, weight_decay=0.05)
    loss, losses = Loss("cross_entropy", model), []
    for _ in range(20):
        adam.zero_grad()
        expected = their_loss()
        expected.backward()
        adam.step()
        with GradientTape() as tape:
            value, _ = loss(model.forward(Tensor(rows), training=True), labels.astype(np.int32))
        model.parameters.collect(tape, value)
        optimizer.step()
        losses.append(float(value.numpy()))
        assert losses[-1] == pytest.approx(expected.item(), rel=1e-11)
    assert losses[-1] < losses[0]
    for key, array in model.arrays().items():
        np.testing.assert_allclose(array, theirs[key].detach().numpy(), rtol=1e-9, atol=1e-11)
