"""The input encoding."""

from __future__ import annotations

import io

import numpy as np
import pytest

from gpumlp.data import ArrayTable, Frame, read_lines
from gpumlp.data.encoding.columns import ArrayInputs, TableInputs
from gpumlp.data.source.dialect import Dialect
from gpumlp.data.source.kinds import Kind
from gpumlp.errors import DataError


def encode(inputs, source, *, others):
    """Return all features, (N, p), and the notes."""
    features, notes = inputs.encode(source, others=others)
    return features.expanded(), notes


def table(*rows: str) -> Frame:
    return read_lines(io.StringIO("\n".join(rows) + "\n"), name="a.csv")


def fit(source: Frame, scaling: str = "none") -> tuple[TableInputs, list[str]]:
    return TableInputs.fit(source, source.names, scaling=scaling)


def test_numbers_then_flags_then_categories_in_file_order():
    source = table("city,a,size,b", "york,1,s,?", "bath,2,?,4", "york,4,l,6", "bath,4,l,6", "hull,4,s,5")
    inputs, notes = fit(source)
    assert not notes
    assert inputs.features == (
        "a",
        "b",
        "b is missing",
        "city=bath",
        "city=york",
        "city=(other)",
        "size=l",
        "size=s",
        "size=(missing)",
    )
    assert inputs.width == 9
    encoded, notes = encode(inputs, source, others=())
    assert not notes
    assert encoded.dtype == np.float32
    assert encoded.flags.c_contiguous
    assert encoded.tolist() == [
        [1, 5.5, 1, 0, 1, 0, 0, 1, 0],
        [2, 4, 0, 1, 0, 0, 0, 0, 1],
        [4, 6, 0, 0, 1, 0, 1, 0, 0],
        [4, 6, 0, 1, 0, 0, 1, 0, 0],
        [4, 5, 0, 0, 0, 1, 0, 1, 0],
    ]


@pytest.mark.filterwarnings("ignore:Found unknown categories")
@pytest.mark.parametrize("once", [(), ("e",), ("e", "f", "g")])
def test_one_hot_agrees_with_scikit_learn(once):
    """Its ``infrequent_if_exist`` with a frequency of 2: what is new goes where the rare are, or nowhere."""
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    cells = np.random.default_rng(0).choice(["a", "b", "c", "dd"], (40, 2))
    cells[: len(once), 1] = once
    encoder = preprocessing.OneHotEncoder(
        min_frequency=2, handle_unknown="infrequent_if_exist", sparse_output=False
    ).fit(cells)
    inputs, _ = fit(table("x,y", *map(",".join, cells)))
    new = np.array([["a", "b"], ["new", "b"], ["dd", "new"], ["b", "e"]])
    for rows in (cells, new):
        encoded, _ = encode(inputs, table("x,y", *map(",".join, rows)), others=())
        assert (encoded == encoder.transform(rows)).all()


def test_categories_of_one_row_each_are_kept_where_nothing_else_is():
    inputs, _ = fit(table("c,d", "x,u", "y,u", "z,v", ",v"))
    assert inputs.features == ("c=(missing)", "c=(other)", "d=u", "d=v")
    assert fit(table("c", "x", "y"))[0].features == ("c=x", "c=y")


def test_truth_values_are_the_same_however_they_are_written():
    inputs, _ = fit(table("c", "True", "FALSE", "true", "false"))
    assert inputs.features == ("c=false", "c=true")
    encoded, notes = encode(inputs, table("c", "TRUE", "False", "perhaps"), others=())
    assert encoded.tolist() == [[0, 1], [1, 0], [0, 0]]
    assert len(notes) == 1
    inputs, _ = fit(table("c", "True", "FALSE", "perhaps", "True"))
    assert inputs.features == ("c=True", "c=(other)")


def test_a_gap_gets_the_training_median_and_a_flag_only_if_training_had_gaps():
    inputs, _ = fit(table("a,b", "1,1", "?,2", "2,3", "9,4"))
    encoded, notes = encode(inputs, table("a,b", "?,?"), others=())
    assert inputs.features == ("a", "b", "a is missing")
    assert encoded.tolist() == [[2, 2.5, 1]]
    assert notes == ["column 'b' has missing values (none in training); filled with the training median"]
    assert not encode(inputs, table("a,b", "?,7"), others=())[1]


def test_scaling_sees_the_values_that_are_there():
    inputs, _ = fit(table("a", "1", "3", "?", "?"), "standard")
    encoded, _ = encode(inputs, table("a", "1", "3", "?"), others=())
    assert encoded.tolist() == [[-1, 0], [1, 0], [0, 1]]


@pytest.mark.parametrize("cell", ["x", "1_0"])
def test_one_text_makes_a_column_categorical(cell):
    inputs, _ = fit(table("a", "1", cell, "1", cell, "?"))
    assert inputs.features == ("a=1", f"a={cell}", "a=(missing)")


@pytest.mark.parametrize(
    ("cells", "note"),
    [
        (["?"] * 60, "column 'b' is left out: it is empty in every training row"),
        (["7", "7.0"] * 30, "column 'b' is left out: it is 7 in every training row"),
        (["x"] * 60, "column 'b' is left out: it is 'x' in every training row"),
        ([f"id{i}" for i in range(60)], "column 'b' is left out: all its 60 texts are different"),
        (["?", *(f"id{i}" for i in range(59))], "column 'b' is left out: all its 59 texts are different"),
    ],
)
def test_useless_columns_are_left_out_and_reported(cells, note):
    inputs, notes = fit(table("a,b", *(f"{i % 7},{cell}" for i, cell in enumerate(cells))))
    assert inputs.features == ("a",)
    assert notes == [note]


@pytest.mark.parametrize("cells", [["7", "?"] * 30, ["x", "?"] * 30, [f"id{i}" for i in range(50)]])
def test_columns_that_say_something_are_kept(cells):
    inputs, notes = fit(table("b", *cells))
    assert inputs.names == ("b",)
    assert not notes


def test_a_row_number_is_reported_and_kept():
    source = table("id,a", *(f"{i + 1000},{i % 7}" for i in range(200)))
    # Whichever rows are drawn for training.
    inputs, notes = fit(source.take(np.arange(0, 200, 3)))
    assert inputs.features == ("id", "a")
    assert notes == ["column 'id' looks like an id; consider dropping it"]


@pytest.mark.parametrize(
    ("name", "values", "told"),
    [
        ("x", range(300), True),
        ("x", np.random.default_rng(0).permutation(1000)[:300], True),
        ("x", np.random.default_rng(0).integers(0, 1000, 300), False),  # some come again
        ("x", np.arange(300) / 2, False),  # no whole numbers
        ("x", np.arange(300) * 977, False),  # that could well be chance
        ("customer_id", np.arange(300) * 977, True),
        ("CustomerId", np.arange(300) * 977, True),
        ("humid", np.arange(300) * 977, False),
        ("id", range(50), False),  # too few to tell
    ],
)
def test_ids_are_told_by_their_values_or_their_name(name, values, told):
    _, notes = fit(table(f"{name},y", *(f"{value},{value % 7}" for value in values)))
    assert notes == ([f"column {name!r} looks like an id; consider dropping it"] if told else [])


def test_dashes_between_numbers_are_gaps_and_reported():
    inputs, notes = fit(table("a,b", "1,none", "-,few", "3,none", "2,few"))
    assert notes == ["column 'a' has '-' between numbers, taken for missing"]
    assert inputs.features == ("a", "a is missing", "b=few", "b=none")  # between texts it is one of them


def test_one_note_speaks_of_all_columns_of_a_kind():
    names = [f"c{i}" for i in range(9)]
    _, notes = fit(table(",".join([*names, "x"]), ",".join(["0"] * 9 + ["1"]), ",".join(["0"] * 9 + ["2"])))
    others = ", ".join(repr(name) for name in names[1:6])
    assert notes == [f"column 'c0' is left out: it is 0 in every training row (also {others} and 3 more)"]


def test_decimal_commas_are_no_categories():
    message = r"column 'a' has numbers that are not written plainly, such as '1,234'\n.*data\.decimal"
    with pytest.raises(DataError, match=message):
        fit(table("a;b", "1,234;1", "2,345;2", "3,456;3"))


@pytest.mark.parametrize(
    "pattern", ["{} %", "€ {}", "-${}.50", "−{}", "1 {}", "12'{}", "1,{}.5", "1.{}.000", "1,00,{}"]
)
def test_numbers_as_people_write_them_are_no_categories(pattern):
    rows = [pattern.format(100 + i) for i in range(10)]
    with pytest.raises(DataError, match="column 'a' has numbers that are not written plainly") as caught:
        fit(table("a;b", *(f"{text};{i}" for i, text in enumerate(rows))))
    assert "write the numbers plainly, as -1234.5" in str(caught.value)


def test_points_are_told_where_decimals_have_commas():
    rows = [f"1.{100 + i};{i}" for i in range(10)]
    source = read_lines(io.StringIO("\n".join(["a;b", *rows]) + "\n"), Dialect(decimal=","))
    with pytest.raises(DataError, match=r"such as '1\.100'\n  set data\.decimal to '\.' if that"):
        fit(source)


GROUPED = [f"{n:,}".replace(",", ".") for n in range(950, 1200, 10)]


def test_points_between_thousands_are_told():
    _, notes = fit(table("a", *GROUPED, "?"))
    told = "column 'a' has numbers such as '950' and '1.000', which is read as 1"
    assert notes == [f"{told}; if points stand between thousands, write the numbers without them"]


@pytest.mark.parametrize("odd", ["1.23", "0.123", "1000", "1234.567", "1e3"])
def test_one_number_that_has_no_point_there_tells_that_they_are_decimals(odd):
    assert fit(table("a", *GROUPED, odd))[1] == []
    assert fit(table("a", *GROUPED[5:]))[1] == []  # all have decimals
    assert fit(table("a", *GROUPED[:14]))[1] == []  # too few do to say


@pytest.mark.parametrize("pattern", ["0{} 123", "12.02.2{}0", "1.2.{}", "192.168.1.{}", "1 {}0", "{} kg", "{}-{}"])
def test_codes_are_categories(pattern):
    rows = [pattern.format(*[100 + i // 2] * 2) for i in range(20)]
    assert fit(table("a;b", *(f"{text};{i}" for i, text in enumerate(rows))))[0].one_hots[0].width == 10


def test_few_percentages_are_categories():
    assert fit(table("a", *(f"{i % 9} %" for i in range(20))))[0].one_hots[0].width == 9


def test_many_categories_are_reported_and_of_too_many_the_seldom_ones_share_a_feature(monkeypatch):
    _, notes = fit(table("a", *(f"c{i % 300}" for i in range(600))))
    assert notes == ["column 'a' has 300 categories; consider dropping it"]
    monkeypatch.setattr("gpumlp.data.encoding.categories.MAX_CATEGORIES", 5)
    texts = [text for text, count in zip("abcdefgh", (4, 2, 9, 2, 3, 2, 2, 1), strict=True) for _ in range(count)]

    def fitted(*cells):
        inputs, notes = fit(table("a,n", *(f"{cell},{i % 3}" for i, cell in enumerate(cells))))
        return inputs.one_hots[0], notes

    one_hot, notes = fitted(*texts)
    assert one_hot.categories == ("a", "b", "c", "e")  # of equally many, the first by name
    assert one_hot.rare == ("d", "f", "g", "h")
    assert one_hot.features[-1] == "a=(other)"
    assert notes == ["column 'a' has 8 values: the most frequent are categories, and the others share one"]
    one_hot, _ = fitted(*texts, "", "")
    assert (one_hot.categories, one_hot.gaps, one_hot.width) == (("a", "c", "e"), True, 5)
    assert fitted(*texts[:15], "e", "e", "f", "f")[1] == []  # as many as have room


def test_nothing_left_to_learn_from():
    with pytest.raises(DataError, match=r"no column is left to learn from\n.*'a' is left out.*'b' is left out"):
        fit(table("a,b", "1,x", "1,x"))


def test_text_in_a_numeric_column():
    inputs, _ = fit(table("a", "1", "2"))
    with pytest.raises(DataError, match=r"^a\.csv:3: column 'a' should be numeric, but this cell is 'x'"):
        encode(inputs, table("a", "1", "x"), others=())


def test_a_column_that_is_not_there():
    inputs, _ = fit(table("age,city", "1,b", "2,a"))
    message = r"^a\.csv: there is no column 'city', which the model was trained on\n  did you mean 'cty'\?"
    with pytest.raises(DataError, match=message):
        encode(inputs, table("age,cty", "1,b"), others=())


def test_new_columns_are_noted_unless_they_are_expected():
    inputs, _ = fit(table("a", "1", "2"))
    _, notes = encode(inputs, table("y,new,a,newer", "0,1,2,3"), others={"y"})
    assert notes == ["not used, because not in the training data: 'new', 'newer'"]


def test_unseen_categories_are_noted_with_counts_and_share_a_feature():
    inputs, _ = fit(table("c", "x", "y", "x", "y", "once"))
    encoded, notes = encode(inputs, table("c", "z", "x", "?", "once"), others=())
    assert notes == ["column 'c': 2 rows have a value not seen in training, such as 'z'"]
    assert encoded.tolist() == [[0, 0, 1], [1, 0, 0], [0, 0, 1], [0, 0, 1]]
    _, notes = encode(inputs, table("c,d", ",1"), others={"d"})
    assert notes == ["column 'c': 1 row has a value not seen in training, such as a missing value"]


@pytest.mark.parametrize(
    ("trained", "later", "features"),
    [
        ("1 2", "1.0 2.0 1 3 01", [0, 1, 0, None, None]),  # pandas writes 1 as 1.0 once a cell is empty
        ("1.0 2.0", "2 1 1.0 1.00", [1, 0, 0, None]),
        ("0.10 2.50", "0.1 2.5 0.10 0.100", [0, 1, 0, None]),
        ("01 02", "1 2.0 02 1e0", [0, 1, 1, None]),
        ("1 1.0", "1 1.0 1.00", [0, 1, None]),  # values of their own
        ("1 01", "1.0 01", [None, 0]),
        ("9007199254740993 x", "9007199254740992 9007199254740992.0 9007199254740993", [None, None, 0]),
        ("nan1 inf", "inf Infinity nan1", [0, None, 1]),
        ("true FALSE", "True 1 0.0 0 2", [1, 1, 0, 0, None]),
    ],
)
def test_categories_that_are_numbers_in_other_spellings(trained: str, later: str, features: list[int | None]):
    rows = trained.split() * 2
    inputs, _ = fit(table("c", *rows).with_kinds({"c": Kind("category")}))
    encoded, _ = encode(inputs, table("c", *later.split()).with_kinds({"c": Kind("category")}), others=())
    assert [int(row.argmax()) if row.any() else None for row in encoded] == features


def test_a_value_that_overflows_after_scaling():
    inputs, _ = fit(table("b,a", "1,0", "3,1e-30"), "standard")
    message = r"^a\.csv:2: column 'a': 1e\+30 is too far from the training values"
    with pytest.raises(DataError, match=message):
        encode(inputs, table("b,a", "1,1e30"), others=())


def test_columns_are_found_by_name_not_by_place():
    source = table("a,b,c", "1,2,x", "5,4,y")
    inputs, _ = fit(source)
    swapped = table("c,b,a", "x,2,1", "y,4,5")
    assert (encode(inputs, source, others=())[0] == encode(inputs, swapped, others=())[0]).all()


def test_portions_of_rows_join_without_a_seam():
    values = np.random.default_rng(0).normal(size=(65536 + 3, 2)).astype(np.float32)
    source = ArrayTable("a.npz", {"x": values})
    inputs, _ = ArrayInputs.fit(source, "x", scaling="none")
    assert (encode(inputs, source, others=())[0] == values).all()


# Arrays.


def test_bytes_stay_bytes_unless_a_scaling_is_asked_for():
    source = ArrayTable("a.npz", {"x": np.array([[0, 10], [255, 10], [5, 30]], np.uint8)})
    inputs, _ = ArrayInputs.fit(source, "x", scaling=None)
    encoded, _ = encode(inputs, source, others=())
    assert encoded.dtype == np.uint8
    assert inputs.input_scale == 1 / 255
    for name in ("none", "robust", "standard", "quantile"):
        inputs, _ = ArrayInputs.fit(source, "x", scaling=name)
        encoded, _ = encode(inputs, source, others=())
        assert encoded.dtype == np.float32
        assert inputs.input_scale == 1
        assert (encoded == [[0, 10], [255, 10], [5, 30]]).all() == (name == "none")


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64, np.uint16, np.bool_, ">f4"])
def test_arrays_of_numbers_are_scaled_robustly_unless_told_otherwise(dtype):
    values = (np.arange(20) % 7).reshape(10, 2).astype(dtype)
    source = ArrayTable("a.npz", {"x": values})
    inputs, _ = ArrayInputs.fit(source, "x", scaling=None)
    encoded, _ = encode(inputs, source, others=())
    assert inputs.block is not None
    np.testing.assert_allclose(encoded, inputs.block.scaling.apply(values.astype(np.float64)), rtol=1e-6)
    assert inputs.block.scaling.name == "robust"


def test_nan_is_a_gap_in_an_array():
    source = ArrayTable("a.npz", {"x": np.array([[1, np.nan], [2, 5], [6, 7]], np.float32)})
    inputs, _ = ArrayInputs.fit(source, "x", scaling="none")
    assert inputs.features == ("x[0]", "x[1]", "x[1] is missing")
    encoded, notes = encode(inputs, source, others=())
    assert encoded.tolist() == [[1, 6, 1], [2, 5, 0], [6, 7, 0]]
    assert not notes
    (note,) = encode(inputs, ArrayTable("b.npz", {"x": np.array([[np.nan, np.nan]])}), others=())[1]
    assert note.startswith("column 'x[0]' has missing values (none in training)")


def test_arrays_that_do_not_fit():
    def source(values: object, name: str = "x") -> ArrayTable:
        return ArrayTable("a.npz", {name: np.asarray(values)})

    with pytest.raises(DataError, match=r"^a\.npz, row 1: array 'x' has -inf in column 0, which is not a finite"):
        ArrayInputs.fit(source([[np.nan, 1], [-np.inf, 2]]), "x", scaling=None)
    with pytest.raises(DataError, match="array 'x' has inf in column 1"):
        ArrayInputs.fit(source(np.array([[1, np.inf]], np.float16)), "x", scaling=None)
    with pytest.raises(DataError, match="array 'x': column 1 has no value in any training row"):
        ArrayInputs.fit(source([[1.0, np.nan], [2.0, np.nan]]), "x", scaling=None)
    floats, _ = ArrayInputs.fit(source([[1.0, 2.0], [2.0, 3.0]]), "x", scaling=None)
    whole, _ = ArrayInputs.fit(source(np.eye(2, dtype=np.uint8)), "x", scaling=None)
    with pytest.raises(DataError, match="array 'y' has 3 columns, but the model was trained on 2"):
        floats.encode(source(np.eye(3), "y"), others=())
    with pytest.raises(DataError, match="array 'x' holds float64, but the model was trained on bytes"):
        whole.encode(source(np.eye(2)), others=())
    with pytest.raises(DataError, match=r"row 0: array 'x' has inf in column 1"):
        floats.encode(source([[1.0, np.inf]]), others=())
    with pytest.raises(DataError, match="this file is a table of text, but the model was trained on an array"):
        floats.encode(table("a", "1"), others=())
    with pytest.raises(DataError, match="this file holds arrays, but the model was trained on a table"):
        fit(table("a", "1", "2"))[0].encode(source(np.eye(2)), others=())


# Few other texts among many numbers.


def mixed(strays: list[str], numbers: int = 40, distinct: int = 10) -> Frame:
    return table(
        "x,y", *(f"{each},{i % 3}" for i, each in enumerate([*(i % distinct for i in range(numbers)), *strays]))
    )


@pytest.mark.parametrize("strays", [["abc"], ["a", "b", "c"], ["abc"] * 4])
def test_a_few_texts_among_numbers_are_mistakes(strays):
    with pytest.raises(DataError, match=rf"^a\.csv:42: column 'x' should be numeric, but this cell is '{strays[0]}'"):
        fit(mixed(strays))


@pytest.mark.parametrize(
    "source",
    [mixed(["a", "b", "c", "d"]), mixed(["abc"] * 5), mixed(["abc"], distinct=9)],
    ids=["many texts", "many rows", "few numbers"],
)
def test_else_they_are_categories(source):
    assert "x" in [one_hot.name for one_hot in fit(source)[0].one_hots]


def test_constant_columns_of_an_array_are_reported_and_kept():
    values = np.array([[1, 2, np.nan], [1, 3, 5.0], [1, 4, 5.0]])
    inputs, notes = ArrayInputs.fit(ArrayTable("a.npz", {"x": values}), "x", scaling=None)
    assert inputs.columns == 3
    assert notes == ["column 'x[0]' has one value only (also 'x[2]')"]


def test_rows_that_do_not_fit_are_refused_before_memory_is_taken(monkeypatch):
    monkeypatch.setattr("gpumlp.data.source.frame.host_memory", lambda: 47)
    small = table("a,b", *(f"{i},{'xy'[i % 2]}" for i in range(6)))  # two stored columns of four bytes
    inputs, _ = fit(small)
    with pytest.raises(
        DataError, match=r"6 rows of 2 columns take 48 bytes as encoded features; this machine has 47 bytes"
    ):
        inputs.encode(small, others=())
    monkeypatch.setattr("gpumlp.data.source.frame.host_memory", lambda: 48)
    assert len(inputs.encode(small, others=())[0]) == 6


@pytest.mark.parametrize("unit", ["kg", "k", "°C", "m²"])
def test_numbers_with_a_word_after_them_are_told_how_to_be_read(unit: str) -> None:
    rows = [f"{i / 7:.2f} {unit}" for i in range(30)]
    kind = f"{{type: number, unit: {unit}}}"
    for cells in (rows, [*rows, *rows]):  # all different, and not
        notes = fit(table("a,b", *(f"{cell},{i % 3}" for i, cell in enumerate(cells))))[1]
        assert sum(f"has numbers in {unit!r} but is read as categories" in str(note) for note in notes) == 1
        assert any(kind in str(note) for note in notes)
    assert not any("has numbers in" in str(note) for note in fit(table("a", "5 kg", "7 m", *rows))[1])


def test_a_column_that_varies_by_less_than_a_float_can_tell_is_told() -> None:
    rows = [f"{1e-40 * i},{i % 3}" for i in range(30)]
    _, notes = fit(table("a,b", *rows))
    assert sum("varies by less than 32-bit floats resolve" in str(note) for note in notes) == 1
    block = np.array([[1e-40 * i, 5.0, i] for i in range(30)])
    _, told = ArrayInputs.fit(ArrayTable("a.npz", {"x": block}), "x", scaling=None)
    assert [str(note) for note in told] == [
        "column 'x[1]' has one value only",
        "column 'x[0]' varies by less than 32-bit floats resolve, so it counts as 0; change its unit",
    ]
