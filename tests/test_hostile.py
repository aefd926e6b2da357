"""Hostile files, a sample of what ``python -m tests.fuzz`` reads. Warnings are errors, as in all tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpumlp.data import prepare_files
from gpumlp.errors import DataError
from tests import fuzz

SLOWEST_S = 3.0  # of the processor for one small input; far more than any takes, far less than a hang


@pytest.mark.parametrize(("name", "exit_code", "count"), [("configs", 2, 600), ("data", 3, 1000)])
def test_a_sample_is_read_or_refused(name: str, exit_code: int, count: int, tmp_path: Path) -> None:
    subject = fuzz.SUBJECTS[name]
    outcomes = fuzz.survive(subject, range(count), tmp_path)
    assert not outcomes.failures
    assert outcomes.slowest < SLOWEST_S
    assert subject.error.exit_code == exit_code
    assert min(outcomes.good, outcomes.refused) > count / 50  # neither too easy nor hopeless


def test_what_fails_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(rng: object, folder: Path, name: str) -> None:
        while True:
            pass

    monkeypatch.setattr(fuzz, "HANG_S", 0.05)
    failing = fuzz.Subject(fuzz.ConfigError, fuzz.write_config, lambda rng, folder, name: 1 / 0)
    hanging = fuzz.Subject(fuzz.ConfigError, fuzz.write_config, read)
    assert fuzz.survive(failing, range(2), tmp_path).failures == [
        f"seed {i}: ZeroDivisionError: division by zero" for i in (0, 1)
    ]
    assert fuzz.survive(hanging, range(1), tmp_path).failures == ["seed 0: HangError: more than 0.05 seconds"]


@pytest.mark.parametrize("name", ["n" * 300 + ".csv", "n" * 300 + "/a.csv", "n" * 300 + "*.csv"])
def test_a_file_name_that_is_too_long_for_the_system_is_not_there(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such file|does not exist|no file matches"):
        prepare_files(name, folder=tmp_path, task="regression", target="y")
