"""What the verb ``graph`` does: have a computation traced or timed, write the drawing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import click

from gpumlp.cli.display import remarks, tell
from gpumlp.drawing.captured import capture_step, time_calls
from gpumlp.drawing.graph import Graph, trace
from gpumlp.drawing.source import is_source, load_source
from gpumlp.explain.network import time_step, trace_row
from gpumlp.explain.subject import load_subject
from gpumlp.store.figure import ending_of
from gpumlp.store.formats import check_free, write_bytes

FORMATS = ("svg", "png", "dot", "mermaid")


def graph(
    argument: str,
    output: Path,
    overrides: Sequence[str],
    values: bool,
    gradients: bool,
    row: int | None,
    backend: str | None,
    captured: bool,
    summary: bool,
    force: bool,
) -> None:
    """Draw a computation."""
    ending = ending_of(output, FORMATS)
    if captured and (values or gradients or summary or row is not None):
        raise click.UsageError("--captured shows calls: it goes without --values, --gradients, --row and --summary")
    check_free(output, force=force)
    if is_source(argument):
        if backend is not None or row is not None or overrides:
            raise click.UsageError(
                "--backend, --row and --set are for a configuration or a run: a function uses the backend of its "
                "tensors"
            )
        drawn = _of_function(argument, gradients=gradients, captured=captured, summary=summary)
    elif captured:
        drawn, seconds, name = time_step(Path(argument), overrides, backend)
        tell(_timed(drawn, seconds, name))
    else:
        subject = load_subject(Path(argument), overrides, backend)
        remarks(subject.notes)
        drawn = trace_row(subject, row or 0, gradients=gradients, summary=summary)
    write_bytes(output, _written(drawn, ending, values=values, gradients=gradients))
    tell(str(output))


def _of_function(argument: str, *, gradients: bool, captured: bool, summary: bool) -> Graph:
    source = load_source(argument)
    with source.blamed():
        if not captured:
            return trace(source.function, *source.inputs, gradients=gradients, summary=summary)
        plan = capture_step(source.function, *source.inputs)
        drawn, seconds = time_calls(plan)
    tell(_timed(drawn, seconds, plan.backend.name))
    return drawn


def _timed(drawn: Graph, seconds: float, backend: str) -> str:
    """Return what a captured step takes, call by call and as a whole, and the call that takes most of it."""
    singly = sum(node.seconds for node in drawn.nodes)
    longest = max(drawn.nodes, key=lambda node: node.seconds)
    return (
        f"{len(drawn.nodes)} calls on {backend}: {1e6 * singly:,.1f} µs one by one, {1e6 * seconds:,.1f} µs as a "
        f"replay; the longest is {longest.label} ({longest.note}), {100 * (longest.share or 0):.0f} %"
    )


def _written(drawn: Graph, ending: str, *, values: bool, gradients: bool) -> bytes:
    write: Callable[..., str | bytes] = getattr(drawn, ending)
    content = write(values=values, gradients=gradients)
    return content if isinstance(content, bytes) else content.encode()
