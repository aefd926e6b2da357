"""What a benchmark says of the machine, where the system does not tell."""

from __future__ import annotations

import os

import pytest

from gpumlp.backend import Backend
from gpumlp.bench import machine


def test_a_system_that_does_not_tell_its_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> int:
        raise ValueError(f"unrecognized configuration name: {name}")

    monkeypatch.setattr(os, "sysconf", unknown, raising=False)
    assert machine.memory(Backend()) == machine.USUAL_MEMORY
    monkeypatch.delattr(os, "sysconf")
    assert machine.memory(Backend()) == machine.USUAL_MEMORY
