"""Losses by name, on models."""

from __future__ import annotations

import numpy as np
import pytest

from gpumlp.autodiff import Tensor
from gpumlp.errors import ConfigError
from gpumlp.nn import LOSSES, Dense, Loss, Sequential
from gpumlp.ops import ACTIVATIONS, LOSS_RECORDS


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
    y = np.arange(6) % 3 if LOSSES[name].task == "classification" else x[:, :3].copy()
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
