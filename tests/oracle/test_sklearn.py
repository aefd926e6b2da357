"""A run against scikit-learn's MLPClassifier: the same start, the same batches, the same loss curve."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs the extra 'oracle': pip install gpumlp[oracle]")

from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

from gpumlp.autodiff import GradientTape, Tensor
from gpumlp.nn import Dense, Loss, Sequential
from gpumlp.optim import Optimizer

EPOCHS, BATCH = 5, 100


class SameStart(MLPClassifier):
    """MLPClassifier from given weights instead of its own; batches in the order of the rows (shuffle=False)."""

    def __init__(self, weights=None, biases=None, **settings):
        super().__init__(**settings)
        self.weights, self.biases = weights, biases

    def _init_coef(self, fan_in, fan_out, dtype):
        at = next(i for i, w in enumerate(self.weights) if w.shape == (fan_in, fan_out))
        return self.weights[at].copy(), self.biases[at].copy()


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid"])
@pytest.mark.parametrize("solver", ["adam", "nesterov"])
@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_the_loss_curve(activation, solver):
    x, y = load_digits(return_X_y=True)
    x, y = x[:500] / 16.0, y[:500]
    model = Sequential([Dense(20, activation), Dense(10, "softmax")]).build(64, dtype=np.float64, seed=1)
    arrays = model.arrays()
    judge = SameStart(
        [arrays["dense_1.W"], arrays["dense_2.W"]],
        [arrays["dense_1.b"], arrays["dense_2.b"]],
        hidden_layer_sizes=(20,), activation={"sigmoid": "logistic"}.get(activation, activation),
        solver="adam" if solver == "adam" else "sgd", learning_rate_init=0.01, alpha=0.0, batch_size=BATCH,
        shuffle=False, max_iter=EPOCHS, random_state=0, epsilon=1e-30,
    ).fit(x, y)  # fmt: skip
    # scikit-learn adds ε before the bias correction, we after it, as the paper does: here it is no size at all
    epsilon = {"epsilon": 1e-30} if solver == "adam" else {}
    optimizer = Optimizer(solver, model.parameters, model.context.clock, learning_rate=0.01, **epsilon)
    loss, curve = Loss("cross_entropy", model), []
    for _ in range(EPOCHS):
        total = 0.0
        for i in range(0, len(x), BATCH):
            with GradientTape() as tape:
                value, sums = loss(model.forward(Tensor(x[i : i + BATCH])), y[i : i + BATCH])
            model.parameters.collect(tape, value)
            optimizer.step()
            total += sums[0]
        curve.append(total / len(x))
    np.testing.assert_allclose(curve, judge.loss_curve_, rtol=1e-9)
    np.testing.assert_allclose(model.predict(x), judge.predict_proba(x), rtol=1e-6, atol=1e-9)
    assert curve[-1] < 0.95 * curve[0]
