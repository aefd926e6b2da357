"""PyTorch's own operations, where it is installed: what a kernel is compared with.

Each is the fastest form that PyTorch offers in eager mode: written into memory that is there where it can be, fused
where it is. What it has no operation for is left out.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

from gpumlp.backend import Backend
from gpumlp.bench.clock import Clock, Times
from gpumlp.bench.machine import on_device
from gpumlp.errors import BackendError
from gpumlp.ops.activations import LEAK, SELU_ALPHA, SELU_SCALE
from gpumlp.ops.batches import BATCH, STEP
from gpumlp.ops.norms import EPSILON
from gpumlp.ops.record import Array

Tensor = Any
Call = Callable[[], Tensor]
Maker = Callable[..., Call]
"""From the module torch, the parameters and the inputs as tensors to a call that returns the first output."""


def installed(backend: Backend) -> Any:
    """Return PyTorch, or None where it is not there or cannot compute where the backend does."""
    try:
        torch: Any = importlib.import_module("torch")
    except ImportError:
        return None
    return torch if not on_device(backend) or torch.cuda.is_available() else None


def stream(backend: Backend) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which PyTorch computes on a device's stream of the backend, by whose events it is timed."""
    if not on_device(backend) or (torch := installed(backend)) is None:
        return contextlib.nullcontext()
    owner = cast(Any, backend)
    return cast(
        contextlib.AbstractContextManager[Any],
        torch.cuda.stream(torch.cuda.ExternalStream(owner.stream.ptr, device=owner.device.id)),
    )


def peer(
    backend: Backend, name: str, inputs: Sequence[Array], params: Mapping[str, Any], expected: Sequence[Array]
) -> Call | None:
    """Return PyTorch's operation on these inputs, or None where there is none, after checking that it does the same.

    Raises BackendError where it does not.
    """
    if name not in PEERS or (torch := installed(backend)) is None:
        return None
    call = PEERS[name](torch, params, *(None if a is None else torch.from_dlpack(a.copy()) for a in inputs))
    result, reference = call().detach(), torch.from_dlpack(expected[0].copy())
    if name not in RANDOM and not torch.allclose(result.reshape(reference.shape), reference, rtol=1e-3, atol=1e-4):
        raise BackendError(f"{name}: PyTorch computes something else")
    return call


def best(clock: Clock, call: Call) -> Times:
    """Return the time of an operation of PyTorch: on a host the better of one thread and of all that it may have."""
    torch: Any = importlib.import_module("torch")
    if on_device(clock.backend):
        return clock.warm(call)
    threads, trials = torch.get_num_threads(), []
    for number in {1, threads}:
        torch.set_num_threads(number)
        trials.append(clock.warm(call))
    torch.set_num_threads(threads)
    return min(trials, key=lambda times: times.median)


def _forward(name: str, *more: Any) -> Maker:
    def make(torch: Any, params: Any, x: Tensor, *_: Tensor) -> Call:
        return partial(getattr(torch.ops.aten, name).out, x, *more, out=torch.empty_like(x))

    return make


def _backward(name: str, *more: Any, first: Sequence[Any] = ()) -> Maker:
    """Make the maker of a gradient: what is saved stands between the numbers ``first`` and ``more``."""

    def make(torch: Any, params: Any, saved: Tensor, dy: Tensor) -> Call:
        function = getattr(torch.ops.aten, name)
        function = getattr(function, "grad_input" if "grad_input" in function.overloads() else "out")
        return partial(function, dy, *first, saved, *more, grad_input=torch.empty_like(dy))

    return make


def _softmax_backward(torch: Any, params: Any, y: Tensor, dy: Tensor) -> Call:
    return partial(torch.ops.aten._softmax_backward_data.out, dy, y, -1, y.dtype, grad_input=torch.empty_like(dy))


def _value(name: str, **more: Any) -> Maker:
    """Make the maker of the mean of a loss."""

    def make(torch: Any, params: Any, z: Tensor, targets: Tensor, *_: Tensor) -> Call:
        if name == "cross_entropy":
            ignored = -100  # by PyTorch: labels that no class has
            targets = targets.long().where((targets >= 0) & (targets < z.shape[1]), ignored)
        else:
            targets = targets.to(z.dtype)
        return partial(getattr(torch.nn.functional, name), z, targets, **more)

    return make


def _value_and_gradient(name: str, **more: Any) -> Maker:
    """Make the maker of the mean of a loss whose gradient is taken too."""

    def make(torch: Any, params: Any, z: Tensor, *rest: Tensor) -> Call:
        z.requires_grad_()
        value = _value(name, **more)(torch, params, z, *rest)

        def call() -> Tensor:
            loss = value()
            torch.autograd.grad(loss, z)
            return loss

        return call

    return make


def _layer_norm(torch: Any, params: Any, x: Tensor, gain: Tensor, bias: Tensor) -> Call:
    return lambda: torch.native_layer_norm(x, x.shape[-1:], gain, bias, EPSILON)[0]


def _layer_norm_backward(
    torch: Any, params: Any, x: Tensor, gain: Tensor, mean: Tensor, variance: Tensor, dy: Tensor
) -> Call:
    scale, bias, function = (
        (variance + EPSILON) ** -0.5,
        torch.zeros_like(gain),
        torch.ops.aten.native_layer_norm_backward,
    )
    return lambda: function(dy, x, x.shape[-1:], mean, scale, gain, bias, [True] * 3)[0]


def _batch_norm(torch: Any, params: Any, x: Tensor, gain: Tensor, bias: Tensor) -> Call:
    return lambda: torch.native_batch_norm(x, gain, bias, None, None, True, 0.0, EPSILON)[0]


def _batch_norm_backward(
    torch: Any, params: Any, x: Tensor, gain: Tensor, mean: Tensor, variance: Tensor, dy: Tensor
) -> Call:
    mean, scale = mean.reshape(-1), ((variance + EPSILON) ** -0.5).reshape(-1)
    function = torch.ops.aten.native_batch_norm_backward
    return lambda: function(dy, x, gain, None, None, mean, scale, True, EPSILON, [True] * 3)[0]


def _dropout(torch: Any, params: Any, x: Tensor, *_: Tensor) -> Call:
    return lambda: torch.nn.functional.dropout(x, params["rate"])


def _update(make: Callable[..., Any], **state: int) -> Maker:
    """Make the maker of a fused update; ``state`` says where PyTorch's state is among the inputs: slots are last."""

    def maker(torch: Any, params: Any, *inputs: Tensor) -> Call:
        p, gradient, rates, _, _, clock = inputs[:6]
        p.grad = gradient
        optimizer = make(torch, params, [p], float(rates[min(int(clock[BATCH]), len(rates)) - 1]))
        optimizer.state[p] = {key: inputs[i] for key, i in state.items()}
        optimizer.state[p]["step"] = torch.tensor(float(clock[STEP] - 1), device=p.device)

        def step() -> Tensor:
            optimizer.step()
            return p

        return step

    return maker


def _adam(torch: Any, params: Any, parameters: Any, rate: float) -> Any:
    betas = params["beta1"], params["beta2"]
    return torch.optim.Adam(parameters, rate, betas, params["epsilon"], fused=True)


def _sgd(torch: Any, params: Any, parameters: Any, rate: float, nesterov: bool = False) -> Any:
    return torch.optim.SGD(parameters, rate, params.get("momentum", 0.0), nesterov=nesterov, fused=True)


LOSSES = {
    "softmax_cross_entropy": "cross_entropy",
    "binary_cross_entropy": "binary_cross_entropy_with_logits",
    "squared_error": "mse_loss",
    "absolute_error": "l1_loss",
    "huber": "huber_loss",
    "poisson": "poisson_nll_loss",
}
PEERS: dict[str, Maker] = {
    "relu_forward": _forward("clamp_min", 0.0),
    "leaky_relu_forward": _forward("leaky_relu", LEAK),
    "elu_forward": _forward("elu"),
    "selu_forward": _forward("elu", SELU_ALPHA, SELU_SCALE),
    "softmax_forward": _forward("_softmax", -1, False),
    **{f"{name}_forward": _forward(name) for name in ("gelu", "silu", "mish", "sigmoid", "tanh", "softplus")},
    "relu_backward": _backward("threshold_backward", 0.0),
    "leaky_relu_backward": _backward("leaky_relu_backward", LEAK, True),
    "elu_backward": _backward("elu_backward", first=(1.0, 1.0, 1.0, True)),
    "selu_backward": _backward("elu_backward", first=(SELU_ALPHA, SELU_SCALE, 1.0, True)),
    "softmax_backward": _softmax_backward,
    **{f"{name}_backward": _backward(f"{name}_backward") for name in ("gelu", "silu", "sigmoid", "tanh")},
    **{f"{name}_evaluate": _value(theirs) for name, theirs in LOSSES.items()},
    **{f"{name}_forward": _value_and_gradient(theirs) for name, theirs in LOSSES.items()},
    "layer_norm_forward": _layer_norm,
    "layer_norm_backward": _layer_norm_backward,
    "batch_norm_forward": _batch_norm,
    "batch_norm_backward": _batch_norm_backward,
    "dropout_forward": _dropout,
    "gradient_norm_forward": lambda torch, params, g: lambda: torch.linalg.vector_norm(g),
    "sgd_forward": _update(_sgd),
    "momentum_forward": _update(_sgd, momentum_buffer=-1),
    "nesterov_forward": _update(partial(_sgd, nesterov=True), momentum_buffer=-1),
    "adam_forward": _update(_adam, exp_avg=-2, exp_avg_sq=-1),
}
RANDOM = ("dropout_forward",)
"""What draws other random numbers, and so has other results."""
