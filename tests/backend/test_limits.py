"""How much memory there is: what the system says, and no more than the control group gives."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gpumlp.backend import Backend, limits


@pytest.mark.skipif(not hasattr(os, "sysconf"), reason="no sysconf on this system")
def test_the_memory_of_a_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    places = tmp_path / "memory.max", tmp_path / "none"
    monkeypatch.setattr(limits, "LIMITS", places)
    assert Backend().memory == pages * size
    for text, expected in (("max", pages * size), (str(1 << 62), pages * size), ("4096", 4096)):
        places[0].write_text(f"{text}\n")
        assert Backend().memory == expected
    places[0].unlink()
    monkeypatch.delattr(os, "sysconf")
    assert Backend().memory is None
