"""What newcomers stumbled on: one clear message each."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from pydantic import BaseModel, ValidationError

from gpumlp.cli import verbs
from gpumlp.cli.main import main
from gpumlp.data.encoding.columns import decide
from gpumlp.data.encoding.dates import Dates
from gpumlp.data.source.frame import Frame
from gpumlp.data.source.rows import rows_of
from gpumlp.data.source.typed import _nested_kind
from gpumlp.errors import ConfigError, DataError


def frame(cells: list[str]) -> Frame:
    source = rows_of({"a": cells})
    assert isinstance(source, Frame)
    return source


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_pydantic_loses_ends_the_verb(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals, capfd: Any
) -> None:
    class Setting:
        @property
        def __class__(self) -> Any:  # where Python looks, pydantic loses whatever is raised
            os.kill(os.getpid(), number)
            return dict

    class Settings(BaseModel):
        data: dict[str, int]

    def validate(**_: Any) -> None:
        try:
            Settings.model_validate({"data": Setting()})
        except ValidationError as error:
            raise ConfigError(str(error)) from None

    monkeypatch.setattr(verbs, "validate", validate)
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    result = CliRunner().invoke(main, ["validate", "a.yaml"])
    assert (result.exit_code, result.stderr) == (128 + number, "error: interrupted\n")
    assert capfd.readouterr().err == ""
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before
    monkeypatch.setattr(verbs, "validate", lambda **_: _raise(ConfigError("another error")))
    assert CliRunner().invoke(main, ["validate", "a.yaml"]).exit_code == 2  # the signal before it is forgotten


def _raise(error: Exception) -> None:
    raise error


@pytest.mark.parametrize("pattern", ["({},596)", "({}.5)", "$({})"])
def test_numbers_in_brackets_are_named(pattern: str) -> None:
    cells = [pattern.format(i) if i % 2 else f"{i}" for i in range(1, 41)]
    with pytest.raises(
        DataError, match=r"not written plainly, such as .*\n  if brackets mean that a number is negative"
    ):
        decide("a", frame(cells))
    assert decide("a", frame(["(none)", "(low)", "(1st)"] * 20))[1] is not None


def test_times_of_twelve_hours_are_dates() -> None:
    cells = [f"{i % 12 + 1}/{i % 28 + 1}/2023 {i % 12 + 1}:{i % 60:02d} {'AP'[i % 2]}M" for i in range(80)]
    for some in (cells, cells[:20] * 4, [each.replace(" AM", ":00 a.m.") for each in cells]):
        dates = Dates.fit("a", frame(some))
        assert dates is not None
        assert dates.cycles == ("week", "day")
    remark = decide("a", frame(["1/2/2023 1:00 AM", "2/3/2023 2:00 PM", "3/4/2023 2:00 PM"] * 20))[2]
    assert "whether the month or the day is first is not clear" in str(remark)


@pytest.mark.parametrize(
    ("type_", "kind"),
    [
        ("STRUCT(q BIGINT, r VARCHAR)", "records"),
        ("STRUCT(q BIGINT)[]", "lists"),
        ("INTEGER[3]", "lists"),
        ("MAP(VARCHAR, BIGINT)", "mappings"),
        ("UNION(a INTEGER)", "nested values"),
    ],
)
def test_types_of_the_engine_are_not_shown(type_: str, kind: str) -> None:
    assert _nested_kind(type_) == kind


def test_columns_of_one_name_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b,a,y\n1,2,3,4\n")
    result = CliRunner().invoke(main, ["init", str(tmp_path / "a.csv")])
    assert result.exit_code == 3
    assert "a.csv:1: two columns are called 'a', the 1. and the 3.\n  rename one of them" in result.stderr


def test_one_column_is_used(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,y\n" + "".join(f"{i % 9},{('no', 'yes')[i % 2]}\n" for i in range(60)))
    result = CliRunner().invoke(main, ["init", str(tmp_path / "a.csv"), "--target", "y"])
    assert "2 columns; 1 of them is used as an input." in result.output
