"""What the user says that columns are, rows without a target, and what is told of odd columns."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import numpy as np
import pytest

from gpumlp.config import load
from gpumlp.data import Dialect, Encoder, Kind, MisfitError, prepare_files, read
from gpumlp.data.source.cells import is_number
from gpumlp.data.source.kinds import number_format
from gpumlp.errors import ConfigError, DataError, shown


def prepared(folder, **options):
    given = {"task": "regression", "target": "y", "validation": 0, "test": 0, **options}
    return prepare_files("a.csv", folder=folder, **given)


def saved(encoder: Encoder) -> Encoder:
    fields, arrays = encoder.to_state()
    return Encoder.from_state(json.loads(json.dumps(fields)), arrays)


@pytest.mark.usefixtures("reader")
def test_a_category_of_numbers(tmp_path, write):
    write("zip,x,y\n" + "".join(f"{['01234', '1234', '99999'][i % 3]},{i},{i * 2}\n" for i in range(60)))
    plain, told = prepared(tmp_path), prepared(tmp_path, columns={"zip": Kind("category")})
    assert plain.encoder.features == ("zip", "x")
    assert told.encoder.features == ("x", "zip=01234", "zip=1234", "zip=99999")
    write("x,zip\n3,1234\n4,99999\n", "new.csv")
    encoder = saved(told.encoder)
    assert encoder.kinds == {"zip": Kind("category")}
    features, _ = encoder.encode(read(tmp_path / "new.csv", encoder.dialect, texts=encoder.texts), targets=False)
    assert features.inputs[:, 1:].tolist() == [[0, 1, 0], [0, 0, 1]]


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize(
    ("kind", "cells"),
    [
        (Kind("number", thousands=","), "{:,.1f}"),
        (Kind("number", thousands=",", unit="$"), "${:,.1f}"),
        (Kind("number", thousands=",", unit="€"), "{:,.1f} €"),
        (Kind("number", unit="%"), "{:.1f} %"),
        (Kind("number", thousands="'"), "{:,.1f}", ),
        (Kind("number", thousands="."), "{:,.1f}"),
    ],
    ids=["thousands", "dollars", "euros", "percent", "swiss", "german"],
)  # fmt: skip
def test_numbers_as_people_write_them(tmp_path, write, kind, cells):
    values = [(-1) ** i * (i * 1234.5 + 7.5) for i in range(40)]
    marks = {"'": str.maketrans(",", "'"), ".": str.maketrans(",.", ".,")}.get(kind.thousands, {})
    texts = [
        cells.format(abs(v)).translate(marks) if v >= 0 else "-" + cells.format(-v).translate(marks) for v in values
    ]
    write("v;y\n" + "".join(f"{'NA' if i == 5 else t};{i % 7}\n" for i, t in enumerate(texts)))
    found = prepared(tmp_path, columns={"v": kind}, scaling="none", dialect=Dialect(decimal="."))
    expected = np.array(values, np.float32)
    expected[5] = np.median(np.delete(values, 5))
    np.testing.assert_allclose(found.train.inputs[:, 0], expected, rtol=1e-6)
    assert found.encoder.features == ("v", "v is missing")
    encoder = saved(found.encoder)
    again, _ = encoder.encode(read(tmp_path / "a.csv", encoder.dialect, texts=encoder.texts), targets=True)
    np.testing.assert_array_equal(again.inputs, found.train.inputs)


def test_a_target_as_people_write_it(tmp_path, write):
    write("x,y\n" + "".join(f'{i},"${i * 1000:,}"\n' for i in range(1, 30)))
    with pytest.raises(DataError, match=r"data\.columns"):
        prepared(tmp_path)
    found = prepared(tmp_path, columns={"y": Kind("number", ",", "$")})
    np.testing.assert_allclose(found.encoder.restore(found.train.targets), np.arange(1, 30) * 1000.0, rtol=1e-5)


def test_what_is_said_to_be_a_number_must_be_one(tmp_path, write):
    write("x,v,y\n" + "".join(f"{i},{'abc'[i % 3]},{i}\n" for i in range(30)))
    with pytest.raises(DataError, match=r"a\.csv:2: column 'v' should be numeric, but this cell is 'a'"):
        prepared(tmp_path, columns={"v": Kind("number")})


def test_settings_of_columns(tmp_path, write):
    write("zip,v,y\n" + "".join(f"0{i % 3},${i},{i}\n" for i in range(30)))
    text = "task: regression\ndata:\n  train: a.csv\n  target: y\n  columns: {}\n"
    write(text.format("{zip: category, v: {type: number, unit: $}}"), "run.yaml")
    data = load(tmp_path / "run.yaml").settings.data
    assert data.kinds == {"zip": Kind("category"), "v": Kind("number", unit="$")}
    assert data.misfits(tmp_path) == []
    write(text.format("{zap: category}"), "run.yaml")
    loaded = load(tmp_path / "run.yaml")
    report = loaded.report(loaded.settings.data.misfits(tmp_path))
    assert "run.yaml:5:13: data.columns.zap:" in report
    assert "there is no column 'zap'\n  did you mean 'zip'?" in report
    with pytest.raises(MisfitError, match="there is no column 'zap'"):
        prepared(tmp_path, columns={"zap": Kind("category")})
    for wrong in ("{zip: categories}", "{v: {type: number, thousand: ','}}", "{v: {type: number, thousands: ',,'}}"):
        write(text.format(wrong), "run.yaml")
        with pytest.raises(ConfigError, match=r"data\.columns\."):
            load(tmp_path / "run.yaml")
    np.savez(tmp_path / "a.npz", x=np.ones((9, 2)), y=np.arange(9))
    with pytest.raises(MisfitError, match="only the columns of a table"):
        prepare_files("a.npz", task="regression", target="y", folder=tmp_path, columns={"x": Kind("category")})


@pytest.mark.parametrize("task", ["regression", "classification"])
def test_rows_without_a_target(tmp_path, write, task):
    rows = [f"{i},{'' if i % 10 == 3 else i % 4}\n" for i in range(60)]
    write("x,y\n" + "".join(rows))
    write("x,y\n" + "".join(rows[:10]), "v.csv")
    with pytest.raises(DataError, match=r"a\.csv:5: the target is missing.*\n  .*data\.missing_target"):
        prepared(tmp_path, task=task)
    found = prepared(tmp_path, task=task, missing_target="drop", validation="v.csv")
    assert (len(found.train), len(found.validation)) == (54, 9)
    assert "6 of 60 rows have no target and are left out (data.missing_target)" in found.notes
    assert "validation: 1 of 10 rows have no target and are left out (data.missing_target)" in found.notes
    write("x,y\n" + "".join(row for row in rows if not row.endswith(",\n")), "b.csv")
    other = prepare_files(
        "b.csv", task=task, target="y", folder=tmp_path, validation="v.csv", missing_target="drop", test=0
    )
    assert found.fingerprint == other.fingerprint
    write("x,y\n1,\n2,\n")
    with pytest.raises(DataError, match="no row has a target"):
        prepared(tmp_path, task=task, missing_target="drop")


def test_rows_of_weight_0_decide_nothing(tmp_path, write):
    rows = [f"{i % 9},5,{'ab'[i % 2]},1,{i % 7}\n" for i in range(60)]
    strange = "1e9,6,new,0,1e6\n"
    write("x,c,w,weight,y\n" + "".join(rows) + strange * 3)
    found = prepared(tmp_path, weights="weight")
    write("x,c,w,weight,y\n" + "".join(rows))
    alone = prepared(tmp_path, weights="weight")
    (fields, arrays), (other_fields, other_arrays) = found.encoder.to_state(), alone.encoder.to_state()
    assert fields == other_fields
    assert all((arrays[name] == other_arrays[name]).all() for name in arrays)
    assert found.encoder.features == ("x", "w=a", "w=b")
    assert any("'c' is left out: it is 5" in note for note in found.notes)


@pytest.mark.parametrize("scaling", ["robust", "standard"])
def test_weights_that_are_not_whole_numbers_decide_by_their_share(tmp_path, write, scaling):
    rng = np.random.default_rng(3)
    x, y, weight = rng.lognormal(size=80), rng.normal(size=80), rng.random(80)
    write("x,y,weight\n" + "".join(f"{a},{b},{c}\n" for a, b, c in zip(x, y, weight, strict=True)))
    options = {"train": "a.csv", "folder": tmp_path, "task": "regression", "target": "y", "validation": 0, "test": 0}
    found = prepare_files(**options, weights="weight", scaling=scaling).encoder
    order = np.argsort(x)
    share = np.cumsum(weight[order]) / weight.sum()
    assert found.inputs.block.medians[0] == x[order][np.searchsorted(share, 0.5)]
    mean = np.average(x, weights=weight)
    spread = [x[order][np.searchsorted(share, level)] for level in (0.25, 0.75)]
    expected = {
        "robust": (x[order][np.searchsorted(share, 0.5)], spread[1] - spread[0]),
        "standard": (mean, np.average((x - mean) ** 2, weights=weight) ** 0.5),
    }[scaling]
    fitted = found.inputs.block.scaling.fitted
    assert (fitted["centre"][0], fitted["spread"][0]) == pytest.approx(expected, rel=1e-3)
    assert found.target.mean == pytest.approx(np.average(y, weights=weight), abs=1e-3)


def test_weights_that_are_multiples_of_the_smallest_are_rows(tmp_path, write):
    states = []
    for weights in ([0.1, 0.3, 0.2], [1, 3, 2]):
        write("x,y,weight\n" + "".join(f"{i * i},{i % 7},{weights[i % 3]}\n" for i in range(60)))
        states.append(prepared(tmp_path, weights="weight").encoder.to_state())
    assert states[0][0] == states[1][0]
    assert all((states[0][1][name] == array).all() for name, array in states[1][1].items())


N = range(200)


@pytest.mark.parametrize(
    ("column", "cells", "note"),
    [
        ("user_id", [i - (i % 20 == 0) + 1000 for i in N], r"'user_id' looks like an id \(191"),
        ("name", [f"n{i - (i % 20 == 0)}" for i in N], r"has 191 different texts in 200 rows, as"),
        ("flag", [int(i == 77) for i in N], r"'flag' is 0 in 99% of the training rows or more"),
        ("flag", ["yes" if i == 77 or i == 78 else "no" for i in N], "'flag' is 'no' in 99% of the training"),
        *(
            ("v", ["<LOD" if i % 20 < share else i for i in N], r"because of '<LOD' \(in \d+ of 200 rows\)")
            for share in (3, 10, 18)
        ),
        ("v", [f"<{i % 4}" if i % 9 == 0 else i / 4 for i in N], r"because of '<0', '<1', '<2' and 1 more \(in"),
        ("v", [f"<{i}" if i % 2 == 0 else i / 4 for i in N], r"200 texts are different; .* of '<.*data.missing"),
        ("v", ["none at all" if i % 9 == 0 else i % 3 for i in N], "because of 'none at all' .*data.missing"),
    ],
)  # fmt: skip
def test_odd_columns_are_told(tmp_path, write, column, cells, note):
    write(f"{column},x,y\n" + "".join(f"{cell},{i % 50},{i % 7}\n" for i, cell in enumerate(cells)))
    assert [text for text in prepared(tmp_path).notes if re.search(note, text)]
    assert not [text for text in prepared(tmp_path, drop=[column]).notes if column in text]


def test_whole_numbers_that_are_one_to_floats(tmp_path, write):
    write("device,x,y\n" + "".join(f"{2**53 + i % 2},{i % 9},{i % 7}\n" for i in range(60)))
    (note,) = (note for note in prepared(tmp_path).notes if "'device'" in note)
    assert "is left out: it has whole numbers beyond 2^53" in note
    told = prepared(tmp_path, columns={"device": Kind("category")})
    assert told.encoder.features == ("x", "device=9007199254740992", "device=9007199254740993")


def test_usual_columns_are_not_told(tmp_path, write):
    rng = np.random.default_rng(0)
    rows = zip(rng.integers(0, 90, 300), rng.random(300).round(6), rng.integers(0, 20, 300), range(300), strict=True)
    write("id,x,flag,y\n" + "".join(f"{a},{b},{int(c == 0)},{d % 7}\n" for a, b, c, d in rows))
    assert prepared(tmp_path).notes == ()


@pytest.mark.usefixtures("reader")
def test_blank_lines_between_rows_are_told(tmp_path, write):
    write("\nx,y\n\n1,2\n\n\n3,4\n5,6\n\n")
    assert any("3 blank lines between rows skipped" in note for note in read(tmp_path / "a.csv").notes)
    for text in ("x,y\n1,2\n3,4\n\n\n", "x,y\r\n1,2\r\n3,4\r\n", 'x,y\n1,"a\n\nb"\n3,"c"\n4,d\n'):
        write(text)
        assert not [note for note in read(tmp_path / "a.csv").notes if "blank" in note]


@pytest.mark.usefixtures("reader")
def test_a_cell_of_a_megabyte(tmp_path, write):
    long = "ACGT" * 250_000
    write("x,doc,y\n" + "".join(f"{i},{long if i == 7 else 'word'},{i % 3}\n" for i in range(20)))
    frame = read(tmp_path / "a.csv")
    assert frame.labels("doc")[7] == long
    assert len(prepared(tmp_path, drop=["doc"]).train) == 20
    with pytest.raises(DataError) as caught:
        frame.numbers("doc")
    assert len(str(caught.value)) < 500
    write(f"x,y\n1,{long}\n2,b\n" + "3,b\n" * 20)
    with pytest.raises(DataError, match=r"should be numeric|is not") as caught:
        prepared(tmp_path)
    assert len(str(caught.value)) < 600


def test_what_messages_quote():
    assert shown("it's") == repr("it's")
    assert shown("a" * 100) == repr("a" * 100)
    assert shown("b" * 5000) == "'" + "b" * 100 + "'... (5,000 characters)"


def test_classes_written_as_other_numbers(tmp_path, write):
    write("x,y\n" + "".join(f"{i},{i % 3 + 1}\n" for i in range(30)))
    encoder = prepared(tmp_path, task="classification").encoder
    write("x,y\n1,2.0\n2,3.0\n3,1\n", "b.csv")
    data, _ = encoder.encode(read(tmp_path / "b.csv", encoder.dialect, texts=encoder.texts), targets=True)
    assert data.targets.tolist() == [1, 2, 0]
    write("x,y\n1,2.5\n", "b.csv")
    with pytest.raises(DataError, match=r"the class '2\.5' does not occur"):
        encoder.encode(read(tmp_path / "b.csv", encoder.dialect, texts=encoder.texts), targets=True)
    write("x,y\n" + "".join(f"{i},{['1', '1.0', '2'][i % 3]}\n" for i in range(30)))
    encoder = prepared(tmp_path, task="classification").encoder  # then 1 and 1.0 are two classes
    write("x,y\n1,1.00\n", "b.csv")
    with pytest.raises(DataError, match=r"the class '1\.00' does not occur"):
        encoder.encode(read(tmp_path / "b.csv", encoder.dialect, texts=encoder.texts), targets=True)


def test_a_class_or_label_of_weight_0_decides_nothing(tmp_path, write):
    write("x,w,y,z\n" + "".join(f"{i},{int(i % 2 == 0)},{'ab'[i % 2]},{i % 2}\n" for i in range(40)))
    with pytest.raises(DataError, match="every training row with a weight is of the class 'a'; a classifier needs"):
        prepared(tmp_path, task="classification", weights="w", drop=["z"])
    labels = prepared(tmp_path, task="multilabel", target=["y", "z"], weights="w")
    assert sum("in every training row, so nothing can be learned of it" in str(note) for note in labels.notes) == 2
    write("x,w,y\n" + "".join(f"{i},{int(i % 3 > 0)},{'abc'[i % 3]}\n" for i in range(60)))
    notes = prepared(tmp_path, task="classification", weights="w").notes
    assert any("classes without a training row: a" in str(note) for note in notes)


@pytest.mark.parametrize(
    ("texts", "decimal", "thousands", "unit"),
    [
        (("$1,203.26", "$950", "-$3.5"), ".", ",", "$"),
        (("$1,203", "$950"), ".", ",", "$"),
        (("1.3%", "20 %", "+5%"), ".", None, "%"),
        (("1,234,567", "12"), ".", ",", None),
        (("1.203,5", "17"), ".", ".", None),
        (("1.203 €", "17,5 €"), ",", ".", "€"),
        (("1.203 €", "950 €"), ",", ".", "€"),
        (("1 234", "56"), ".", " ", None),
        (("1'234.5", "2"), ".", "'", None),
    ],
)
def test_the_format_of_numbers_is_found(texts: Sequence[str], decimal: str, thousands: str, unit: str) -> None:
    kind = number_format(texts, decimal)
    assert kind == Kind("number", thousands, unit)
    assert all(is_number(kind.plain(text, decimal)) for text in texts)


@pytest.mark.parametrize(
    "texts",
    [
        (),
        ("10", "-2.5"),  # plain
        ("1,203", "950"),  # thousands or decimals
        ("$1.234", "$2.345"),
        ("1.234%", "2.345%"),
        ("$5", "€6"),
        ("Q1", "Q2"),
        ("$",),
        ("$5$",),
        ("(5)", "3"),
        ("12,34,567", "5"),
        ("$1234567.8", "$1,000.5"),
        ("1.2.3", "4.5.6"),
        ("10%", "many"),
        ("12%", "0.30"),
        ("012 345", "123 456"),
    ],
)
def test_what_may_be_read_in_two_ways_has_no_format(texts: Sequence[str]) -> None:
    assert number_format(texts) is None
