"""Copies of tensors, layers, models, optimizers: they learn, and are their own; in another process too."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support import BACKENDS, bits

from gpumlp.autodiff import GradientTape, Tensor, Variable
from gpumlp.backend import Backend, get
from gpumlp.config import configure
from gpumlp.data import prepare
from gpumlp.errors import CaptureError
from gpumlp.nn import BatchNorm, Dense, Dropout, LayerNorm, Loss, Model, Sequential
from gpumlp.optim import Optimizer, Schedule
from gpumlp.training import Loop
from gpumlp.training.build import build

HOWS = {"deepcopy": copy.deepcopy, "pickle": lambda value: pickle.loads(pickle.dumps(value))}
how = pytest.mark.parametrize("how", HOWS)
backends = pytest.mark.parametrize("name", BACKENDS)
X = np.random.default_rng(34).normal(size=(64, 3)).astype(np.float32)
Y = (X[:, :1] * 2 - 1).astype(np.float32)


class Skip(Model):
    """Layers in attributes, lists and dictionaries, one of them used twice."""

    def __init__(self) -> None:
        self.shared = Dense(4, "tanh")
        self.hidden = [Dense(3, "gelu"), Dropout(0.1)]
        self.named = {"norm": LayerNorm(), "batch": BatchNorm()}
        self.output = Dense(1)

    def forward(self, *inputs: Tensor, training: bool = False) -> Tensor:
        (x,) = inputs
        for layer in self.hidden:
            x = layer(x, training=training)
        x = self.shared(x)
        x = self.named["batch"](self.named["norm"](x), training=training)
        return self.output(x + self.shared(x[:, :3]) if x.shape[1] == 3 else x)


MODELS = {
    "plain": lambda: Sequential([Dense(8, "tanh"), BatchNorm(), Dense(1)]),
    "own": Skip,
}


def trained(model: Model, optimizer: Optimizer, steps: int = 30) -> list[float]:
    loss, backend = Loss("squared_error", model), model.context.backend
    values = []
    for _ in range(steps):
        with GradientTape() as tape:
            value, _ = loss(model.forward(Tensor(X, backend), training=True), Y)
        model.parameters.collect(tape, value)
        optimizer.step()
        values.append(float(value))
    return values


def made(name: str, kind: str = "plain", optimizer: str = "adam") -> tuple[Model, Optimizer]:
    model = MODELS[kind]().build(3, backend=get(name))
    return model, Optimizer(optimizer, model.parameters, model.context.clock, learning_rate=0.05, averaging=0.9)


@how
@backends
@pytest.mark.parametrize("kind", MODELS)
def test_a_copied_model_learns_and_is_its_own(how, name, kind):
    model, optimizer = made(name, kind)
    trained(model, optimizer, 5)
    twin, its_optimizer = HOWS[how]((model, optimizer))
    assert type(twin) is type(model)
    assert twin.context.backend is model.context.backend
    before = {key: bits(array) for key, array in model.arrays().items()}
    assert {key: bits(array) for key, array in twin.arrays().items()} == before
    np.testing.assert_array_equal(twin.predict(X), model.predict(X))
    losses = trained(twin, its_optimizer)
    assert losses[-1] < 0.5 * losses[0]
    assert {key: bits(array) for key, array in model.arrays().items()} == before  # the original stayed
    assert trained(model, optimizer) == losses  # and goes the same way, bit for bit
    for parameters in (model.parameters, twin.parameters):
        for variable in parameters.variables.values():
            assert np.shares_memory(variable.array, parameters.values)
    twin.load({key: np.zeros_like(array) for key, array in twin.arrays().items()})
    assert not twin.predict(X).any()
    assert model.predict(X).any()


@how
@backends
def test_an_optimizer_copied_beside_its_model_still_moves_it(how, name):
    model, optimizer = made(name, optimizer="momentum")
    its_optimizer, twin = HOWS[how]((optimizer, model))  # in the other order
    assert its_optimizer.parameters is twin.parameters
    assert its_optimizer.clock is twin.context.clock
    before = twin.predict(X)
    trained(twin, its_optimizer, 3)
    assert not np.array_equal(twin.predict(X), before)
    assert its_optimizer.clock[0] == 3
    assert optimizer.clock[0] == 0


def test_a_shallow_copy_shares_all():
    model, optimizer = made("numpy")
    twin = copy.copy(model)
    assert copy.copy(model.parameters) is model.parameters
    trained(twin, copy.copy(optimizer), 3)
    np.testing.assert_array_equal(twin.predict(X), model.predict(X))
    assert np.shares_memory(next(iter(model.parameters.variables.values())).array, model.parameters.values)


@how
@backends
def test_tensors_and_variables_meet_their_originals(how, name):
    for given in (None, get(name)):
        for value in (Tensor([1.0, 2.0], given, name="x"), Variable([1.0, 2.0], given), Tensor([True, False], given)):
            twin = HOWS[how](value)
            assert (type(twin), twin.name, twin.dtype) == (type(value), value.name, value.dtype)
            assert not np.shares_memory(twin.array, value.array)
            np.testing.assert_array_equal((twin + value).numpy(), value.numpy() + value.numpy())
    v = Variable([1.0, 2.0])
    for twin in (HOWS[how](v), copy.copy(v), HOWS[how](v[0]), HOWS[how](v.T)):
        before = twin.numpy()
        v.assign(v.numpy() + 1)
        np.testing.assert_array_equal(twin.numpy(), before)  # of a view too
    twin = HOWS[how](v)
    with GradientTape() as tape:
        y = twin * twin
    v.assign([0.0, 0.0])
    np.testing.assert_array_equal(tape.gradient(y, twin).numpy(), 2 * twin.numpy())


@how
def test_layers_losses_schedules_and_backends(how):
    layer = Dense(2, "tanh")
    y = layer(X)
    np.testing.assert_array_equal(HOWS[how](layer)(X).numpy(), y.numpy())
    assert HOWS[how](Dense(2)).built is False
    model, _ = made("numpy")
    loss = Loss("huber", model, delta=0.5)
    twin = HOWS[how](loss)
    assert twin.record is loss.record
    assert float(twin(Tensor(Y), Y + 1)[0]) == float(loss(Tensor(Y), Y + 1)[0])
    schedule = Schedule("cosine", learning_rate=0.1, final=0.5)
    np.testing.assert_array_equal(HOWS[how](schedule).rates(1, 3, 4), schedule.rates(1, 3, 4))
    backend = Backend()
    assert HOWS[how](backend) is backend


@how
def test_narrow_models(how):
    pytest.importorskip("ml_dtypes", reason="needs the extra 'bf16': pip install gpumlp[bf16]")
    model = Sequential([Dense(4, "relu"), Dense(1)]).build(3, dtype="bfloat16")
    twin = HOWS[how](model)
    np.testing.assert_array_equal(twin.predict(X), model.predict(X))
    first = next(iter(twin.parameters.variables.values()))
    assert np.shares_memory(first.shadow, twin.parameters.shadow)
    assert first.shadow.dtype == model.parameters.shadow.dtype


@backends
def test_a_captured_step_is_not_copied(name):
    backend = get(name)
    plan = backend.capture(lambda x: x * 2.0, Tensor([1.0], backend))
    for how in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(CaptureError, match="a captured step cannot be copied or pickled"):
            how(plan)


@backends
def test_another_process_goes_on(name, tmp_path: Path):
    model, optimizer = made(name)
    trained(model, optimizer, 2)
    (tmp_path / "pickled").write_bytes(pickle.dumps((model, optimizer, Tensor([1.0]))))
    script = (
        "import pickle, sys; import numpy as np; sys.path.insert(0, sys.argv[2])\n"
        "from test_copies import trained, Tensor, X\n"
        "model, optimizer, one = pickle.loads(open(sys.argv[1], 'rb').read())\n"
        "assert (one + Tensor([1.0])).tolist() == [2]\n"
        "print(trained(model, optimizer, 3), model.context.backend.name)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "pickled"), str(Path(__file__).parent)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert told.strip() == f"{trained(model, optimizer, 3)} {name}"


def test_arrays_that_nobody_may_write_to():
    """joblib gives its workers large arrays so."""
    model, optimizer = made("numpy")
    state = vars(optimizer).copy()
    for array in (*optimizer.slots.values(), optimizer.average):
        array.setflags(write=False)
    twin = Optimizer.__new__(Optimizer)
    twin.__setstate__(state)
    trained(model, twin, 2)


@how
def test_a_configuration_goes_to_another_process(how):
    loaded = configure(
        task="regression",
        data={"train": "rows.csv", "target": "y"},
        loss="huber",
        optimizer="muon",
        schedule="cosine",
    )
    assert HOWS[how](loaded).settings == loaded.settings


def test_a_loop_has_no_twin_that_takes_its_steps():
    settings = configure(task="regression", data={"train": "-", "target": "y"}, training={"epochs": 2}).settings
    loop = Loop(build(settings, prepare({"x": X[:, 0], "y": Y[:, 0]}, task="regression", target="y")))
    next(iter(loop))
    with pytest.raises(CaptureError, match="cannot be copied"):
        copy.copy(loop)
