"""What the first rows of a file tell: codes among numbers, and cells that training would stop at."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from gpumlp.cli.main import main
from gpumlp.data import prepare_files
from gpumlp.data.source.kinds import Kind

ROWS = 300


def written(folder: Path, cells: list[str], rows: int = ROWS) -> Path:
    lines = (f'{i % 7},"{cells[i % len(cells)]}",{"yn"[i % 2]}' for i in range(rows))
    (folder / "a.csv").write_text("x,cell,y\n" + "\n".join(lines) + "\n")
    (folder / "a.yaml").write_text("task: classification\ndata: {train: a.csv, target: y}\ntraining: {epochs: 1}\n")
    return folder / "a.yaml"


@pytest.mark.parametrize("rows", [ROWS, 9_000], ids=["short", "by the engine"])
def test_codes_that_are_read_as_numbers_are_named(tmp_path: Path, rows: int) -> None:
    written(tmp_path, ["00123", "10001", "94105", "02139"], rows)

    def notes(cells: list[str] | None = None, **columns: Kind) -> list[str]:
        if cells:
            written(tmp_path, cells, rows)
        return [
            note
            for note in map(
                str,
                prepare_files(
                    "a.csv",
                    task="classification",
                    target="y",
                    folder=tmp_path,
                    columns=columns,
                    validation=0.0,
                    test=0.0,
                ).notes,
            )
            if "codes" in note
        ]

    assert notes() == [
        "column 'cell' has numbers such as '00123', read as 123; "
        'if they are codes, set data.columns to {"cell": category}'
    ]
    if rows > ROWS:
        return
    assert not notes(cell=Kind("category")) + notes(cell=Kind("number"))
    for plain in (["0", "10", "7"], ["01", "12", "07"], ["0.25", "00.5", "3"], ["000a", "b"]):
        assert not notes(plain)


@pytest.mark.parametrize(
    ("cells", "settings", "message"),
    [
        ([f"$1,{i}" for i in range(200, 240)], [], "data.train: "),
        (["1", "2", "$1,200"], ["task=regression", "data.target=cell"], "--set data.target: "),
        (["1", "2", "x"], ["data.weights=cell"], "--set data.weights: "),
        (["1", "2", ""], ["task=regression", "data.target=cell"], "--set data.target: "),
        (["a", "b", ""], ["data.target=cell"], "--set data.target: "),
        (["1", "2", "x"], ["data.columns={cell: number}"], "data.train: "),
    ],
)
def test_validate_finds_cells_as_training_does(
    tmp_path: Path, cells: list[str], settings: list[str], message: str
) -> None:
    config = written(tmp_path, cells)
    more = [part for each in settings for part in ("--set", each)]
    found, trained = (CliRunner().invoke(main, [verb, str(config), *more]) for verb in ("validate", "train"))
    assert found.exit_code == trained.exit_code == 3
    reason = trained.stderr.partition("a.csv")[2].strip().split(", as it is in")[0]  # how many more, all rows tell
    assert message in found.stderr
    assert reason in found.stderr


def test_a_word_in_the_first_rows_stops_nothing_that_training_would_take(tmp_path: Path) -> None:
    """One word among 200 rows is a slip if these are all, and may be a category if there are more."""
    numbers = [str(i) for i in range(50)]
    for rows, code in ((190, 3), (ROWS, 0)):
        config = written(tmp_path, numbers, rows)
        text = (tmp_path / "a.csv").read_text().replace('"7"', "lots", 1).splitlines()
        text[200:] = [line.rpartition('"')[0].partition('"')[0] + "lots,y" for line in text[200:]]
        (tmp_path / "a.csv").write_text("\n".join(text) + "\n")
        found = CliRunner().invoke(main, ["validate", str(config)])
        assert found.exit_code == code, found.output
        assert ("should be numeric, but this cell is 'lots'" in found.output) == (code == 3)
