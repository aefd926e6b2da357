"""Embeddings of numbers as layers: bins of training rows, first weights, from settings to exported files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import BACKENDS

from gpumlp import backend as backends
from gpumlp import convert
from gpumlp.autodiff import GradientTape, Variable
from gpumlp.autodiff.embedding import ple
from gpumlp.config import Loaded, configure
from gpumlp.data import read
from gpumlp.data.encoding.scaling import Scaling
from gpumlp.errors import ConfigError, DataError, ShapeError
from gpumlp.explain.backprop import backpropagate
from gpumlp.explain.subject import load_subject
from gpumlp.export import export
from gpumlp.nn import (
    Architecture,
    BinnedEmbedding,
    CategoryTables,
    Hidden,
    MissingVectors,
    PeriodicEmbedding,
    ScaledFlags,
    Sequential,
    WavesAndBins,
    count_parameters,
    mlp,
)
from gpumlp.nn.inputs import edges_of
from gpumlp.ops.inputs import UNREACHED
from gpumlp.runs import load_trained, train
from gpumlp.training.build import build, load_data

RNG = np.random.default_rng(0)
PLE = Architecture((Hidden(4),), embedding="ple", numbers=2, embedding_size=5, bins=3)
PBLD = Architecture((Hidden(4),), embedding="pbld", numbers=2, embedding_size=3, waves=4, frequency=2.0)
BOTH = Architecture((Hidden(4),), embedding="both", numbers=2, embedding_size=5, bins=3, waves=4, frequency=2.0)


def test_edges_are_different_quantiles() -> None:
    values = np.arange(101.0)
    assert edges_of(values, 4).tolist() == [0, 25, 50, 75, 100]
    assert edges_of(RNG.permutation(values), 4).tolist() == [0, 25, 50, 75, 100]
    assert edges_of(np.repeat([0.0, 7.0], [90, 10]), 48).tolist() == [0, 7]  # one bin
    assert edges_of(np.array([3.0, -1.0]), 48).tolist() == [-1, 3]
    for constant in ([5.0], [5.0] * 9, []):
        assert len(edges_of(np.array(constant), 48)) == 1, "no bin"
    near = np.array([0.0, 1e-9, 2e-9, 1.0, 2.0])
    assert edges_of(near, 48).tolist() == [0, 1, 2], "a bin that narrow would throw new values far out"
    assert edges_of(np.array([-0.0, 0.0, 1.0]), 3).tolist() == [0, 1]
    assert edges_of(np.array([0.0, 1e-39, 1.0e-36]), 48).tolist() == [0, 1e-36], "float32 has no 1e39"


def test_weights_too_small_for_the_sum_make_no_bins() -> None:
    assert edges_of(np.arange(6.0), 3, np.array([1.0, 1.0, 1e-20, 1e-20, 1e-20, 1.0])).tolist() == [0, 1, 5]


def test_a_frequent_value_takes_one_edge() -> None:
    """Quantiles are of the other rows: of an amount that is mostly 0, nearly all bins lie between the amounts."""
    amounts = np.concatenate([np.zeros(900), np.arange(1.0, 101.0)])
    assert edges_of(amounts, 5).tolist() == [0, 1, 25, 50, 75, 100]
    assert edges_of(np.concatenate([amounts, np.full(500, 7.0)]), 5).tolist() == [0, 1, 7, 34, 67, 100]
    assert edges_of(np.repeat(np.arange(6.0), [100, 1, 1, 1, 1, 1]), 5).tolist() == [0, 1, 2, 3, 4, 5]
    assert edges_of(np.repeat(np.arange(6.0), [100, 90, 80, 70, 60, 50]), 2).tolist() == [0, 2, 5]


@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(0, 3)), min_size=1, max_size=60), st.integers(1, 12))
def test_edges_are_values_with_the_least_and_the_largest(rows: list[tuple[int, int]], bins: int) -> None:
    values, weights = np.array([row[0] for row in rows], float), np.array([row[1] for row in rows], float)
    counted = values[weights > 0]
    if not len(counted):
        return
    edges = edges_of(values, bins, weights)
    assert set(edges) <= set(counted)
    assert (edges[0], edges[-1]) == (counted.min(), counted.max())
    assert (np.diff(edges) > 0).all()
    assert len(edges) <= bins + 1
    if len(set(counted)) <= bins + 1:
        assert set(edges) == set(counted)


def test_a_row_of_weight_3_decides_about_edges_as_three_rows_do() -> None:
    values, weights = RNG.standard_normal(40), RNG.integers(0, 4, 40)
    expected = edges_of(np.repeat(values, weights), 7)
    np.testing.assert_array_equal(edges_of(values, 7, weights.astype(float)), expected)
    np.testing.assert_array_equal(edges_of(values, 7, weights * 0.5), expected)
    assert not np.array_equal(edges_of(values, 7), expected)
    assert len(edges_of(values, 7, np.zeros(40))) == 1


def test_both_are_the_two_side_by_side() -> None:
    """Of each number those by bins come first; without either they are the other alone."""
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((9, 3))
    one = Sequential([WavesAndBins(2, 4, bins=3, waves=5, frequency=1.0)]).build(3, dtype=np.float64, seed=2)
    bins = Sequential([BinnedEmbedding(2, 4, bins=3)]).build(3, dtype=np.float64)
    waves = Sequential([PeriodicEmbedding(2, 3, waves=5)]).build(3, dtype=np.float64)
    for layer in (one.chain[0], bins.chain[0]):
        layer.set_bins(rows)
    one.chain[0].weights["V"].assign(rng.standard_normal((2, 3, 4)))
    for name in ("a", "c", "V"):
        bins.chain[0].weights[name].assign(one.chain[0].weights[name].numpy())
    for name, called in (("w", "w"), ("b", "b"), ("V", "U"), ("c", "d")):
        waves.chain[0].weights[name].assign(one.chain[0].weights[called].numpy())
    of_bins, of_waves = (model.predict(rows)[:, :-1].reshape(9, 2, 4) for model in (bins, waves))
    wanted = np.concatenate([of_bins, of_waves], axis=2).reshape(9, 16)
    np.testing.assert_array_equal(one.predict(rows), np.hstack([wanted, rows[:, 2:]]))


def test_bins_become_state_and_what_follows_the_numbers_stays() -> None:
    layer = BinnedEmbedding(2, 4, bins=3)
    model = Sequential([layer]).build(3, dtype=np.float64)
    rows = np.column_stack([np.arange(7.0), np.repeat([1.0, 5.0], [6, 1]), RNG.standard_normal(7)])
    flat = model.predict(rows)
    layer.set_bins(rows)
    np.testing.assert_array_equal(model.predict(rows), flat)  # V is 0: the steps are learnt
    assert layer.state["edges"].tolist() == [[0, 2, 4], [1, UNREACHED, UNREACHED]]
    assert layer.state["scales"].tolist() == [[0.5, 0.5, 0.5], [0.25, 0, 0]]
    V = RNG.standard_normal((2, 3, 4))
    layer.weights["V"].assign(V)
    shares = np.array([[1, 0.5, 0], [0.25, 0, 0]])  # of 3 and 2, of edges 0, 2, 4 and 1
    a, c = (layer.weights[name].numpy() for name in ("a", "c"))
    found = model.predict(np.array([[3.0, 2.0, 9.0]]))[0]
    expected = [a[i] * x + c[i] + shares[i] @ V[i] for i, x in ((0, 3.0), (1, 2.0))]
    np.testing.assert_allclose(found, [*expected[0], *expected[1], 9.0])
    assert layer.width(3) == len(found) == 9


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_slope_at_an_edge_is_that_of_the_bin_that_begins_there(name: str, dtype: Any) -> None:
    """Widths whose inverses are rounded: by its share a number at an edge could be in neither of two bins."""
    backend = backends.get(name)
    ends = np.cumsum(RNG.uniform(0.1, 0.9, (3, 21)), axis=1).astype(dtype) - 5
    edges, scales, V = ends[:, :-1], 1 / np.diff(ends), RNG.standard_normal((3, 20, 1)).astype(dtype)
    a, c = (RNG.standard_normal((3, 1)).astype(dtype) for _ in range(2))
    x = np.concatenate(
        [np.nextafter(ends, -9), ends, np.nextafter(ends, 9), ends[:, :1] - 7, ends[:, -1:] + 7], axis=1
    ).T
    edges, scales, a, c, V, x = (backend.asarray(np.ascontiguousarray(each)) for each in (edges, scales, a, c, V, x))
    number = Variable(x, backend=backend)
    with GradientTape() as tape:
        y = ple(number, edges, scales, a, c, V).sum()
    bins = [(each <= x[:, [i]]).sum(axis=1).clip(1) - 1 for i, each in enumerate(edges)]
    slopes = [a[i] + V[i, t, 0] * scales[i, t] for i, t in enumerate(bins)]
    np.testing.assert_allclose(backend.to_host(tape.gradient(y, number).array), np.transpose(slopes), rtol=1e-5)


def test_first_weights() -> None:
    wide = PeriodicEmbedding(500, waves=16, frequency=0.5)
    model = Sequential([wide]).build(500)
    w, b, V, c = (wide.weights[name].numpy() for name in ("w", "b", "V", "c"))
    assert abs(w.std() - 0.5) < 0.02
    assert (-np.pi <= b).all() and (b <= np.pi).all() and abs(b.std() - np.pi / 3**0.5) < 0.05  # noqa: PT018
    for array in (V, c):
        assert 0.2 < np.abs(array).max() <= 0.25
    y = model.predict(RNG.standard_normal((2, 500)).astype("f4"))
    assert y.shape == (2, 2000) and wide.outputs == 4  # noqa: PT018
    binned = mlp(PLE, 1, "identity").build(2).arrays()
    assert (binned["binnedembedding_1.V"] == 0).all()
    assert 0.2 < np.abs(binned["binnedembedding_1.a"]).max() <= 5**-0.5


@pytest.mark.parametrize("architecture", [PLE, PBLD, BOTH], ids=["ple", "pbld", "both"])
def test_an_architecture_comes_back_from_its_state(architecture: Architecture) -> None:
    state = architecture.to_state()
    again = Architecture.from_state(state)
    assert (
        count_parameters(again, 3, 2)
        == count_parameters(architecture, 3, 2)
        == mlp(again, 2, "softmax").build(3).size
    )
    assert mlp(again, 2, "softmax").declare(3).keys() == mlp(architecture, 2, "softmax").declare(3).keys()
    for name, value in (("embedding", "fourier"), ("numbers", 0), ("embedding_size", -1), ("numbers", 2**40)):
        with pytest.raises(ValueError, match="the embedding"):
            Architecture.from_state(state | {name: value})
    with pytest.raises(ShapeError, match="2 numbers are embedded, and a row has 1"):
        mlp(architecture, 1, "identity").build(1)


def test_the_rate_is_a_tenth_in_the_form_of_a_tangent_kernel() -> None:
    for parametrization, factor in (("standard", 1.0), ("ntk", 0.1)):
        layer = mlp(Architecture(**(vars(PBLD) | {"parametrization": parametrization})), 1, "identity").chain[0]
        assert {(each.rate, each.decay) for each in layer.declare(2).values()} == {(factor, factor)}


def test_other_frameworks_keep_the_arrays() -> None:
    network = mlp(PLE, 2, "softmax").build(3)
    for layout in convert.LAYOUTS:
        other = mlp(PLE, 2, "softmax").build(3, seed=1)
        convert.read(other, convert.write(network, layout), layout)
        for name, array in network.arrays().items():
            np.testing.assert_array_equal(other.arrays()[name], array)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["pbld", "ple", "both"])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_an_embedding_goes_everywhere(
    precision: str, kind: str, backend: str, task: Callable[..., Loaded], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    settings = f"model.numbers={kind}", f"backend={backend}", "training.metric=log_loss", f"precision={precision}"
    train(task(*settings), run)
    model = load_trained(run)
    layer = model.network.networks[0].chain[0]
    assert type(layer) is {"pbld": PeriodicEmbedding, "ple": BinnedEmbedding, "both": WavesAndBins}[kind]
    if kind != "pbld":
        assert (layer.state["scales"] > 0).all()
        assert not (layer.weights["V"].numpy() == 0).all(), "it has learnt"

    subject = load_subject(run)
    rows = subject.only(0)
    shown = backpropagate(subject.network, subject.loss, subject.inputs(rows), subject.targets(rows))
    assert all(gradient.comparison.passed for gradient in shown.gradients)
    written = next(value for value in shown.values if value.symbol == "e").equation
    assert written.endswith(", i a number; and the rest")
    assert len(written) <= 65, "with its symbol and its shape a line of a terminal"

    for ending in (".py", ".safetensors", ".onnx") if backend == BACKENDS[0] else ():
        if ending == ".onnx":
            pytest.importorskip("onnx")
        compared, _ = export(run, tmp_path / f"model{ending}")
        assert compared.difference <= compared.allowed


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["pbld", "ple", "both"])
def test_a_missing_number_is_a_trained_vector(kind: str, backend: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(200, 3)).round(3)
    y = np.where(rng.random(200) < 0.3, 2.0, x[:, 0])
    cells = [[f"{each}" for each in row] for row in x]
    for row, target in zip(cells, y, strict=True):
        row[1] = "" if target == 2.0 else row[1]  # what is missing tells the target
    cells[3][2] = ""
    lines = ["a,b,c,y", *(",".join([*row, f"{target}"]) for row, target in zip(cells, y, strict=True))]
    (tmp_path / "rows.csv").write_text("\n".join(lines))
    data = {"train": str(tmp_path / "rows.csv"), "target": "y", "split": {"test": 0, "validation": 0.1}}
    more = {"bins": 4} if kind != "pbld" else {}
    loaded = configure(
        task="regression",
        backend=backend,
        data=data,
        model={"numbers": {"embedding": kind, "size": 2, "missing": "vector", **more}, "hidden": [8]},
        training={"epochs": 5, "batch_size": 16, "seed": 1},
    )
    train(loaded, tmp_path / "run")
    model = load_trained(tmp_path / "run")
    network = model.network.networks[0]
    embedding, vectors = network.chain[:2]
    assert isinstance(vectors, MissingVectors)
    size = embedding.outputs
    m = vectors.weights["m"].numpy().reshape(3, size)
    assert (m[0] == 0).all(), "never missing"
    assert np.abs(m[1]).min() > 0, "it has learnt"

    # Against the formula: of a row that misses b, e_b is m_b whatever fills the gap, and no flag goes on.
    rows = np.array([[0.5, -1.0, 2.0, 0, 0], [0.5, 7.0, 2.0, 1, 0], [0.5, -7.0, 2.0, 1, 1]], np.float32)
    embedded = embedding(rows).numpy()[:, : 3 * size].reshape(3, 3, size)
    found = vectors(embedding(rows)).numpy()
    assert found.shape == (3, 3 * size)
    expected = embedded.copy()
    expected[1:, 1], expected[2, 2] = m[1], m[2]
    np.testing.assert_array_equal(found.reshape(3, 3, size), expected)
    if kind != "pbld":  # bins are between quantiles of the numbers that are there
        rows = model.encoder.encode(read(tmp_path / "rows.csv"), targets=True)[0].features.stored
        there = rows[:, 1][rows[:, 3] == 0]
        edges = embedding.state["edges"][1]
        assert there.min() <= edges.min() <= np.quantile(there, 0.1)
        assert abs(float(edges[2]) - np.median(there)) < 0.2

    subject = load_subject(tmp_path / "run")
    batch = subject.only(int(np.flatnonzero(y == 2.0)[0]))
    shown = backpropagate(subject.network, subject.loss, subject.inputs(batch), subject.targets(batch))
    assert all(gradient.comparison.passed for gradient in shown.gradients)
    assert "m_i" in {gradient.symbol for gradient in shown.gradients}
    for ending in (".py", ".onnx") if (backend, kind) in ((BACKENDS[0], "ple"), (BACKENDS[0], "both")) else ():
        if ending == ".onnx":
            pytest.importorskip("onnx")
        compared, _ = export(tmp_path / "run", tmp_path / f"model{ending}")
        assert compared.difference <= compared.allowed
    state = json.loads(json.dumps(model.architecture.to_state()))
    assert Architecture.from_state(state) == model.architecture
    for wrong in ([3], [-1], ["1"]):
        with pytest.raises(ValueError, match="missing values of the numbers"):
            Architecture.from_state(state | {"flagged": wrong})


def test_a_table_takes_the_place_of_columns_and_a_new_value_is_zeros() -> None:
    layer = CategoryTables([3, 2, 4], above=2, size=2)
    model = Sequential([layer]).build(11, dtype=np.float64)
    T1, T3 = (layer.weights[name].numpy() for name in ("table_1", "table_3"))
    numbers, two = RNG.standard_normal((4, 2)), np.eye(2)[[0, 1, 1, 0]]
    first, last = np.eye(4, 3)[[0, 2, 1, 3]], np.eye(5, 4)[[3, 0, 4, 1]]  # the last but one is new
    found = model.predict(np.hstack([numbers, first, two, last]))
    expected = np.hstack([numbers, np.vstack([T1, [0, 0]])[[0, 2, 1, 3]], two, np.vstack([T3, [0, 0]])[[3, 0, 4, 1]]])
    np.testing.assert_array_equal(found, expected)
    assert layer.width(11) == found.shape[1] == 8
    with pytest.raises(ShapeError, match="categories have 9 columns, and a row has 8"):
        Sequential([CategoryTables([3, 2, 4], above=2)]).build(8)
    state = Architecture((Hidden(4),), values=(3, 2, 4), table_above=2, table_size=2).to_state()
    again = json.loads(json.dumps(state))
    assert count_parameters(Architecture.from_state(again), 11, 1) == 7 * 2 + 8 * 4 + 4 + 4 + 1
    for name, value in (("values", [3, 0]), ("values", [3, "2"]), ("table_size", 0), ("table_above", -1)):
        with pytest.raises(ValueError, match="tables of"):
            Architecture.from_state(again | {name: value})


@pytest.mark.parametrize("count", [2, 3, 4, 5, 8, 101])
def test_columns_of_0_and_1_are_scaled_as_numbers_are(count: int) -> None:
    """For each number of ones among the rows: the quartiles may fall between a 0 and a 1."""
    rows = np.tril(np.ones((count, count)), -1)[:, : count - 1]
    expected = Scaling.fit("robust", rows).apply(rows)
    layer = ScaledFlags()
    model = Sequential([layer]).build(count, dtype=np.float64)
    x = np.hstack([RNG.standard_normal((count, 1)), rows])
    np.testing.assert_array_equal(model.predict(x), x)
    layer.set_scales(np.arange(1, count), rows.sum(axis=0), count)
    np.testing.assert_allclose(model.predict(x), np.hstack([x[:, :1], expected]), rtol=1e-13, atol=1e-15)


def test_flags_are_scaled_by_training_rows_and_columns_of_tables_are_not(tmp_path: Path) -> None:
    rows = [f"{i if i % 5 else ''},{'ab'[i % 2]},{'uvwxyz'[i % 6]},{i % 7},{1 + i % 3}" for i in range(60)]
    (tmp_path / "rows.csv").write_text("\n".join(["x,two,six,y,w", *rows]))
    data: dict[str, Any] = {"train": str(tmp_path / "rows.csv"), "target": "y", "weights": "w"}
    data["split"] = {"validation": 0, "test": 0}
    settings = {"scaled": True, "table_above": 2}
    loaded = configure(task="regression", data=data, model={"categories": settings})
    parts = build(loaded.settings, load_data(loaded))
    arrays = parts.model.arrays()
    weights = np.array([1 + i % 3 for i in range(60)])
    flags = np.array([[i % 5 == 0, i % 2 == 0, i % 2 == 1] for i in range(60)], np.float64)
    wide = Scaling.fit("robust", np.repeat(flags, weights, axis=0))
    low, high = wide.apply(np.zeros((1, 3)))[0], wide.apply(np.ones((1, 3)))[0]
    np.testing.assert_allclose(arrays["scaledflags_1.scale"], [1, *(high - low), *[1] * 6], rtol=1e-6)
    np.testing.assert_allclose(arrays["scaledflags_1.centre"], [0, *(-low / (high - low)), *[0] * 6], atol=1e-6)
    (tmp_path / "rows.csv").write_text("\n".join(["x,y,w", *(f"{i},{i % 7},1" for i in range(60))]))
    only = configure(task="regression", data=data, model={"categories": {"scaled": True}})
    assert "scaledflags_1" not in build(only.settings, load_data(only)).model.layers(), "there is nothing to scale"


@pytest.mark.parametrize("backend", BACKENDS)
def test_tables_go_everywhere(backend: str, tmp_path: Path) -> None:
    # Apart from other tests, whose order would decide whether the row lies at an edge, where it has two slopes.
    numbers = np.random.default_rng(2).normal(size=240)
    rows = [f"{x:.3f},{'abcdefghijkl'[i % 12]},{'uv'[i % 2]},{i % 12 % 5}" for i, x in enumerate(numbers)]
    (tmp_path / "rows.csv").write_text("\n".join(["x,many,few,y", *rows]))
    categories = {"table_above": 2, "size": 3, "scaled": True}
    model = {"categories": categories, "numbers": "ple", "hidden": [8], "activation": "tanh"}
    data, training = {"train": str(tmp_path / "rows.csv"), "target": "y"}, {"epochs": 20, "batch_size": 16}
    loaded = configure(task="regression", backend=backend, data=data, model=model, training=training)
    train(loaded, tmp_path / "run")
    network = load_trained(tmp_path / "run").network
    assert network.arrays()["categorytables_1.table_1"].shape == (12, 3)
    assert network.networks[0].chain[3].inputs == 16 + 3 + 2
    subject = load_subject(tmp_path / "run")
    batch = subject.only(0)
    shown = backpropagate(subject.network, subject.loss, subject.inputs(batch), subject.targets(batch))
    assert all(gradient.comparison.passed for gradient in shown.gradients)
    for ending in (".py", ".safetensors", ".onnx") if backend == BACKENDS[0] else ():
        if ending == ".onnx":
            pytest.importorskip("onnx")
        compared, _ = export(tmp_path / "run", tmp_path / f"model{ending}")
        assert compared.difference <= compared.allowed
    numbers = [line.split(",")[0] + "," + line.split(",")[-1] for line in ("x,many,few,y", *rows)]
    (tmp_path / "rows.csv").write_text("\n".join(numbers))
    with pytest.raises(DataError, match=r"model.categories.table_above: .*there are no columns of categories"):
        train(loaded, tmp_path / "none")


@pytest.mark.parametrize("share", ["none", "hidden"])
def test_members_have_embeddings(share: str, task: Callable[..., Loaded], tmp_path: Path) -> None:
    train(
        task("model.numbers={embedding: ple, bins: 4, size: 2}", f"members={{count: 2, share: {share}}}"),
        tmp_path / "a",
    )
    network = load_trained(tmp_path / "a").network
    found = [a for name, a in network.arrays().items() if name.endswith("edges")]
    assert len(found) == (2 if share == "none" else 1)
    assert all((edges == found[0]).all() for edges in found)


@pytest.mark.parametrize("share", ["hidden", "weights"])
@pytest.mark.parametrize(
    ("model", "columns"),
    [
        ({}, "x z z! d*5 few*3 many*12"),
        ({"numbers": {"embedding": "ple", "size": 2}}, "x*2 z*2 z! d*5 few*3 many*12"),
        ({"numbers": {"embedding": "both", "size": 2, "missing": "vector"}}, "x*6 z*6 d*5 few*3 many*12"),
        (
            {
                "numbers": {"embedding": "pbld", "size": 2},
                "categories": {"table_above": 3, "size": 4, "scaled": True},
            },
            "x*3 z*3 z! d*5 few*3 many*4",
        ),
    ],
    ids=["signs", "ple", "vectors", "tables"],
)
def test_factors_of_members_start_alike_in_all_values_of_a_column(
    model: dict[str, Any], columns: str, share: str, tmp_path: Path
) -> None:
    days = np.datetime64("2021-01-01") + 3 * np.arange(240)
    rows = [
        f"{i % 7},{i % 11 or ''},{day},{'abc'[i % 3]},{'abcdefghijkl'[i % 12]},{i % 5}" for i, day in enumerate(days)
    ]
    (tmp_path / "rows.csv").write_text("\n".join(["x,z,d,few,many,y", *rows]))
    of_values = []
    for each in columns.split():
        name, _, count = each.partition("*")
        of_values += [name.rstrip("!")] * int(count or 1)

    def factors(backend: str, seed: int) -> Any:
        loaded = configure(
            task="regression",
            backend=backend,
            data={"train": str(tmp_path / "rows.csv"), "target": "y", "columns": {"x": "number", "z": "number"}},
            model={"hidden": [4], "input_factors": True} | model,
            members={"count": 8, "share": share},
            training={"seed": seed},
        )
        return build(loaded.settings, load_data(loaded)).model.arrays()["memberscale_1.factors"]

    start = factors("numpy", 1)
    assert start.shape == (8, len(of_values))
    names = np.array(of_values)
    drawn = {name: start[:, names == name] for name in of_values}
    assert all((each == each[:, :1]).all() for each in drawn.values())
    assert len({each[:, 0].tobytes() for each in drawn.values()}) == len(drawn) == 5
    assert (set(np.unique(start)) == {-1.0, 1.0}) == ("numbers" not in model)
    assert (factors("native", 1) == start).all()
    assert (factors("numpy", 2) != start).any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["model.numbers=plr"], "model.numbers: got 'plr', needs one of none, pbld, ple, both"),
        (
            ["model.numbers={embedding: ple, waves: 4}"],
            "waves is a setting of pbld and both, and the embedding is ple",
        ),
        (
            ["model.numbers={missing: vector}"],
            "missing is a setting of pbld, ple and both, and the embedding is none",
        ),
        (["model.numbers={size: 4}"], "size is a setting of pbld, ple and both, and the embedding is none"),
        (["model.numbers={embedding: ple, bins: 0}"], "bins"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: list[str], message: str, task: Callable[..., Loaded]) -> None:
    with pytest.raises(ConfigError, match=message):
        task(*settings)


def test_there_must_be_numbers(task: Any, tmp_path: Path) -> None:
    lines = ["kind,label", *(f"{'uv'[i % 2]},{'ab'[i % 3 == 0]}" for i in range(60))]
    (tmp_path / "texts.csv").write_text("\n".join(lines))
    given = task("model.numbers=ple", f"data.train={tmp_path / 'texts.csv'}", "data.target=label", "data.drop=[]")
    with pytest.raises(DataError, match="there are no columns of numbers to embed\n  set embedding: none"):
        train(given, tmp_path / "run")
