"""Several networks that predict as one: the linear values of an ensemble stand for the mean of the predictions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support import BACKENDS

from gpumlp import backend as backends
from gpumlp.autodiff import GradientTape, Tensor, Variable, activate, stack, sum
from gpumlp.backend import Backend
from gpumlp.errors import ConfigError
from gpumlp.nn import Dense, Ensemble, Sequential
from gpumlp.nn.members import MEANS, mean_of_members
from gpumlp.ops import LOSS_RECORDS
from gpumlp.seeds import member_seed

Host = np.ndarray[Any, Any]


def predicted(link: str, z: Host) -> Host:
    """Return predictions in float64, by formulas that use no other value than their own."""
    z = z.astype(np.longdouble)  # of -300 a float64 has no more than 13 digits after the point
    if link == "sigmoid":
        return np.exp(-np.logaddexp(0.0, -z))
    if link == "softmax":
        return np.exp(z - np.logaddexp.reduce(z, axis=-1, keepdims=True))
    return z


EDGES = np.array([[0.0, -0.0, 1.0], [300.0, -300.0, 0.0], [-300.0, -301.0, -300.0], [80.0, 0.0, -80.0]])


@pytest.mark.parametrize("link", MEANS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_the_mean_of_predictions(link: str, dtype: Any, count: int) -> None:
    rng = np.random.default_rng(count)
    each = [rng.permutation(EDGES) + rng.standard_normal(EDGES.shape) for _ in range(count)]
    linear = mean_of_members(link, stack([z.astype(dtype) for z in each], axis=1))
    wanted = np.mean([predicted(link, z.astype(dtype)) for z in each], axis=0)
    found = activate(link, linear).numpy()
    assert found.dtype == dtype
    np.testing.assert_allclose(found, wanted, rtol=64 * np.finfo(dtype).eps, atol=8 * np.finfo(dtype).eps)
    if link == "softmax":  # what losses see, too: the logarithm of a probability far below the rest
        z = linear.numpy().astype(np.float64)
        logs = z - np.logaddexp.reduce(z, axis=-1, keepdims=True)
        likely = wanted > 1e-250
        np.testing.assert_allclose(logs[likely], np.log(wanted[likely]), rtol=64 * np.finfo(dtype).eps, atol=1e-6)


def test_both_probabilities_of_two_classes_keep_their_digits() -> None:
    linear = mean_of_members("sigmoid", stack([np.array([[40.0], [-60.0], [60.0]])] * 2, axis=1))
    np.testing.assert_allclose(linear.numpy(), [[40.0], [-60.0], [60.0]], rtol=1e-14)


def test_not_a_number_goes_through() -> None:
    for link in MEANS:
        values = mean_of_members(link, stack([np.array([[np.nan, 1.0]]), np.zeros((1, 2))], axis=1)).numpy()
        assert np.isnan(values[0, 0])


def test_all_links_of_losses_have_a_mean() -> None:
    assert {record.link for record in LOSS_RECORDS.values()} <= MEANS.keys()
    with pytest.raises(ConfigError, match="have no mean"):
        mean_of_members("tanh", Tensor(np.zeros((1, 1, 2))))


def make(backend: Backend, count: int = 3, link: str = "softmax") -> Ensemble:
    members = [Sequential([Dense(5, "tanh"), Dense(3, link)]) for _ in range(count)]
    return Ensemble(members).build(4, backend=backend, seed=2)


@pytest.mark.parametrize("name", BACKENDS)
def test_an_ensemble_is_its_members(name: str) -> None:
    ensemble, x = make(backends.get(name)), np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    wanted = np.mean([member(x).numpy().astype(np.float64) for member in ensemble.networks], axis=0)
    np.testing.assert_allclose(ensemble(x).numpy(), wanted, rtol=1e-5, atol=1e-7)
    assert ensemble.size == 3 * (4 * 5 + 5 + 5 * 3 + 3)
    assert ensemble.summary().endswith("3 such networks, 129 parameters")


def test_members_start_from_their_own_seeds() -> None:
    ensemble = make(Backend())
    for number, member in enumerate(ensemble.networks):
        alone = Sequential([Dense(5, "tanh"), Dense(3, "softmax")]).build(4, seed=member_seed(2, number))
        for key, array in alone.arrays().items():
            np.testing.assert_array_equal(member.arrays()[key], array)
    assert member_seed(2, 0) == 2
    assert len({member_seed(2, number) for number in range(100)}) == 100


def test_arrays_go_by_member() -> None:
    one, other = make(Backend()), Ensemble(make(Backend()).networks[::-1])
    assert [*one.arrays()][:2] == ["member_1.dense_1.W", "member_1.dense_2.W"]
    assert one.declare(4).keys() == one.arrays().keys()
    assert {name: array.shape for name, array in one.declare(4).items()} == {
        name: array.shape for name, array in one.arrays().items()
    }
    other.load(one.arrays())
    for name, array in other.arrays().items():
        np.testing.assert_array_equal(array, one.arrays()[name])


def test_gradients_go_through_the_mean() -> None:
    ensemble = make(Backend(), link="sigmoid")
    x = Tensor(np.ones((2, 4), np.float32), ensemble.context.backend)
    variables: list[Variable] = [v for n in ensemble.networks for v in n.parameters.variables.values()]
    with GradientTape() as tape:
        total = sum(ensemble.forward(x) * ensemble.forward(x))
    gradients = [gradient.numpy() for gradient in tape.gradient(total, variables)]
    assert all(np.isfinite(gradient).all() and gradient.any() for gradient in gradients)


def test_an_ensemble_of_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one network"):
        Ensemble([])
