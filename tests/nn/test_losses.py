"""Losses by name, on models."""

from __future__ import annotations

import numpy as np
import pytest
from support import BACKENDS

from gpumlp.autodiff import Tensor
from gpumlp.backend import get
from gpumlp.data import Dataset
from gpumlp.errors import ConfigError, DataError
from gpumlp.nn import LOSSES, Dense, Loss, Sequential
from gpumlp.ops import ACTIVATIONS, LOSS_RECORDS
from gpumlp.optim import Optimizer, Schedule
from gpumlp.training.trainer import Trainer


def model(units, link="identity"):
    return Sequential([Dense(units, link)]).build(4)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("units", [1, 3])
@pytest.mark.parametrize("link", ACTIVATIONS)
def test_the_link_belongs_to_the_loss(name, units, link):
    record = LOSSES[name].record(units)
    if link in (record.link, "identity"):
        assert Loss(name, model(units, link)).record is record
    else:
        with pytest.raises(ConfigError, match=f"the model ends in {link}"):
            Loss(name, model(units, link))


def test_every_record_is_the_loss_of_some_name():
    assert {spec.record(k).name for spec in LOSSES.values() for k in (1, 2)} == set(LOSS_RECORDS)


def test_one_output_is_binary():
    network = model(1, "sigmoid")
    x, labels = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32), np.array([0, 1, 1, 0, 1, 1])
    value, sums = Loss("cross_entropy", network, class_weights=[1.0, 2.0])(network.forward(Tensor(x)), labels)
    p = network.predict(x)[:, 0].astype(np.float64)
    w = np.where(labels == 1, 2.0, 1.0)
    expected = -(w * np.log(np.where(labels == 1, p, 1 - p))).sum() / w.sum()
    np.testing.assert_allclose(float(value), expected, rtol=1e-6)
    np.testing.assert_allclose(sums, [expected * w.sum(), w.sum(), ((p > 0.5) == labels).sum(), 6], rtol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_evaluate_gives_the_sums(name):
    network = model(3)
    x = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    numbers = np.abs(x[:, :3])
    y = {"classification": np.arange(6) % 3, "multilabel": numbers > 0.5, "regression": numbers}[LOSSES[name].task]
    w = np.arange(6, dtype=np.float32)
    loss, outputs = Loss(name, network), network.forward(Tensor(x))
    np.testing.assert_array_equal(loss.evaluate(outputs, y, w), loss(outputs, y, w)[1])


def test_refusals():
    with pytest.raises(ConfigError, match="did you mean 'huber'"):
        Loss("hubber", model(1))
    with pytest.raises(ConfigError, match="no setting 'delta'"):
        Loss("squared_error", model(1), delta=1.0)
    with pytest.raises(ConfigError, match="no classes to weight"):
        Loss("squared_error", model(2), class_weights=[1.0, 2.0])


@pytest.mark.parametrize("wrong", [[0, 1, -1], [0, 1, 2], [0.0, 0.5, 1.5], [0, 1, 255]])
def test_binary_labels_lie_between_0_and_1(wrong):
    network, x = model(1, "sigmoid"), Tensor(np.ones((3, 4), np.float32))
    loss = Loss("cross_entropy", network)
    for targets in (np.array(wrong), np.array(wrong)[:, None]):
        with pytest.raises(DataError, match=r"targets must lie in \[0, 1\], one is (-1|2|1.5|255)"):
            loss(network.forward(x), targets)
        with pytest.raises(DataError, match="targets must lie"):
            loss.check_targets(targets)
    for right in ([0, 1, 1], [True, False, True], [0.0, 0.25, 1.0]):
        loss(network.forward(x), np.array(right))


def test_labels_and_shares_of_classes():
    network, x = model(3, "softmax"), Tensor(np.ones((2, 4), np.float32))
    loss = Loss("cross_entropy", network)
    with pytest.raises(DataError, match=r"targets must be class numbers, one is 0\.5"):
        loss(network.forward(x), np.array([1.0, 0.5]))
    with pytest.raises(DataError, match="targets must be class numbers, one is nan"):
        loss(network.forward(x), np.array([1.0, np.nan]))
    with pytest.raises(DataError, match=r"targets must be shares of the classes, at least 0, one is -0\.5"):
        loss(network.forward(x), np.array([[1.0, 0.5, -0.5], [0, 0, 1]]))
    whole = [float(loss(network.forward(x), np.array(labels))[0]) for labels in ([1, 2], [1.0, 2.0])]
    assert whole[0] == whole[1]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_trainer_looks_at_its_targets(backend):
    network = Sequential([Dense(1, "sigmoid")]).build(4, backend=get(backend))
    data = Dataset(np.ones((3, 4), np.float32), np.array([0, 1, 2]), None)
    loss, schedule = Loss("cross_entropy", network), Schedule(learning_rate=0.1)
    optimizer = Optimizer("sgd", network.parameters, network.context.clock)
    with pytest.raises(DataError, match="binary_cross_entropy: targets must lie"):
        Trainer(network, loss, optimizer, schedule, data, epochs=1, batch_size=2)
