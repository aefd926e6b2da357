"""Models: counting, summaries, buffers, saving, predicting."""

from __future__ import annotations

import re

import numpy as np
import pytest
from support import activation_reference

import gpumlp
from gpumlp.autodiff import GradientTape, Tensor, concat
from gpumlp.backend import Backend
from gpumlp.errors import ConfigError, ShapeError
from gpumlp.nn import BatchNorm, Dense, Dropout, Hidden, LayerNorm, Model, Sequential, count_parameters, mlp
from gpumlp.nn.parameters import ALIGNMENT


class Skip(Model):
    link = "softmax"

    def __init__(self):
        self.hidden = Dense(6, "tanh")
        self.norm = BatchNorm()
        self.output = Dense(3)

    def forward(self, x, *, training=False):
        h = self.hidden(x)
        return self.output(concat([x, self.norm(h, training=training)]))


class Blocks(Model):
    """Layers and models in lists and dictionaries, and in lists of these."""

    def __init__(self):
        self.blocks = {"first": Dense(5, "tanh"), "rest": [[Dense(4, "tanh")], [Dense(3, "tanh"), Skip()]]}

    def forward(self, x, *, training=False):
        ((one,), (two, model)) = self.blocks["rest"]
        return model.forward(two(one(self.blocks["first"](x))), training=training)


class Twins(Model):
    """Two inputs through one shared layer."""

    def __init__(self):
        self.shared = Dense(4, "tanh")
        self.heads = [Dense(1), Dense(1)]

    def forward(self, a, b, *, training=False):
        u, v = self.shared(a), self.shared(b)
        return concat([self.heads[0](u), self.heads[1](v)])


@pytest.mark.parametrize(("p", "h", "k"), [(4, 16, 3), (1, 1, 1), (784, 30, 10)])
def test_one_hidden_layer_has_p_plus_1_h_plus_h_plus_1_k_parameters(p, h, k):
    model = Sequential([Dense(h, "tanh"), Dense(k, "softmax")]).build(p)
    assert len(model.parameters) == (p + 1) * h + (h + 1) * k


@pytest.mark.parametrize(("p", "h1", "h2"), [(2, 8, 5), (3, 33, 31)])
def test_two_hidden_layers_and_one_output(p, h1, h2):
    model = Sequential([Dense(h1, "relu"), Dense(h2, "relu"), Dense(1, "sigmoid")]).build(p)
    assert len(model.parameters) == (p + 1) * h1 + (h1 + 1) * h2 + (h2 + 1)


def test_summary():
    model = Sequential([Dense(32, "tanh"), LayerNorm(), Dropout(0.25), Dense(10, "softmax")]).build(64)
    lines = model.summary().splitlines()
    assert [" ".join(line.split()) for line in lines if "─" not in line] == [
        "layer output parameters",
        "dense_1 (Dense, tanh) (N, 32) 2,080",
        "layernorm_1 (LayerNorm) (N, 32) 64",
        "dropout_1 (Dropout, 0.25) same 0",
        "dense_2 (Dense, softmax) (N, 10) 330",
        "total 2,474",
    ]
    assert len({len(line) for line in lines}) == 1


def test_sequential_is_the_network_written_by_hand():
    rng = np.random.default_rng(0)
    model = Sequential([Dense(6, "tanh"), Dense(5, "relu"), Dense(3, "softmax")]).build(4, dtype=np.float64)
    model.load({name: rng.standard_normal(a.shape) for name, a in model.arrays().items()})
    w, x = model.arrays(), rng.standard_normal((7, 4))
    z = np.maximum(np.tanh(x @ w["dense_1.W"] + w["dense_1.b"]) @ w["dense_2.W"] + w["dense_2.b"], 0)
    z = z @ w["dense_3.W"] + w["dense_3.b"]
    np.testing.assert_allclose(model.forward(Tensor(x)).numpy(), z, rtol=1e-12)
    np.testing.assert_allclose(model(x).numpy(), activation_reference("softmax", z), rtol=1e-12)
    assert (model.link, model.units, model.widths) == ("softmax", 3, (4,))


def test_a_sequential_may_end_in_another_layer():
    model = Sequential([Dense(3, "tanh"), LayerNorm()]).build(2)
    assert model.link == "identity"
    np.testing.assert_array_equal(model(np.ones((1, 2))).numpy(), model.forward(Tensor([[1.0, 1.0]])).numpy())
    with pytest.raises(ConfigError, match="at least one layer"):
        Sequential([]).build(2)


def test_a_layer_that_stands_twice_in_a_sequential_is_one_layer():
    shared = Dense(4, "tanh")
    model = Sequential([shared, shared, Dense(1)]).build(4)
    assert list(model.layers()) == ["dense_1", "dense_2"]
    assert len(model.parameters) == 4 * 4 + 4 + 4 + 1


def test_a_model_of_any_shape():
    model = Skip().build(4, dtype=np.float64)
    assert list(model.layers()) == ["hidden", "norm", "output"]
    assert model.arrays()["output.W"].shape == (4 + 6, 3)
    x = np.random.default_rng(0).standard_normal((5, 4))
    w = model.arrays()
    h = np.tanh(x @ w["hidden.W"] + w["hidden.b"]) / np.sqrt(1 + 1e-5)
    z = np.hstack([x, h]) @ w["output.W"] + w["output.b"]
    np.testing.assert_allclose(model.forward(Tensor(x)).numpy(), z, rtol=1e-10)
    np.testing.assert_allclose(model.predict(x), activation_reference("softmax", z), rtol=1e-10)


def test_several_inputs_and_a_shared_layer():
    model = Twins().build(3, 3, dtype=np.float64)
    assert list(model.layers()) == ["shared", "heads_1", "heads_2"]
    assert len(model.parameters) == 4 * 4 + 5 + 5
    a, b = np.random.default_rng(0).standard_normal((2, 5, 3))
    np.testing.assert_allclose(model.predict(a, b, batch=2)[:, 0], model.predict(a, a)[:, 0], rtol=1e-12)
    variables = model.parameters.variables
    with GradientTape() as tape:
        y = model.forward(Tensor(a), Tensor(b))
    got = tape.gradient(y, variables["shared.W"]).numpy()
    w = model.arrays()
    by_hand = sum(
        x.T @ ((1 - np.tanh(x @ w["shared.W"]) ** 2) @ np.diag(w[f"heads_{i}.W"][:, 0])) for i, x in ((1, a), (2, b))
    )
    np.testing.assert_allclose(got, by_hand, rtol=1e-10)


def test_models_in_models():
    class Trunk(Model):
        def __init__(self, layer):
            self.first, self.dropout = layer, Dropout(0.5)

        def forward(self, x, *, training=False):
            return self.dropout(self.first(x), training=training)

    class Tree(Model):
        def __init__(self):
            self.trunk = Trunk(Dense(4))
            self.again = self.trunk.first
            self.leaf = Dense(1)

        def forward(self, x, *, training=False):
            return self.leaf(self.again(self.trunk.forward(x, training=training)))

    tree = Tree().build(4, seed=5)
    assert list(tree.layers()) == ["trunk.first", "trunk.dropout", "leaf"]  # a shared layer counts once
    assert len(tree.parameters) == 20 + 5
    assert tree.trunk.dropout.context.clock is tree.context.clock

    class Wrong(Tree):
        def forward(self, x, *, training=False):
            return self.leaf(self.again(self.trunk(x, training=training)))

    with pytest.raises(ConfigError, match="a Trunk inside a Wrong was built by itself"):
        Wrong().build(4)


def test_the_flat_buffer():
    model = Sequential([Dense(5, "relu"), BatchNorm(), Dense(3, "softmax")]).build(7)
    p = model.parameters
    base = p.values.__array_interface__["data"][0]
    ends = []
    assert p.groups.tolist() == [list(row) for row in p.ranges]
    (decayed, *weights), (end, *offsets) = p.ranges
    assert (weights, offsets, end) == ([1, 1], [1, 0], len(p.values))
    for (name, variable), view in zip(p.variables.items(), p.views, strict=True):
        assert np.shares_memory(variable.array, p.values)
        assert np.shares_memory(view, p.gradients)
        assert view.shape == variable.shape
        offset = variable.array.__array_interface__["data"][0] - base
        assert offset % ALIGNMENT == 0
        assert view.__array_interface__["data"][0] - p.gradients.__array_interface__["data"][0] == offset
        assert not ends or offset // 4 >= ends[-1]
        ends.append(offset // 4 + variable.size)
        assert (offset // 4 < decayed) == name.endswith(".W")  # exactly the weights decay
        assert (offset // 4 + variable.size <= decayed) == name.endswith(".W")
    p.values[...] = 3
    assert all((v.numpy() == 3).all() for v in p.variables.values())
    assert all(v.name == name for name, v in p.variables.items())
    assert p.values.shape == p.gradients.shape
    assert len(p.values) >= len(p) == 8 * 5 + 10 + 6 * 3


def test_padding_starts_at_zero_and_gradients_leave_it_there():
    model = Sequential([Dense(3, "tanh"), Dense(1)]).build(2)
    p = model.parameters
    inside = np.zeros(len(p.values), bool)
    for name in p.variables:
        p.view(name, inside)[...] = True
    assert inside.sum() == len(p)
    with GradientTape() as tape:
        y = model.forward(Tensor(np.ones((4, 2), np.float32)))
    p.collect(tape, y)
    assert (p.values[~inside] == 0).all()
    assert (p.gradients[~inside] == 0).all()
    assert (p.gradients[inside] != 0).any()


def test_arrays_and_load_make_a_round_trip():
    first, second = Skip().build(4, seed=1), Skip().build(4, seed=2)
    first.forward(Tensor(np.random.default_rng(0).standard_normal((9, 4)).astype(np.float32)), training=True)
    saved = first.arrays()
    assert {"norm.mean", "norm.variance", "norm.gain", "hidden.W"} <= set(saved)
    second.load(saved)
    x = np.random.default_rng(1).standard_normal((3, 4))
    np.testing.assert_array_equal(first.predict(x), second.predict(x))
    saved["hidden.W"][...] = 0  # host copies, not views
    assert (first.arrays()["hidden.W"] != 0).any()
    assert np.shares_memory(second.parameters.variables["hidden.W"].array, second.parameters.values)


def test_arrays_of_another_buffer_in_the_same_layout():
    model = Skip().build(4)
    average = np.full_like(model.parameters.values, 2)
    arrays = model.arrays(average)
    assert (arrays["hidden.W"] == 2).all()
    assert (arrays["norm.mean"] == 0).all()
    model.parameters.load({k: v * 2 for k, v in model.parameters.arrays(average).items()}, average)
    assert (model.arrays(average)["output.b"] == 4).all()
    assert (model.arrays()["output.b"] == 0).all()


def test_load_refuses_what_does_not_fit():
    model = Skip().build(4)
    good = model.arrays()
    for wrong, message in (
        ({k: v for k, v in good.items() if k != "hidden.W"}, "missing \\['hidden.W'\\]"),
        (good | {"other": np.ones(1)}, "unknown \\['other'\\]"),
        (good | {"hidden.W": np.ones((3, 6))}, r"hidden.W has shape \(3, 6\), the model needs \(4, 6\)"),
        (good | {"norm.mean": np.ones(5)}, r"norm.mean is missing or does not have the shape \(6,\)"),
        ({k: v for k, v in good.items() if k != "norm.mean"}, "norm.mean is missing"),
    ):
        with pytest.raises(ShapeError, match=message):
            model.load(wrong)
    for name, array in model.arrays().items():
        np.testing.assert_array_equal(array, good[name])


def test_layers_are_found_wherever_they_are_kept():
    model = Blocks().build(2)
    assert list(model.layers()) == [
        "blocks_first",
        "blocks_rest_1_1",
        "blocks_rest_2_1",
        *(f"blocks_rest_2_2.{name}" for name in ("hidden", "norm", "output")),
    ]
    with GradientTape() as tape:
        y = model.forward(Tensor(np.ones((4, 2), np.float32)), training=True)
    variables = list(model.parameters.variables.values())
    assert len(variables) == 12
    assert all(gradient is not None for gradient in tape.gradient(y, variables))


def test_no_layer_hides_another():
    model = Model()
    model.h, model.h_1 = [Dense(3)], Dense(3)
    with pytest.raises(ConfigError, match="two layers are called 'h_1'"):
        model.build(2)


def test_predict_goes_batch_by_batch():
    model = Sequential([Dense(3, "tanh"), Dense(2, "softmax")]).build(4)
    x = np.random.default_rng(0).standard_normal((11, 4))
    whole = model.predict(x)
    assert whole.shape == (11, 2)
    assert whole.dtype == np.float32
    for batch in (1, 3, 11, 100):
        np.testing.assert_allclose(model.predict(x, batch=batch), whole, rtol=1e-6)
    assert model.predict(x[:0]).shape == (0, 2)
    assert Sequential([Dense(2)]).predict(x[:0]).shape == (0, 2)
    with pytest.raises(ShapeError, match=r"\(N, 4\), not \(0, 3\)"):
        model.predict(np.zeros((0, 3)))
    image = np.full((2, 4), 255, np.uint8)
    np.testing.assert_allclose(model.predict(image, scale=1 / 255), model.predict(np.ones((2, 4))), rtol=1e-6)


@pytest.mark.parametrize("norm", ["none", "layer", "batch"])
def test_parameters_are_counted_without_making_them(norm):
    for hidden in ([], [Hidden(5, norm=norm)], [Hidden(5, norm=norm, dropout=0.5), Hidden(3), Hidden(4, norm=norm)]):
        assert count_parameters(hidden, 7, 2) == len(mlp(hidden, 2, "softmax").build(7).parameters)


def test_a_model_computes_in_its_own_dtype():
    model = Sequential([Dense(2)]).build(3)
    for x in (np.ones((1, 3)), Tensor(np.ones((1, 3))), np.ones((1, 3), int), [[1, 1, 1]]):
        assert model(x).dtype == np.float32


def test_refusals():
    model = Sequential([Dense(2)]).build(3)
    with pytest.raises(ShapeError, match=r"the model takes inputs \(N, 3\), not \(2, 4\)"):
        model(np.ones((2, 4)))
    with pytest.raises(ShapeError, match=r"not \(3,\)"):
        model(np.ones(3))
    for widths in ((), (0,), (-1,), (3, 0)):
        with pytest.raises(ConfigError, match=r"width of (each|an) input[^,]*, at least 1"):
            Sequential([Dense(2, "relu")]).build(*widths)


def test_the_first_input_builds_the_model():
    model = Sequential([Dense(2)])
    assert not model.is_built
    assert model(np.ones((5, 3))).shape == (5, 2)
    assert model.is_built
    assert len(model.parameters) == 8


def test_a_model_lives_on_its_backend():
    backend = Backend()
    model = Skip().build(4, backend=backend)
    assert all(v.backend is backend for v in model.parameters.variables.values())
    assert model(np.ones((2, 4))).backend is backend


def test_a_sequence_shows_itself_in_a_line() -> None:
    model = Sequential([Dense(4, "relu"), Dense(1)])
    assert repr(model) == "<Sequential: 2 layers, not built>"
    assert repr(model.build(3)) == "<Sequential: 2 layers, 21 parameters>"


def test_names_of_other_libraries_lead_to_ours() -> None:
    for name, here in gpumlp._CALLED_HERE.items():
        with pytest.raises(AttributeError, match=re.escape(f"no attribute {name!r}; use {here}")):
            getattr(gpumlp, name)
        owner, _, called = here.partition("(")[0].partition(".")
        if called and owner in ("gpumlp", "tensor"):
            assert hasattr(gpumlp if owner == "gpumlp" else Tensor, called)
