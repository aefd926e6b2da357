"""Many small networks trained in one pass: their units stand side by side, and masks keep them apart.

A layer holds the units of all networks, so a step is one product, one activation and one update, however many
networks there are. Weights from one network to another are 0, and a mask keeps their gradients 0 too. The networks
may differ in width and in depth: each has its own column of output weights, in the layer where it ends. It saves
calls and pays for them with products with zeros; ``benchmarks/approximate.py`` shows what that comes to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpumlp.approximation.network import Network
from gpumlp.approximation.targets import Values
from gpumlp.autodiff import GradientTape, Tensor, Variable, dense, loss_value
from gpumlp.backend import Backend
from gpumlp.nn import Group, Parameters
from gpumlp.ops import LOSS_RECORDS
from gpumlp.optim import Optimizer, Schedule

DTYPE = np.dtype(np.float32)  # of training; what is solved and measured afterwards is float64
LEARNING_RATE, WARMUP, FINAL = 0.01, 0.05, 1e-3  # of Adam; the rate rises, then falls along a cosine
OFFSET = Group(decay=0.0)
BETA2 = 0.99  # the steps are few and their gradients exact: a shorter memory than usual follows them faster


@dataclass(frozen=True)
class _Layer:
    """One layer of all networks: where each one's units are, and the masks, None where nothing is to be kept out."""

    units_of: dict[int, slice]
    mask: Tensor | None
    ending: Tensor | None


class Members:
    """Networks of one activation and p inputs, as one."""

    def __init__(self, networks: Sequence[Network], backend: Backend) -> None:
        self.networks, self.backend = tuple(networks), backend
        self.activation = networks[0].activation
        self._layers: list[_Layer] = []
        named: dict[str, tuple[Variable, Group]] = {}
        for index in range(max(len(network.layers) for network in networks)):
            named |= self._add_layer(index)
        named["c"] = self._variable(np.array([network.c for network in networks])), OFFSET
        self.parameters = Parameters(backend, DTYPE, named)

    def _add_layer(self, index: int) -> dict[str, tuple[Variable, Group]]:
        """Add the next layer of those networks that have one, and return its variables."""
        before = self._layers[-1].units_of if index else {}
        units_of: dict[int, slice] = {}
        units = 0
        for member, network in enumerate(self.networks):
            if index < len(network.layers):
                width = network.layers[index][1].size
                units_of[member] = slice(units, units + width)
                units += width
        rows = (
            max(own_units.stop for own_units in before.values()) if index else self.networks[0].layers[0][0].shape[0]
        )
        W, mask, b = np.zeros((rows, units)), np.zeros((rows, units)), np.zeros(units)
        V, ending = np.zeros((units, len(self.networks))), np.zeros((units, len(self.networks)))
        for member, own_units in units_of.items():
            network, above = self.networks[member], before.get(member, slice(None))
            W[above, own_units], b[own_units] = network.layers[index]
            mask[above, own_units] = 1.0
            if index == len(network.layers) - 1:
                V[own_units, member], ending[own_units, member] = network.v, 1.0
        ends = bool(ending.any())
        self._layers.append(
            _Layer(units_of, None if mask.all() else self._constant(mask), self._constant(ending) if ends else None)
        )
        outputs = {f"V{index}": (self._variable(V), Group())} if ends else {}
        return {f"W{index}": (self._variable(W), Group()), f"b{index}": (self._variable(b), OFFSET), **outputs}

    def _constant(self, values: Values) -> Tensor:
        return Tensor(self.backend.asarray(values, DTYPE), self.backend)

    def _variable(self, values: Values) -> Variable:
        return Variable(values.astype(DTYPE), self.backend)

    def forward(self, x: Tensor) -> Tensor:
        """Return the values of all networks ``(N, members)`` at points ``(N, p)``."""
        variables = self.parameters.variables
        h = x
        y: Tensor = variables["c"]
        for index, layer in enumerate(self._layers):
            W = variables[f"W{index}"]
            h = dense(h, W if layer.mask is None else W * layer.mask, variables[f"b{index}"], self.activation)
            if layer.ending is not None:
                y = y + h @ (variables[f"V{index}"] * layer.ending)
        return y

    def train(self, x: Values, y: Values, steps: int) -> None:
        """Take ``steps`` steps of Adam on the squared errors at points ``x`` (N, p) with values ``y`` (N,).

        The step is captured once and replayed. The mean over the networks only scales each one's gradient, of
        which Adam takes no notice, so each trains as it would alone, but for rounding.
        """
        backend = self.backend
        clock = backend.zeros((3,), np.int64)
        optimizer = Optimizer("adam", self.parameters, clock, beta2=BETA2)
        schedule = Schedule("cosine", learning_rate=LEARNING_RATE, warmup=WARMUP, final=FINAL)
        optimizer.rates = backend.asarray(schedule.rates(0, steps, 1), DTYPE)
        points = self._constant(x)
        goals = self._constant(np.repeat(y[:, None], len(self.networks), axis=1))

        def step() -> None:
            with GradientTape() as tape:
                loss, _ = loss_value(LOSS_RECORDS["squared_error"], self.forward(points), goals)
            self.parameters.collect(tape, loss)
            optimizer.step()

        plan = backend.capture(step)
        for _ in range(steps - 1):
            plan()

    def trained(self) -> list[Network]:
        """Return the networks as they are now, in the order they came."""
        arrays = {name: array.astype(np.float64) for name, array in self.parameters.arrays().items()}
        networks = []
        for member, network in enumerate(self.networks):
            depth = len(network.layers)
            units_of = [layer.units_of[member] for layer in self._layers[:depth]]
            above = [slice(None), *units_of[:-1]]
            layers = tuple(
                (arrays[f"W{i}"][above[i], units_of[i]], arrays[f"b{i}"][units_of[i]]) for i in range(depth)
            )
            output = arrays[f"V{depth - 1}"][units_of[-1], member]
            networks.append(Network(network.activation, layers, output, float(arrays["c"][member])))
        return networks
