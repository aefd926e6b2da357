"""Rows from Python: arrays, columns by name, DataFrames and Arrow tables."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from support import peak_memory

from gpumlp.data import ArrayTable, Frame, Missing, prepare, prepare_files, read, rows_of, with_columns
from gpumlp.data.source import rows as source_rows
from gpumlp.data.source.frame import Numbers
from gpumlp.errors import ConfigError, DataError, GpumlpError
from gpumlp.runs import fit

N = 60
X = [round(i * 0.37 - 5, 2) for i in range(N)]
W = [None if i % 7 == 0 else "abc"[i % 3] for i in range(N)]
K = [None if i % 9 == 0 else i % 5 for i in range(N)]
B = [i % 4 == 0 for i in range(N)]
Y = [i % 2 for i in range(N)]
COLUMNS = {"x": X, "w": W, "k": K, "b": B, "y": Y}


def pandas_frame():
    pandas = pytest.importorskip("pandas", reason="pandas is in the extra 'oracle'")
    return pandas.DataFrame({**COLUMNS, "k": pandas.array(K, dtype="Int64"), "w": pandas.Categorical(W)})


def polars_frame():
    polars = pytest.importorskip("polars", reason="polars is in the extra 'oracle'")
    return polars.DataFrame(COLUMNS).with_columns(polars.col("w").cast(polars.Categorical))


def arrow_table():
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is in the extra 'oracle'")
    table = pyarrow.table(COLUMNS)
    return table.set_column(1, "w", table["w"].dictionary_encode())


class Stream:
    """Nothing but the Arrow PyCapsule interface, to be read once."""

    def __init__(self) -> None:
        self._reader = arrow_table().to_reader()

    def __arrow_c_stream__(self, requested_schema=None):
        return self._reader.__arrow_c_stream__(requested_schema)


SOURCES = {
    "lists": lambda: COLUMNS,
    "arrays": lambda: {"x": np.array(X), "w": np.array(W, object), "k": np.array(K, float), "b": np.array(B), "y": Y},
    "masked": lambda: {**COLUMNS, "k": np.ma.masked_equal([-1 if k is None else k for k in K], -1)},
    "pandas": pandas_frame,
    "series": lambda: dict(pandas_frame().items()),
    "polars": polars_frame,
    "arrow": arrow_table,
    "stream": Stream,
}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    lines = [
        ",".join("" if v is None else str(v).lower() for v in row) for row in zip(*COLUMNS.values(), strict=True)
    ]
    (folder / "a.csv").write_text("\n".join([",".join(COLUMNS), *lines]) + "\n")
    return prepare_files("a.csv", task="classification", target="y", folder=folder)


@pytest.mark.parametrize("name", SOURCES)
def test_rows_from_python_are_those_of_the_file(expected, name):
    prepared = prepare(SOURCES[name](), task="classification", target="y")
    assert prepared.encoder.features == expected.encoder.features
    assert prepared.encoder.classes == ("0", "1")
    assert prepared.fingerprint == expected.fingerprint
    features, _ = expected.encoder.encode(SOURCES[name](), targets=False)
    assert len(features) == N


def test_parts_may_be_rows_of_their_own(expected):
    first = {name: values[:20] for name, values in COLUMNS.items()}
    prepared = prepare(COLUMNS, task="classification", target="y", validation=first, test=arrow_table())
    assert [len(part) for part in prepared.parts.values()] == [60, 20, 60]
    np.testing.assert_array_equal(prepared.test.inputs, prepared.train.inputs)


def test_arrays(tmp_path):
    x, y = np.arange(120.0).reshape(40, 3), np.arange(40) % 2
    source = rows_of(x, y)
    assert isinstance(source, ArrayTable)
    assert rows_of(source) is source
    np.savez(tmp_path / "a.npz", x=x, y=y)
    for task in ("classification", "regression"):
        of_file = prepare_files("a.npz", task=task, target="y", folder=tmp_path)
        assert prepare(source, task=task, target="y").fingerprint == of_file.fingerprint
        assert prepare(source, task=task, target=None).fingerprint == of_file.fingerprint
    features, _ = of_file.encoder.encode(x, targets=False)
    assert features.inputs.shape == (40, 3)


def test_a_target_beside_the_columns():
    frame = rows_of({"x": X, "w": W}, Y)
    assert frame.names == ("x", "w", "y")
    assert frame.numbers("y").tolist() == Y
    with pytest.raises(DataError, match="there is a column 'y' already"):
        rows_of(COLUMNS, Y)


def test_values_of_columns():
    column = {
        "mixed": [1, "a", None, True, 2.0],
        "numbers": [1, None, 2.5, float("nan"), np.float32(4)],
        "truth": [True, False, None, True, False],
        "days": np.array(["2020-01-01", "NaT"] * 2 + ["2020-01-02"], "M8[D]"),
        "exact": np.array([2**53, 2**53 + 1, 1, 2, 3]),
        "small": np.array([1, 2, 3, 4, 5], np.float16),
    }
    frame = rows_of(column)
    assert isinstance(frame, Frame)
    assert frame.labels("mixed").tolist() == ["1", "a", "", "true", "2"]
    np.testing.assert_array_equal(frame.numbers("numbers"), [1, np.nan, 2.5, np.nan, 4])
    assert frame.labels("truth").tolist() == ["true", "false", "", "true", "false"]
    assert frame.labels("days").tolist() == ["2020-01-01", "", "2020-01-01", "", "2020-01-02"]
    assert frame.labels("exact").tolist()[:2] == ["9007199254740992", "9007199254740993"]
    assert frame.numbers("small").tolist() == [1, 2, 3, 4, 5]
    assert frame.where(3) == "rows, row 3"
    with pytest.raises(DataError, match=r"rows, row 1: column 'x' has '1e"):
        rows_of({"x": [1.0, 1e300]}).numbers("x")


def test_numbers_of_sixteen_bits_in_a_frame():
    pandas = pytest.importorskip("pandas", reason="pandas is in the extra 'oracle'")
    small = np.array([1, 2.5, np.nan, 65504], np.float16)
    frame = rows_of(pandas.DataFrame({"x": small, "w": ["a", "b", "a", "b"]}))
    np.testing.assert_array_equal(frame.numbers("x"), small)
    assert frame.names == ("x", "w")


def test_other_markers_of_missing_values():
    for rows in ({"x": [1.0, -999.0], "w": ["-", "a"]}, {"x": np.array([1, -999]), "w": np.array(["-", "a"])}):
        frame = rows_of(rows, missing=Missing(frozenset(("-999", "-"))))
        np.testing.assert_array_equal(frame.numbers("x"), [1, np.nan])
        assert frame.labels("w").tolist() == ["", "a"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"x": [1, 2], "y": [1]}, "the columns differ in their number of rows: x 2, y 1"),
        ({"x": []}, "no rows"),
        ({}, "no rows"),
        ({"x": np.ones((2, 2))}, r"column 'x' must have one axis, but its shape is \(2, 2\)"),
        ({"x": np.ones(2, complex)}, "column 'x' holds complex128, not numbers or texts"),
        ({"x": np.array([b"a", b"b"])}, r"column 'x' holds \|S1"),
        (np.ones(3), r"expected an array \(rows, columns\), found shape \(3,\)"),
        ([1, 2], "a list has no rows"),
        (None, "a NoneType has no rows"),
        ("a.csv", "a str has no rows"),
    ],
)  # fmt: skip
def test_what_are_no_rows(rows, message):
    with pytest.raises(DataError, match=message):
        rows_of(rows)


def test_nested_arrow_columns_do_no_harm_until_they_are_used():
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is in the extra 'oracle'")
    frame = rows_of(pyarrow.table({"x": X, "y": Y, "deep": [[1, 2]] * N}))
    with pytest.raises(DataError, match="column 'deep' holds"):
        prepare(frame, task="regression", target="y")
    assert prepare(frame, task="regression", target="y", drop=["deep"]).encoder.features == ("x",)


@pytest.mark.parametrize("most", [0, 10**6], ids=["engine", "plain"])
def test_rows_in_memory_are_written_to_no_file(tmp_path, monkeypatch, most):
    monkeypatch.setattr(source_rows, "MAX_PLAIN_CELLS", most)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(tempfile, "mkstemp", None)
    frame = rows_of(arrow_table())
    assert frame.columns["x"].written().texts[0] == "-5"
    assert list(tmp_path.iterdir()) == []


EDGES = {
    "int8": [-128, 0, 127],
    "int64": [-(2**63), 2**53 + 1, 2**63 - 1, -999],
    "uint64": [0, 2**64 - 1],
    "float32": [0.1, 1e-5, 16777216.0, 1e8, 3.4e38, 1e-45, -0.0, -999.0, float("nan")],
    "float64": [0.1, 1e-5, 1e-7, 123456789012345.0, 1e15, 1e16, 1.5e300, 5e-324, -0.0, -999.0, float("nan")],
    "bool_": [True, False],
    "string": ["", "NA", " x ", "True", "1.50", "-999", "ä", "a,b"],
    "large_string": ["x", "nan", "y"],
    "string_view": ["", "z" * 40],
}


@pytest.mark.parametrize("infinite", [False, True])
def test_a_short_table_is_read_as_the_engine_reads_it(monkeypatch, infinite):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is in the extra 'oracle'")
    rng, columns = np.random.default_rng(0), {}
    for kind, edges in EDGES.items():
        cells = [*edges, *rng.choice(np.array([None, *edges], object), 40).tolist()]
        if kind.startswith("float"):
            scales = 10.0 ** rng.integers(-20, 20, 400)
            drawn = rng.standard_normal(400) * scales
            cells += [*drawn, *np.round(drawn), *([float("inf"), -float("inf")] * infinite)]
        columns[kind] = pyarrow.array((cells * 100)[:900], getattr(pyarrow, kind)())
    columns["category"] = columns["string"].dictionary_encode()
    table = pyarrow.table(columns)
    missing = Missing(frozenset(("", "NA", "-999")))
    plain = rows_of(table, missing=missing)
    monkeypatch.setattr(source_rows, "MAX_PLAIN_CELLS", 0)
    by_engine = rows_of(table, missing=missing)
    for name in columns:
        one, other = plain.columns[name], by_engine.columns[name]
        assert type(one) is type(other)
        assert plain.labels(name).tolist() == by_engine.labels(name).tolist()
        if isinstance(one, Numbers) and isinstance(other, Numbers):
            signs = np.where(np.isinf(one.values), np.sign(one.values), 1)  # the engine's are all positive
            np.testing.assert_array_equal(one.values * signs, other.values)


def test_nothing_is_imported():
    code = "import sys, gpumlp.data as d; d.rows_of({'x': [1, 2]}); print([m for m in ('pandas','polars','pyarrow') if m in sys.modules])"  # noqa: E501
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_read_is_a_source_too(tmp_path):
    (tmp_path / "a.csv").write_text("x,y\n" + "".join(f"{x},{y}\n" for x, y in zip(X, Y, strict=True)))
    one = prepare(read(tmp_path / "a.csv"), task="regression", target="y")
    assert one.fingerprint == prepare_files("a.csv", task="regression", target="y", folder=tmp_path).fingerprint


def test_a_masked_number_is_missing_wherever_rows_are_given() -> None:
    hidden = np.zeros((20, 2), bool)
    hidden[3, 0] = True
    x, y = np.arange(40.0).reshape(20, 2), np.arange(20)
    x[3, 0] = 1e20
    rows = rows_of(np.ma.array(x, mask=hidden), np.ma.array(y, mask=hidden[:, 0]))
    assert isinstance(rows, ArrayTable)
    assert np.flatnonzero(np.isnan(rows.block("x")[:, 0])).tolist() == [3]
    assert np.flatnonzero(np.isnan(rows.numbers("y"))).tolist() == [3]
    both, gaps = np.stack([y, y], axis=1), np.stack([y, y], axis=1).astype(float)
    gaps[3, 0] = np.nan
    masked, missing = (fit(x, each, training={"epochs": 1}) for each in (np.ma.array(both, mask=hidden), gaps))
    np.testing.assert_array_equal(masked.predict(x), missing.predict(x))


@pytest.mark.parametrize(
    ("values", "numbers"),
    [
        ([Decimal("1.5"), None, Fraction(1, 4)], [1.5, np.nan, 0.25]),
        (np.array([1500, "NaT"], "m8[ms]"), [1.5, np.nan]),
        ([timedelta(days=1, milliseconds=250), None], [86400.25, np.nan]),
        ([2**2000, -(2**2000)], [np.inf, -np.inf]),
    ],
)
def test_every_kind_of_number_is_a_number(values, numbers):
    np.testing.assert_array_equal(rows_of({"a": values}).columns["a"].values, numbers)


def test_columns_of_polars_that_numpy_cannot_have_are_refused():
    polars = pytest.importorskip("polars", reason="polars is in the extra 'oracle'")
    with pytest.raises(DataError, match=r"column 'a' cannot be read as an array: .*128"):
        rows_of({"a": polars.Series([2**70, 2**70 + 1])})
    with pytest.raises(DataError, match="column 'a' holds lists or records, not single values"):
        rows_of({"a": polars.Series([[1, 2], [3]])})
    with pytest.raises(DataError, match="column 'a' holds lists or records, not single values"):
        rows_of({"a": np.array([{"b": 1}, None])})


@pytest.mark.parametrize("make", ["builtins.dict", "pandas.DataFrame", "polars.DataFrame", "pyarrow.table"])
def test_times_that_passed_are_seconds_however_they_come(make):
    package, name = make.split(".")
    rows = getattr(pytest.importorskip(package, reason="is in the extra 'oracle'"), name)
    frame = rows_of(rows({"a": [timedelta(days=1, milliseconds=250), timedelta(seconds=-2), None]}))
    np.testing.assert_array_equal(frame.numbers("a"), [86400.25, -2.0, np.nan])
    assert (frame.type_of("a"), list(frame.labels("a"))) == ("number", ["86400.25", "-2", ""])


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_short_floats_are_the_same_numbers_however_they_come(dtype, tmp_path):
    """0.7 of 32 bits lies beside 0.7: where many rows have it, quantiles would be far apart."""
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is in the extra 'oracle'")
    from pyarrow import parquet

    values = np.array([0.1, 0.7, 3, -2.5, 1e-3, np.nan, np.inf], dtype)
    table = pyarrow.table({"a": values})
    parquet.write_table(table, tmp_path / "a.parquet")
    swapped = values.astype(values.dtype.newbyteorder(">"))
    given = [values, [*values], np.array([*values], object), np.repeat(values, 2)[::2], swapped]
    frames = [read(tmp_path / "a.parquet"), rows_of(table), *(rows_of({"a": each}) for each in given)]
    expected = [0.1, 0.7, 3, -2.5, 1e-3] if dtype is np.float32 else frames[0].columns["a"].values[:5]
    for frame in frames:
        np.testing.assert_array_equal(frame.columns["a"].values, [*expected, np.nan, np.inf])


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("cells", [0, source_rows.MAX_PLAIN_CELLS], ids=["engine", "plain"])
def test_a_time_that_is_missing_in_a_data_frame(monkeypatch, unit, cells):
    pandas = pytest.importorskip("pandas", reason="pandas is in the extra 'oracle'")
    monkeypatch.setattr(source_rows, "MAX_PLAIN_CELLS", cells)
    values = np.array([np.timedelta64(7, unit), np.timedelta64(-2, unit), np.timedelta64("NaT", unit)])
    frame = rows_of(pandas.DataFrame({"a": values}))
    np.testing.assert_array_equal(frame.numbers("a"), values / np.timedelta64(1, "s"))


@pytest.mark.parametrize(
    "values", [lambda: np.array([0.1, 3, np.nan, 1e30, 1e-7], np.float32),
               lambda: np.array([0.7, 3, np.nan], np.float16),
               lambda: np.array([5019004545620643, 2**53, 1e16, -0.0, 0.1, np.nan]),
               lambda: np.array(["2024-01-01T05:00:00.500", "2024-01-02", "NaT"], "M8[ms]"),
               lambda: np.array(["2024-01-01T05", "NaT"], "M8[s]"),
               lambda: [Decimal("8.50"), Decimal("3.00"), None],
               lambda: [datetime(2024, 1, 1, 5, 0, 0, 340000), None], lambda: [time(5, 0, 0, 500000), None],
               lambda: [datetime(2024, 1, 1, 5, tzinfo=UTC), datetime(2024, 1, 1, 5, 0, 0, 100, UTC)],
               lambda: [date(2024, 1, 1), None], lambda: [True, None]],
    ids=["float32", "float16", "float64", "milliseconds", "seconds", "Decimal", "datetime", "time", "zone", "date",
         "bool"],
)  # fmt: skip
def test_a_value_is_the_same_category_however_it_comes(values, tmp_path, monkeypatch):
    """Else a model that was trained on a Parquet file would not know the categories of an array."""
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is in the extra 'oracle'")
    from pyarrow import parquet

    table = pyarrow.table({"a": pyarrow.array(values(), from_pandas=True)})
    parquet.write_table(table, tmp_path / "a.parquet")
    expected = read(tmp_path / "a.parquet").labels("a").tolist()
    objects = np.array([*values()], object)
    given = [{"a": values()}, {"a": objects}, table, table.to_pandas(), table.to_pandas()[["a"]].to_dict("series")]
    assert [rows_of(rows).labels("a").tolist() for rows in given] == [expected] * len(given)
    monkeypatch.setattr(source_rows, "MAX_PLAIN_CELLS", 0)
    assert rows_of(table).labels("a").tolist() == expected


@pytest.mark.parametrize("given", [list, np.array, lambda values: np.array(values, object)])
def test_whole_numbers_beyond_2_53_stay_different_classes(given):
    big = [2**60 + i % 2 for i in range(20)]
    inputs = np.arange(40.0).reshape(20, 2)
    for source in (rows_of({"a": inputs[:, 0], "y": given(big)}), with_columns(rows_of(inputs), {"y": given(big)})):
        found = prepare(source, task="classification", target="y")
        assert found.encoder.target.classes == (str(2**60), str(2**60 + 1))


def test_whole_numbers_beyond_2_63_beside_small_ones_stay_different_classes():
    values, inputs = [3, 2**63 + 7, 2**63 + 8] * 10, np.arange(60.0).reshape(30, 2)
    for source in (rows_of({"a": inputs[:, 0], "y": values}), with_columns(rows_of(inputs), {"y": values})):
        found = prepare(source, task="classification", target="y")
        assert len(found.encoder.target.classes) == 3


def test_a_long_text_takes_no_memory_in_other_rows():
    with peak_memory() as peak:
        rows_of({"a": ["x" * 2_000_000, *"abc" * 100]})
        assert peak() < 20_000_000


def test_two_names_that_are_the_same_as_texts():
    with pytest.raises(DataError, match="two columns have the same name"):
        rows_of({1: [1.0, 2.0], "1": [3.0, 4.0]})


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"task": "Regression"}, "did you mean 'regression'"),
        ({"target": True}, "by its name or number, not by a bool"),
        ({"target": 1.5}, "by its name or number, not by a float"),
        ({"target": []}, "by its name or number, not by a list"),
        ({"scaling": "minmax"}, "scaling is 'minmax'"),
        ({"missing_target": "dro"}, "did you mean 'drop'"),
        ({"seed": -1}, "seed is -1"),
        ({"columns": {"x": "number of"}}, "unknown type of column 'number of'"),
    ],
)
def test_prepare_refuses_what_it_cannot_mean(more, said):
    with pytest.raises(GpumlpError, match=said):
        prepare(COLUMNS, **({"task": "regression", "target": "y"} | more))


def test_prepare_takes_types_as_words_and_shares_of_any_float():
    found = prepare(COLUMNS, task="regression", target=["y"], columns={"k": "category"}, test=np.float32(0.25))
    assert "k" not in found.encoder.inputs.numeric
    assert len(found.test) == 15


def test_fit_says_what_validation_rows_are():
    for given in (None, "x", (1,)):
        with pytest.raises(ConfigError, match=r"validation: it is a share of the rows, or rows as \(X, y\)"):
            fit(np.ones((4, 1)), np.ones(4), validation=given)


def test_weights_may_be_truth_values_and_settings_numbers_of_numpy():
    x, y = np.arange(40.0).reshape(20, 2), np.arange(20.0)
    kept = np.arange(20) % 3 > 0
    settings = {"training": {"epochs": np.int64(1), "seed": 1}, "model": {"hidden": np.array([3])}, "validation": 0.0}
    one, other = (fit(x, y, weights=each, **settings).predict(x) for each in (kept, kept.astype(float)))
    np.testing.assert_array_equal(one, other)


def test_a_column_of_numbers_and_texts_is_one_message() -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = pandas.DataFrame({"a": [1.0, 2.0, "many"]})
    with pytest.raises(DataError, match=r"cannot be read as an Arrow table: Could not convert 'many' .* column a"):
        rows_of(frame)


def test_whole_numbers_that_a_mask_hides_are_missing_beside_array_rows() -> None:
    rows = rows_of(np.random.default_rng(0).normal(size=(4, 2)))
    hidden = np.ma.array([7, 0, 1, 2], mask=[1, 0, 0, 0])
    np.testing.assert_array_equal(with_columns(rows, {"y": hidden}).numbers("y"), [np.nan, 0, 1, 2])
    with pytest.raises(DataError, match="missing"):
        fit(np.ones((4, 2)), hidden, task="regression")
