"""What a run folder holds for people to read, and no longer is what was written."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from gpumlp.errors import DamageError
from gpumlp.runs.folder import RunFolder
from gpumlp.store.formats import sealed

ROW: dict[str, Any] = {"epoch": 1, "train_loss": 0.5, "validation_loss": 0.6, "validation_auc": None}
SUMMARY: dict[str, Any] = sealed(
    {
        "status": "completed",
        "epochs": 2,
        "best_epoch": 1,
        "metric": "loss",
        "seconds": 1,
        "samples_per_second": None,
        "backend": "numpy",
        "device": None,
        "data": "",
        "metrics": {"train": {"loss": 0.5}},
        "settings": {"task": "regression"},
        "history": "",
        "model": None,
    }
)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    place = RunFolder(tmp_path)
    place.history.write_text(2 * f"{json.dumps(ROW)}\n")
    place.summary.write_text(json.dumps(SUMMARY))
    assert place.read_history(2) == [ROW, ROW]
    assert place.read_history(0) == []
    assert place.read_summary() == SUMMARY


@pytest.mark.parametrize(
    "line",
    ["{}", "1", "[]", "null", "{", '{"epoch": 1}', *(json.dumps(ROW | {"train_loss": each}) for each in (None, "x"))],
)
def test_a_history_that_is_none(tmp_path: Path, line: str) -> None:
    place = RunFolder(tmp_path)
    for lines in ((line, json.dumps(ROW)), (json.dumps(ROW), line)):
        place.history.write_text("\n".join(lines))
        with pytest.raises(
            DamageError, match=r"the history is damaged|metrics\.jsonl:[12]: a line is not the record of an epoch"
        ):
            place.read_history(2)


@pytest.mark.parametrize(
    "content",
    [[], {}, 3, *({**SUMMARY, **wrong} for wrong in ({"epochs": "x"}, {"metrics": []}, {"metrics": {"train": 1}}))],
)
def test_a_summary_that_is_none(tmp_path: Path, content: Any) -> None:
    place = RunFolder(tmp_path)
    place.summary.write_text(json.dumps(content))
    with pytest.raises(DamageError, match="not the summary of a run"):
        place.read_summary()


@pytest.mark.parametrize("name", [name for name in SUMMARY if name != "sha256"])
def test_a_key_of_a_summary_by_another_name(tmp_path: Path, name: str) -> None:
    place = RunFolder(tmp_path)
    place.summary.write_text(json.dumps(SUMMARY).replace(f'"{name}"', f'"{name}s"'))
    with pytest.raises(DamageError, match=r"not the summary of a run|damaged"):
        place.read_summary()


def test_a_summary_whose_numbers_were_changed(tmp_path: Path) -> None:
    place = RunFolder(tmp_path)
    place.summary.write_text(json.dumps(SUMMARY).replace("0.5", "0.4"))
    with pytest.raises(DamageError, match="damaged"):
        place.read_summary()


def test_a_history_whose_numbers_were_changed(tmp_path: Path) -> None:
    place, line = RunFolder(tmp_path), f"{json.dumps(ROW)}\n"
    checksum = hashlib.sha256(2 * line.encode()).hexdigest()
    place.history.write_text(3 * line)
    assert place.read_history(2, checksum) == [ROW, ROW]
    place.history.write_text((2 * line).replace("0.5", "0.4"))
    with pytest.raises(DamageError, match="does not match its checksum"):
        place.read_history(2, checksum)
