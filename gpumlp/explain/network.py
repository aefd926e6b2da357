"""The graph of a configuration or of a finished run: one training row on its way to the loss."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gpumlp.autodiff import Tensor
from gpumlp.config import load
from gpumlp.drawing.captured import time_calls
from gpumlp.drawing.graph import Graph, trace
from gpumlp.explain.subject import Subject, run_of
from gpumlp.runs.start import start_of
from gpumlp.training.build import build, load_data


def trace_row(subject: Subject, row: int, *, gradients: bool, summary: bool) -> Graph:
    """Return the graph of one training row, computed as in prediction: no dropout, averages for statistics.

    A weight of the row would cancel in its mean. Raises ConfigError where there is no such row.
    """
    rows = subject.only(row)

    def step(x: Tensor, y: Tensor) -> Tensor:
        return subject.loss(subject.network.forward(x), y)[0]

    backend = subject.network.context.backend
    return trace(
        step, subject.inputs(rows), subject.targets(rows), backend=backend, gradients=gradients, summary=summary
    )


def time_step(path: Path, overrides: Sequence[str], backend: str | None) -> tuple[Graph, float, str]:
    """Return the calls of a captured training step of a configuration or run, the time of a replay, the backend.

    The step is that of a full batch, as training replays it, on a network as it starts.
    """
    run = run_of(path, overrides)
    loaded = load(run.loaded.path if run else path, [*overrides, f"backend={backend}"] if backend else overrides)
    start = start_of(loaded)
    parts = build(loaded.settings, load_data(loaded, start.encoder), weights=start.weights)
    drawn, seconds = time_calls(parts.trainer.captured(), parts.trainer.captured)
    return drawn, seconds, parts.backend.name
