from __future__ import annotations

import numpy as np
import pytest

import gpumlp
from gpumlp import convert
from gpumlp.errors import ConfigError, ShapeError
from gpumlp.nn import Activation, BatchNorm, Dense, Dropout, LayerNorm, Model, Sequential

RNG = np.random.default_rng(0)


def network(*widths: int, square: bool = False) -> Sequential:
    layers = [Dense(4), BatchNorm(), Activation("relu"), Dropout(0.1), Dense(4, "tanh"), LayerNorm(), Dense(3)]
    return Sequential(layers).build(5, dtype=np.float64)


def random(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    return {name: RNG.standard_normal(shape) for name, shape in shapes.items()}


PYTORCH = {
    "0.weight": (4, 5), "0.bias": (4,),
    "1.weight": (4,), "1.bias": (4,), "1.running_mean": (4,), "1.running_var": (4,), "1.num_batches_tracked": (),
    "4.weight": (4, 4), "4.bias": (4,), "6.weight": (4,), "6.bias": (4,), "10.weight": (3, 4), "10.bias": (3,),
}  # fmt: skip
KERAS = {
    "sequential/dense/kernel": (5, 4), "sequential/dense/bias": (4,),
    "sequential/batch_normalization/gamma": (4,), "sequential/batch_normalization/beta": (4,),
    "sequential/batch_normalization/moving_mean": (4,), "sequential/batch_normalization/moving_variance": (4,),
    "sequential/dropout/seed_generator_state": (2,),
    "sequential/dense_1/kernel": (4, 4), "sequential/dense_1/bias": (4,),
    "sequential/layer_normalization/gamma": (4,), "sequential/layer_normalization/beta": (4,),
    "sequential/dense_2/kernel": (4, 3), "sequential/dense_2/bias": (3,),
}  # fmt: skip
OURS = {
    "dense_1.W": ("0.weight", "sequential/dense/kernel"),
    "batchnorm_1.gain": ("1.weight", "sequential/batch_normalization/gamma"),
    "batchnorm_1.variance": ("1.running_var", "sequential/batch_normalization/moving_variance"),
    "dense_2.W": ("4.weight", "sequential/dense_1/kernel"),
    "dense_2.b": ("4.bias", "sequential/dense_1/bias"),
    "layernorm_1.bias": ("6.bias", "sequential/layer_normalization/beta"),
    "dense_3.W": ("10.weight", "sequential/dense_2/kernel"),
}


def test_every_array_finds_its_place_and_pytorchs_weights_are_transposed() -> None:
    for column, (shapes, layout) in enumerate([(PYTORCH, "pytorch"), (KERAS, "keras")]):
        model, given = network(), random(shapes)
        convert.read(model, given, layout, epsilon=1e-5)
        arrays = model.arrays()
        assert len(arrays) == 12
        for ours, theirs in OURS.items():
            array = given[theirs[column]]
            turned = layout == "pytorch" and ours.endswith(".W")
            np.testing.assert_array_equal(arrays[ours], array.T if turned else array)


@pytest.mark.parametrize(("shapes", "layout"), [(PYTORCH, "pytorch"), (KERAS, "keras")])
def test_writing_gives_back_what_was_read(shapes: dict[str, tuple[int, ...]], layout: str) -> None:
    model, given = network(), random(shapes)
    convert.read(model, given, layout, epsilon=1e-5)
    separator = convert.LAYOUTS[layout].separator
    kept = {name: array for name, array in given.items() if not name.endswith(convert.IGNORED)}
    names = [*dict.fromkeys(name.rpartition(separator)[0] for name in kept)]
    written = convert.write(model, layout, layers=names)
    assert [*written] == [*kept]
    for name, array in kept.items():
        np.testing.assert_array_equal(written[name], array)
        assert written[name].flags.c_contiguous
    again = network()
    convert.read(again, convert.write(model, layout), layout, epsilon=1e-5)  # by our own names
    for name, array in model.arrays().items():
        np.testing.assert_array_equal(again.arrays()[name], array)


def test_a_model_of_any_shape_in_float32_and_names_of_keras_2() -> None:
    class Skip(Model):
        def __init__(self) -> None:
            self.inner = Dense(4, "relu", bias=False)
            self.outer = Dense(2)

        def forward(self, x, *, training=False):
            return self.outer(self.inner(x) + x)

    model = Skip().build(4)
    given = {"a/kernel:0": np.eye(4), "b/kernel:0": np.ones((4, 2)), "b/bias:0": [1, 2]}
    convert.read(model, given, "keras", epsilon=1e-5)
    assert model.arrays()["outer.b"].dtype == np.float32
    np.testing.assert_array_equal(model(np.ones((1, 4))).numpy(), [[9, 10]])


def without(name: str) -> dict[str, tuple[int, ...]]:
    return {key: shape for key, shape in PYTORCH.items() if key != name}


MISTAKES = {
    "layer missing": (
        random({k: s for k, s in PYTORCH.items() if not k.startswith("10.")}),
        r"has the layers 0, 1, 4, 6; those of the model are dense_1, batchnorm_1, dense_2, layernorm_1, dense_3",
    ),
    "nothing": ({}, "has the layers none"),
    "array missing": (
        random(without("4.bias")),
        r"layer '4' of the pytorch mapping has weight; for dense_2 it needs",
    ),
    "array too many": (
        random({"0.weight": (4, 5), "0.bias": (4,), "0.extra": (1,)} | without("0.weight")),
        "has weight, bias, extra; for dense_1 it needs weight, bias",
    ),
    "shape": (
        random(PYTORCH | {"10.bias": (4,)}),
        r"bias of '10' has shape \(4,\); for dense_3.b \(3,\) it must be \(3,\) in pytorch",
    ),
    "not transposed": (
        random(PYTORCH | {"0.weight": (5, 4)}),
        r"weight of '0' has shape \(5, 4\); for dense_1.W \(5, 4\) it must be \(4, 5\) in pytorch\n.*\(out, in\)",
    ),
    "sorted as texts": (
        random(dict(sorted(PYTORCH.items(), key=lambda item: item[0]))),
        r"the layer '4' comes after '10'\n.*layers=",
    ),
    "texts": (random(PYTORCH) | {"10.bias": np.array(["a", "b", "c"])}, "bias of '10' holds <U1, not numbers"),
    "keras": (random(KERAS), r"has the layers none|needs weight|has the layers"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_does_not_agree_is_named_and_nothing_is_changed(mistake: str) -> None:
    given, message = MISTAKES[mistake]
    model = network()
    before = model.arrays()
    with pytest.raises(ShapeError, match=message):
        convert.read(model, given, "pytorch")
    for name, array in model.arrays().items():
        np.testing.assert_array_equal(array, before[name])


def test_another_order_can_be_given() -> None:
    model = Sequential([Dense(2), Dense(2)]).build(2)
    given = random({"out.weight": (2, 2), "out.bias": (2,), "hidden.weight": (2, 2), "hidden.bias": (2,)})
    convert.read(model, given, "pytorch", layers=["hidden", "out"])
    np.testing.assert_array_equal(model.arrays()["dense_2.b"], given["out.bias"].astype(np.float32))
    with pytest.raises(ShapeError, match="layers names hidden, in; the pytorch mapping has out, hidden"):
        convert.read(model, given, "pytorch", layers=["hidden", "in"])
    with pytest.raises(ShapeError, match="1 names were given for 2 layers"):
        convert.write(model, "pytorch", layers=["0"])


def test_a_layout_must_be_known_and_a_model_built() -> None:
    model = Sequential([Dense(2)])
    with pytest.raises(ConfigError, match=r"unknown layout 'torch'\n.*'pytorch'"):
        convert.read(model, {}, "torch")
    with pytest.raises(ConfigError, match="build it first"):
        convert.read(model, {}, "keras")


def test_it_is_public() -> None:
    assert gpumlp.convert is convert
    assert "convert" in dir(gpumlp)


def test_an_epsilon_that_cannot_be_had_is_refused_and_nothing_changes() -> None:
    model, given = network(), {name: np.abs(array) for name, array in random(KERAS).items()}
    before = model.arrays()
    with pytest.raises(ConfigError, match=r"LayerNorm adds 1e-05 to the variance, not 0.002"):
        convert.read(model, given, "keras", epsilon=2e-3)
    for name, array in model.arrays().items():
        np.testing.assert_array_equal(array, before[name])


def test_a_variance_too_small_for_an_epsilon_is_refused() -> None:
    model = Sequential([BatchNorm()]).build(2)
    arrays = {"0.weight": np.ones(2), "0.bias": np.zeros(2), "0.running_mean": np.zeros(2)}
    with pytest.raises(ConfigError, match="too small for an epsilon of 0"):
        convert.read(model, {**arrays, "0.running_var": np.array([1.0, 1e-6])}, "pytorch", epsilon=0.0)
