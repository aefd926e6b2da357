"""Few rows by captured plans: the same bits as without them, whatever the network, the rows and the threads."""

from __future__ import annotations

import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from support import bits

import gpumlp
from gpumlp.autodiff import GradientTape, Tensor, activate
from gpumlp.backend import Backend
from gpumlp.backend.host.native import NativeBackend
from gpumlp.data import Features, rows_of
from gpumlp.errors import CaptureError, ShapeError
from gpumlp.nn import Parameters
from gpumlp.runs import replay
from gpumlp.runs.model import SavedModel, parse_model
from gpumlp.runs.replay import MAX_REPLAYED_ROWS

ROWS = 40
RNG = np.random.default_rng(0)
TABLE = {
    "size": np.where(np.arange(ROWS) % 7, RNG.normal(size=ROWS), np.nan),
    "weight": RNG.normal(size=ROWS),
    "town": RNG.choice(np.array(["Ulm", "Köln", "Bonn", None], object), ROWS),
}
CLASSES = RNG.choice(["a", "b", "c"], ROWS)
NUMBER = RNG.normal(size=ROWS)
IMAGES = RNG.integers(0, 256, (ROWS, 9)).astype(np.uint8)
SMALL: dict[str, Any] = {"training": {"epochs": 1, "batch_size": 16}, "model": {"hidden": [5]}}
MODELS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "classes": (TABLE, CLASSES, {}),
    "two": (TABLE, NUMBER > 0, {}),
    "number": (TABLE, NUMBER, {}),
    "bytes": (IMAGES, CLASSES, {}),
    "norms": (TABLE, CLASSES, {"model": {"hidden": [5, 5, 5], "norm": "batch", "dropout": 0.2}}),
    "tabular": (TABLE, CLASSES, {"preset": "tabular"}),
    "strong": (TABLE, NUMBER, {"preset": "strong", "members": 3}),
    "members": (TABLE, CLASSES, {"members": 2}),
    "bfloat16": (TABLE, CLASSES, {"precision": "bf16"}),
    "strong in bfloat16": (TABLE, NUMBER, {"preset": "strong", "members": 3, "precision": "bf16"}),
}


def trained(name: str, backend: str = "native") -> SavedModel:
    rows, targets, settings = MODELS[name]
    model = gpumlp.fit(rows, targets, backend=backend, **SMALL | settings)
    return parse_model(model.to_bytes(), model.network.context.backend)  # all members on one


def encoded(model: SavedModel, rows: Any) -> Features:
    return model.encoder.encode(rows_of(rows), targets=False)[0].features


def plans(model: SavedModel) -> int:
    return sum(len(each.free) for each in model._replays._plans.values())


def both(model: SavedModel, features: Features) -> list[bytes]:
    ((linear, answer),) = model.answers(features)
    return [bits(linear), bits(answer)]


def both_without_plans(model: SavedModel, features: Features) -> list[bytes]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replay, "MAX_REPLAYED_ROWS", 0)
        return both(model, features)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("backend", ["numpy", "native"])
def test_the_bits_are_those_without_a_plan(name: str, backend: str) -> None:
    model = trained(name, backend)
    features = encoded(model, MODELS[name][0])
    parts = [slice(1), slice(1, 2), slice(5, 5 + MAX_REPLAYED_ROWS), slice(30, 31)]
    expected = [both_without_plans(model, features[rows]) for rows in parts]
    assert plans(model) == 0
    assert [both(model, features[rows]) for rows in parts] == expected
    assert plans(model) == 2
    assert both(model, features) == both_without_plans(model, features)
    assert plans(model) == 2


def test_what_was_returned_stays() -> None:
    model = trained("classes")
    features = encoded(model, TABLE)
    first = list(model.answers(features[:1]))
    before = [bits(each) for each in first[0]]
    list(model.answers(features[1:2]))
    assert [bits(each) for each in first[0]] == before


def test_threads_have_plans_of_their_own() -> None:
    model = trained("classes")
    features = encoded(model, TABLE)
    expected = [both_without_plans(model, features[i : i + 1]) for i in range(ROWS)]
    start = threading.Barrier(4)

    def predict(_: int) -> list[list[bytes]]:
        start.wait()
        return [both(model, features[i : i + 1]) for _ in range(3) for i in range(ROWS)]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(predict, range(4))) == [expected * 3] * 4
    assert 1 <= plans(model) <= 4


@pytest.mark.parametrize("backend", [Backend(), NativeBackend()], ids=["numpy", "native"])
def test_what_other_threads_compute_is_no_part_of_a_capture(backend: Backend) -> None:
    x = Tensor(np.arange(3, dtype=np.float32), backend)

    others = []

    def step(x: Tensor) -> Tensor:
        with ThreadPoolExecutor(1) as other:  # computes, reads and captures meanwhile
            other.submit(lambda: activate("tanh", Tensor([1.0], backend)).numpy()).result()
            several = lambda y: activate("sigmoid", activate("tanh", activate("tanh", y)))  # noqa: E731
            others.append(other.submit(backend.capture, several, x).result())
        assert backend.capturing
        return activate("relu", x)

    plan = backend.capture(step, x)
    (other,) = others
    assert [plan.names(), other.names()] == [["relu_forward"], ["tanh_forward", "tanh_forward", "sigmoid_forward"]]
    result = plan(Tensor(np.float32([-1, 0, 2]), backend))
    other(x)  # whose memory is not that of the first
    np.testing.assert_array_equal(result.numpy(), [0, 0, 2])


def test_new_weights_are_seen() -> None:
    model = trained("norms")
    features = encoded(model, TABLE)[:1]
    old = both(model, features)
    weights = {name: array + np.float32(0.5) for name, array in model.network.arrays().items()}
    model.network.load(weights)
    assert both(model, features) == both_without_plans(model, features) != old
    model.network.build(*model.network.widths, backend=Backend(), seed=7)
    assert both(model, features) == both_without_plans(model, features)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("backend", ["numpy", "native"])
def test_weights_that_an_optimizer_for_own_loops_has_moved_are_seen(backend: str, precision: str) -> None:
    rows, targets, settings = MODELS["classes"]
    model = gpumlp.fit(rows, targets, backend=backend, precision=precision, **SMALL | settings)
    features = encoded(model, TABLE)[:1]
    old = both(model, features)
    moved = Parameters.of(model.network.trainable_variables)
    moved.variables["0_dense_1.W"].assign(moved.variables["0_dense_1.W"].numpy() + 1)
    assert both(model, features) == both_without_plans(model, features) != old
    assert both(model, features) == both_without_plans(model, features)
    for shape in range(2, replay.MAX_SHAPES + 9):
        model._replays(model.network, features, 1.0 / shape)
    assert len(model._replays._plans) <= replay.MAX_SHAPES


def test_a_copy_has_no_plans() -> None:
    model = trained("classes", "numpy")
    features = encoded(model, TABLE)[:1]
    expected = both(model, features)
    for again in (copy.copy(model), copy.deepcopy(model), pickle.loads(pickle.dumps(model)), replace(model)):
        assert both(again, features) == expected


def test_rows_of_another_width_are_refused_as_without_a_plan() -> None:
    model = trained("bytes")
    features = Features.of_array(IMAGES[:1, :4])
    for answer in (both, both_without_plans):
        with pytest.raises(ShapeError):
            answer(model, features)


def test_neither_a_tape_nor_a_captured_step_takes_constants_for_results() -> None:
    model, fresh = trained("classes"), trained("classes")
    features = encoded(model, TABLE)[:1]
    expected = both_without_plans(model, features)
    with GradientTape():
        assert [both(model, features), both(model, features)] == [expected] * 2
    assert plans(model) == 1
    for each in (model, fresh):  # with a plan, and before there is one
        with pytest.raises(CaptureError):
            each.network.context.backend.capture(lambda each=each: both(each, features))
