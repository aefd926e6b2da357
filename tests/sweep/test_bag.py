"""A bag: networks on the rows outside of each fold, which predict by their mean, within a time."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import run as command
from runs.killed import KilledError

from gpumlp import load_ensemble
from gpumlp.config import load
from gpumlp.data.splits import Fold, split
from gpumlp.errors import ConfigError, WriteError
from gpumlp.runs import Listener, listener, load_trained, train
from gpumlp.runs.listener import Limited, TooShortError
from gpumlp.sweep.bag import train_bag
from gpumlp.sweep.folder import Template

TEXT = """\
task: classification
data: {train: data.csv, target: kind, drop: [size]}
model: {hidden: [4]}
training: {epochs: 2, batch_size: 16}
backend: numpy
bag: 3
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bags")
    rng = np.random.default_rng(0)
    lines = ["a,b,kind,size"]
    for a, b in rng.normal(size=(80, 2)):
        lines.append(f"{a!r},{b!r},{'uvw'[int(abs(a) + abs(b)) % 3]},{a + b * b!r}".replace("np.float64", ""))
    text = "\n".join(lines) + "\n"
    (folder / "data.csv").write_text(text.replace("(", "").replace(")", ""))
    (folder / "bag.yaml").write_text(TEXT)
    return folder


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def of(place: Path, *overrides: str) -> Template:
    return Template(place / "bag.yaml", overrides)


def test_each_row_is_predicted_by_the_network_that_has_not_seen_it(place: Path, tmp_path: Path) -> None:
    found = train_bag(of(place), tmp_path / "bag")
    rows = {int(row["row"]): row for row in table(tmp_path / "bag" / "predictions.csv")}
    assert len(rows) == 80 - 12
    data, seen = table(place / "data.csv"), []
    for fold in (1, 2, 3):
        template = of(place, "bag=1", f"data.split.validation={{fold: {fold}, of: 3}}")
        alone = train(template.load(), tmp_path / f"alone-{fold}")
        model = load_trained(tmp_path / "bag" / f"fold-{fold}")
        for name, array in load_trained(alone.folder).network.arrays().items():
            np.testing.assert_array_equal(model.network.arrays()[name], array)
        own = split(
            80,
            validation=Fold(fold, 3),
            test=0.15,
            seed=0,
            labels=np.array(["uvw".index(row["kind"]) for row in data]),
        ).validation
        seen += own.tolist()
        columns = {name: [float(data[row][name]) for row in own] for name in "ab"}
        for row, shares in zip(own, model.predict_proba(columns), strict=True):
            np.testing.assert_allclose([float(rows[row][f"probability {c}"]) for c in "uvw"], shares, rtol=1e-6)
            assert rows[row]["target"] == data[row]["kind"]
    assert sorted(seen) == sorted(rows)
    columns = {name: [float(row[name]) for row in data] for name in "ab"}
    each = [load_trained(tmp_path / "bag" / f"fold-{fold}").predict_proba(columns) for fold in (1, 2, 3)]
    np.testing.assert_allclose(load_ensemble(tmp_path / "bag").predict_proba(columns), np.mean(each, axis=0))
    assert set(found["metrics"]) == {"validation", "test"}
    assert command("predict", tmp_path / "bag", place / "data.csv").exit_code == 0


def test_a_bag_goes_on_where_it_was_killed(place: Path, tmp_path: Path) -> None:
    class Kill(Listener):
        epochs = 0

        def epoch(self, row: dict[str, Any], best: bool) -> None:
            self.epochs += 1
            if self.epochs == 3:  # in the second fold
                raise KilledError

    template = of(place, "task=regression", "data.target=size", "data.drop=[kind]")
    whole = train_bag(template, tmp_path / "whole")
    with pytest.raises(KilledError):
        train_bag(template, tmp_path / "cut", listener=Kill())
    again = train_bag(template, tmp_path / "cut")
    assert again["metrics"] == whole["metrics"]
    files = [tmp_path / name / "predictions.csv" for name in ("whole", "cut")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert train_bag(template, tmp_path / "cut")["metrics"] == whole["metrics"]
    files[1].unlink()
    os.mkfifo(files[1])
    with pytest.raises(WriteError, match="this is a link, or not a regular file"):
        train_bag(template, tmp_path / "cut")


def test_the_best_preset_weights_two_recipes(place: Path, tmp_path: Path) -> None:
    text = TEXT.replace("bag: 3", "preset: best").replace("epochs: 2", "epochs: 1") + "members: {count: 2}\n"
    (place / "best.yaml").write_text(text)
    template = Template(place / "best.yaml", ("bag=2", "model.numbers.size=2"))
    assert template.load().settings.model.input_factors  # the settings are those of its first recipe
    assert Template(place / "best.yaml").load().settings.bag == 5
    found = train_bag(template, tmp_path / "bag")
    assert [fold["run"] for fold in found["folds"]] == [
        f"{r}-fold-{f}" for r in ("tabular", "strong") for f in (1, 2)
    ]
    assert load(tmp_path / "bag" / "strong-fold-2" / "config.yaml").settings.members.share == "hidden"
    assert sum(each["weight"] for each in found["candidates"]) == pytest.approx(1)
    ensemble = load_ensemble(tmp_path / "bag")
    assert sum(ensemble.weights) == pytest.approx(1)
    assert len(ensemble.models) == 2 * sum(each["weight"] > 0 for each in found["candidates"])
    with pytest.raises(ConfigError, match="set bag to 2 or more"):
        Template(place / "best.yaml", ("bag=1",)).load()


def test_time_is_shared_by_the_folds_and_too_little_is_refused(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter(range(10_000_000))  # each look at the clock is a second later
    monkeypatch.setattr(listener.time, "monotonic", lambda: float(next(now)))
    found = train_bag(of(place, "training.epochs=40", "time_limit=60"), tmp_path / "bag")
    limits = [load(tmp_path / "bag" / fold["run"] / "config.yaml").settings.time_limit for fold in found["folds"]]
    assert limits == [None] * 3
    lines = [(tmp_path / "bag" / f"fold-{fold}" / "metrics.jsonl").read_text().count("\n") for fold in (1, 2, 3)]
    assert all(1 <= count < 10 for count in lines)
    with pytest.raises(TooShortError, match="1 s for each of 3 runs are too short for one epoch: 2 of 3 batches"):
        train_bag(of(place, "time_limit=3"), tmp_path / "short")
    with pytest.raises(TooShortError, match="2 s are too short"):
        train(of(place, "bag=1", "time_limit=2").load(), tmp_path / "one")


def test_an_epoch_that_would_last_too_long_is_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(listener.time, "monotonic", lambda: now[0])
    notes: list[str] = []

    class Notes(Listener):
        def note(self, note: Any) -> None:
            notes.append(str(note))

    limited = Limited(Notes(), 10.0)
    ends = []
    for at in (4.0, 6.0, 8.0, 9.0):
        now[0] = at
        ends.append(limited.epoch({"epoch": len(ends) + 1}, False))
    assert ends == [False, False, False, False]
    now[0] = 9.9
    assert limited.epoch({"epoch": 5}, False)
    assert limited.spent == 9.9
    assert "training ends after epoch 5" in notes[0]


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        (("data.split.validation=0.2", "data.split.time=a"), "the first rows in time would be in no fold"),
        (("data.split.validation=other.csv",), "the folds are the validation rows"),
        (("training.conformal=0.5",), "have no intervals"),
        (("bag=0",), "bag"),
        (("time_limit=0",), "time_limit"),
    ],
)
def test_what_does_not_fit_is_refused(place: Path, overrides: tuple[str, ...], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        of(place, *overrides).load()


def test_one_run_is_not_a_bag(place: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="gpumlp train alone"):
        train(of(place).load(), tmp_path / "run")
    for arguments in (("cv", place / "bag.yaml"), ("sweep", place / "bag.yaml", "--set", "training.seed=0,1")):
        result = command(*arguments, "--run-dir", tmp_path / "several", code=2)
        assert "gpumlp train alone" in result.stderr
    assert not list(tmp_path.iterdir())
    result = command("train", place / "bag.yaml", "--force", "--run-dir", tmp_path / "run", code=2)
    assert "instead of --force" in result.stderr


def test_a_bag_of_labels_some_of_which_are_missing(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 2))
    lines = [f"{a:.3f},{b:.3f},{'yes' if a > 0 else 'no'},{['1', '0', ''][i % 3]}" for i, (a, b) in enumerate(x)]
    (tmp_path / "a.csv").write_text("\n".join(["a,b,l1,l2", *lines]))
    (tmp_path / "a.yaml").write_text(
        "task: multilabel\ndata: {train: a.csv, target: [l1, l2]}\nbag: 2\ntraining: {epochs: 1}\nbackend: numpy\n"
    )
    results = train_bag(Template(tmp_path / "a.yaml"), tmp_path / "bag")
    with Path(results["predictions"]).open() as file:
        rows = list(csv.DictReader(file))
    truth = {int(row["row"]): (row["target l1"], row["target l2"]) for row in rows}
    assert truth == {i: tuple(line.split(",")[2:]) for i, line in enumerate(lines) if i in truth}
    assert {second for _, second in truth.values()} == {"1", "0", ""}
