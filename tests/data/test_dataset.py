"""From files to training arrays, and encoders that survive being saved."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpumlp.data import SCALINGS, Dialect, Encoder, Missing, Prepared, prepare_files, read
from gpumlp.data.splits import split
from gpumlp.errors import DataError, RunError

# File, target, task, what to drop; rows, features made of it, outputs.
SHIPPED = [
    ("digits.csv.gz", "target", "classification", (), 1797, None, 10),
    ("breast_cancer.csv", "target", "classification", (), 569, 30, 1),
    ("iris.csv", "target", "classification", (), 150, 4, 3),
    ("wine.csv", -1, "classification", (), 178, 13, 3),
    ("diabetes.csv", "target", "regression", (), 442, 10, 1),
    ("adult_train.csv.gz", "income-per-year", "classification", (), 32561, 108, 1),
    ("diamonds.csv.gz", "price", "regression", (), 53940, 26, 1),
    ("bikeshare.csv.gz", "bikers", "regression", ("casual", "registered"), 8645, None, 1),
]


def assert_equal(one: Encoder, two: Encoder) -> None:
    (fields, arrays), (other_fields, other_arrays) = one.to_state(), two.to_state()
    assert fields == other_fields
    assert arrays.keys() == other_arrays.keys()
    for name, array in arrays.items():
        assert array.dtype == other_arrays[name].dtype
        assert (array == other_arrays[name]).all()


def saved(encoder: Encoder) -> Encoder:
    """Return the encoder after a trip through JSON and raw bytes."""
    fields, arrays = encoder.to_state()
    copies = {k: np.frombuffer(v.tobytes(), v.dtype).reshape(v.shape) for k, v in arrays.items()}
    return Encoder.from_state(json.loads(json.dumps(fields)), copies)


@pytest.mark.parametrize(("name", "target", "task", "drop", "rows", "features", "outputs"), SHIPPED)
def test_shipped_data(shipped, name, target, task, drop, rows, features, outputs):
    prepared = prepare_files(name, folder=shipped, task=task, target=target, drop=drop, seed=1)
    encoder = prepared.encoder
    parts = (prepared.train, prepared.validation, prepared.test)
    assert sum(map(len, parts)) == rows
    assert len(prepared.test) == len(prepared.validation) == round(0.15 * rows)
    assert features in (None, encoder.width)
    assert encoder.width == len(encoder.features)
    assert encoder.outputs == outputs
    assert encoder.task == task
    for part in parts:
        assert part.inputs.shape == (len(part), encoder.width)
        assert part.inputs.dtype == np.float32
        assert part.inputs.flags.c_contiguous
        assert np.isfinite(part.inputs).all()
        if task == "classification":
            assert part.targets.shape == (len(part),)
            assert part.targets.dtype == np.int32
        else:
            assert part.targets.shape == (len(part), 1)
            assert part.targets.dtype == np.float32
    assert_equal(encoder, saved(encoder))


def test_classes_keep_their_shares(shipped):
    prepared = prepare_files("adult_train.csv.gz", folder=shipped, task="classification", target="income-per-year")
    assert prepared.encoder.classes == ("<=50K", ">50K")
    whole = 7841 / 32561
    for part in (prepared.train, prepared.validation, prepared.test):
        assert part.targets.mean() == pytest.approx(whole, abs=1 / len(part))


def test_missing_cells_of_adult_are_categories(shipped):
    prepared = prepare_files(
        "adult_train.csv.gz", folder=shipped, task="classification", target=-1, validation=0, test=0
    )
    features = prepared.encoder.features
    assert [f for f in features if f.endswith("(missing)")] == [
        "workclass=(missing)",
        "occupation=(missing)",
        "native-country=(missing)",
    ]
    column = features.index("occupation=(missing)")
    assert prepared.train.inputs[:, column].sum() == 1843
    assert prepared.validation is prepared.test is None


def test_regression_targets_are_standardised_on_training_rows(shipped):
    prepared = prepare_files("diabetes.csv", folder=shipped, task="regression", target="target")
    assert prepared.train.targets.mean() == pytest.approx(0, abs=1e-6)
    assert prepared.train.targets.std() == pytest.approx(1, abs=1e-6)
    encoder = prepared.encoder
    values = read(shipped / "diabetes.csv").numbers("target")
    every, _ = encoder.encode(read(shipped / "diabetes.csv"), targets=True)
    np.testing.assert_allclose(encoder.restore(every.targets), values, rtol=1e-6)
    assert encoder.classes is None


def test_a_classifier_has_no_scale(shipped):
    encoder = prepare_files("iris.csv", folder=shipped, task="classification", target="target").encoder
    with pytest.raises(TypeError):
        encoder.restore(np.zeros((2, 1)))


ROWS = [f"{i % 13},{i * i % 31},{'abc'[i % 3]},{'?' if i % 9 == 0 else i % 5},{i % 7}" for i in range(80)]


def small(write, tmp_path, rows=ROWS, **options) -> Prepared:
    name = write("a,b,c,d,y\n" + "\n".join(rows) + "\n")
    return prepare_files(name, **{"folder": tmp_path, "task": "regression", "target": "y", "seed": 5, **options})


@pytest.mark.parametrize("scaling", [None, *SCALINGS])
def test_the_encoding_is_fitted_to_the_training_rows_only(tmp_path, write, scaling):
    """Whatever stands in the rows that are not for training, the encoder stays the same."""
    before = small(write, tmp_path, scaling=scaling)
    rows = split(80, validation=0.15, test=0.15, seed=5)
    strange = list(ROWS)
    for row in (*rows.validation, *rows.test):
        strange[row] = "-1e6,?,new,1e9,-5000"
    after = small(write, tmp_path, strange, scaling=scaling)
    assert_equal(before.encoder, after.encoder)
    assert (before.train.inputs == after.train.inputs).all()
    assert not (before.test.inputs == after.test.inputs).all()
    # And it does depend on the training rows.
    strange[rows.train[0]] = "500,1,a,2,3"
    with pytest.raises(AssertionError):
        assert_equal(before.encoder, small(write, tmp_path, strange, scaling="standard").encoder)


def test_the_seed_decides_on_the_rows(tmp_path, write):
    one, again, other = (small(write, tmp_path, seed=seed) for seed in (1, 1, 2))
    assert (one.test.targets == again.test.targets).all()
    assert not (one.test.targets == other.test.targets).all()


def test_files_in_place_of_shares(tmp_path, write):
    write("y,x,extra,c\n0,1,7,q\n1,5,7,b\n", "test.csv")
    write("x,c,y\n1,a,1\n2,b,0\n3,a,1\n4,b,0\n", "train.csv")
    prepared = prepare_files(
        "train.csv", folder=tmp_path, task="classification", target="y", validation=0, test="test.csv", scaling="none"
    )
    assert len(prepared.train) == 4
    assert prepared.validation is None
    assert prepared.test.inputs.tolist() == [[1, 0, 0], [5, 0, 1]]
    assert prepared.test.targets.tolist() == [0, 1]
    assert prepared.notes == (
        "test: not used, because not in the training data: 'extra'",
        "test: column 'c': 1 row has a value not seen in training, such as 'q'",
    )


def test_a_class_that_only_another_file_has(tmp_path, write):
    write("x,y\n1,a\n2,b\n3,a\n", "train.csv")
    write("x,y\n1,a\n2,c\n", "test.csv")
    with pytest.raises(DataError, match=r"test\.csv:3: the class 'c' does not occur in the training data"):
        prepare_files("train.csv", folder=tmp_path, task="classification", target="y", validation=0, test="test.csv")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "z"}, r"there is no column 'z'"),
        ({"target": None}, r"needs the name of its target"),
        ({"drop": ["q"]}, r"there is no column 'q'"),
        ({"weights": "w"}, r"there is no column 'w'"),
        ({"drop": ["y"]}, r"a\.csv: 'y' is the target already\n  each column can be one thing"),
        ({"weights": "y"}, r"a\.csv: 'y' is the target already"),
        ({"weights": "b", "drop": ["b"]}, r"a\.csv: 'b' is the weights already"),
        ({"target": "z", "drop": ["a", "q"], "test": "b.csv"}, r"(?s)no such file.*no column 'z'.*no column 'q'"),
        ({"drop": ["a", "b", "c", "d"]}, r"no column is left to learn from"),
        ({"target": "c"}, r"a\.csv:2: column 'c' should be numeric, but this cell is 'a'\n.*classification$"),
        ({"target": "d"}, r"a\.csv:\d+: the target is missing"),
        ({"target": "d", "task": "classification"}, r"a\.csv:2: the target is missing, as it is in 8 more rows"),
        ({"validation": 0.9}, r"the shares 0\.9 for validation and 0\.15 for test are not possible"),
        ({"validation": "b.csv"}, r"b\.csv: no such file\n  did you mean 'a\.csv'\?"),
        ({"test": 0.001}, r"80 rows are too few"),
    ],
)
def test_what_cannot_be_prepared(tmp_path, write, options, message):
    with pytest.raises(DataError, match=message):
        small(write, tmp_path, **options)


def test_dropped_columns_are_no_inputs_and_no_news(tmp_path, write):
    prepared = small(write, tmp_path, drop=("a", "c"))
    assert prepared.encoder.features == ("b", "d", "d is missing")
    assert prepared.notes == ()


def test_weights(tmp_path, write):
    prepared = small(write, tmp_path, weights="b", test=0)
    assert "b" not in prepared.encoder.features
    assert prepared.train.weights.dtype == np.float32
    every = 32 * np.sort(np.concatenate([prepared.train.weights, prepared.validation.weights]))
    assert every.tolist() == sorted(float(i * i % 31) for i in range(80))
    assert small(write, tmp_path).train.weights is None


@pytest.mark.parametrize("factor", [2.0**-140, 0.5, 2.0**125])
def test_only_the_ratios_of_weights_count(tmp_path, write, factor):
    """Beyond the normal numbers of 32 bits, too, and where their sum is."""
    cells = [1.0, 0.0, 3.0, 7.0]
    found = []
    for scale in (1.0, factor):
        name = write("x,y,w\n" + "\n".join(f"{i},{i},{scale * w!r}" for i, w in enumerate(cells)))
        options = {"folder": tmp_path, "task": "regression", "target": "y", "validation": 0, "test": 0}
        found.append(prepare_files(name, weights="w", **options).train.weights.tolist())
    assert found == 2 * [[w / 8 for w in cells]]


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (["1", "-2"], r"a\.csv:3: the weight -2 is negative"),
        (["1", "?"], r"a\.csv:3: a weight is missing"),
        (["1", "x"], r"a\.csv:3: column 'w' should be numeric"),
        (["1", "inf"], r"a\.csv:3: .*not a finite"),
        (["0", "0"], r"a\.csv: all weights in 'w' are 0"),
    ],
)
def test_bad_weights(tmp_path, write, cells, message):
    name = write("x,y,w\n" + "\n".join(f"{i},{i},{w}" for i, w in enumerate(cells)))
    with pytest.raises(DataError, match=message):
        prepare_files(name, folder=tmp_path, task="regression", target="y", weights="w", validation=0, test=0)


def test_prediction_needs_neither_target_nor_weights(tmp_path, write):
    encoder = small(write, tmp_path, weights="b").encoder
    write("d,c,a\n1,a,2\n", "new.csv")
    found, notes = encoder.encode(read(tmp_path / "new.csv"), targets=False)
    assert found.inputs.shape == (1, encoder.width)
    assert found.targets is found.weights is None
    assert notes == []
    with pytest.raises(DataError, match="there is no column 'y'"):
        encoder.encode(read(tmp_path / "new.csv"), targets=True)


def test_columns_without_names_that_have_moved_are_refused(tmp_path, write):
    """What is missing at the end has moved none; without the first column the second stands in its place."""
    rows = [f"{i},{i % 7},{i % 5},x" for i in range(40)]
    write("\n".join(rows) + "\n")
    first = prepare_files("a.csv", folder=tmp_path, task="regression", target=0, drop=[3]).encoder
    last = prepare_files("a.csv", folder=tmp_path, task="regression", target=2, drop=[3]).encoder
    write("1,2,3\n", "new.csv")
    new = read(tmp_path / "new.csv", first.dialect)
    message = r"new\.csv: of 4 columns without names, as in training, only 3 are here\n  keep each at its position"
    for encoder in (first, last):
        with pytest.raises(DataError, match=message):
            encoder.encode(new, targets=False)
    write("1,2\n", "new.csv")
    assert not last.encode(read(tmp_path / "new.csv", last.dialect), targets=False)[1]
    write(",2,3,x\n", "new.csv")
    assert not first.encode(read(tmp_path / "new.csv", first.dialect), targets=False)[1]


def test_prediction_uses_the_missing_markers_of_training(tmp_path, write):
    write("x,y\n1,1\n-9,2\n3,3\n")
    encoder = prepare_files(
        "a.csv",
        folder=tmp_path,
        task="regression",
        target="y",
        dialect=Dialect(missing=Missing(frozenset(["-9"]))),
        scaling="none",
        validation=0,
        test=0,
    ).encoder
    write("x\n-9\n", "new.csv")
    found, _ = saved(encoder).encode(read(tmp_path / "new.csv"), targets=False)
    assert found.inputs.tolist() == [[2, 1]]


def test_arrays_end_to_end(tmp_path):
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(50, 4)).astype(np.float32), generator.integers(0, 3, 50)
    np.savez(tmp_path / "a.npz", x=x, y=y, w=np.arange(50.0), other=np.zeros((7, 2)))
    prepared = prepare_files(
        "a.npz", folder=tmp_path, task="classification", target="y", weights="w", scaling="none", validation=0
    )
    rows = (64 * prepared.test.weights).astype(int)
    assert (prepared.test.inputs == x[rows]).all()
    assert (prepared.test.targets == y[rows]).all()
    np.save(tmp_path / "b.npy", x)
    found, _ = saved(prepared.encoder).encode(read(tmp_path / "b.npy"), targets=False)
    assert (found.inputs == x).all()
    np.savez(tmp_path / "c.npz", x=x, y=y[:9])
    encoder = prepare_files("a.npz", folder=tmp_path, task="classification", target="y", drop=["w"]).encoder
    with pytest.raises(DataError, match="array 'y' has 9 rows, but the inputs have 50"):
        encoder.encode(read(tmp_path / "c.npz"), targets=True)


CELLS = st.one_of(
    st.text(st.characters(blacklist_categories=("Cs",)), max_size=3),
    st.sampled_from(["?", "1", "2.5", "-3", "1e38", "1e-38", "-1e38", "inf", "a", "b", "0.1"]),
    st.floats(width=32).map(repr),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.integers(2, 4).flatmap(lambda p: st.lists(st.tuples(*[CELLS] * p), min_size=1, max_size=12)),
    task=st.sampled_from(["classification", "regression"]),
    scaling=st.sampled_from([None, *SCALINGS]),
    share=st.sampled_from([0, 0.3]),
)
def test_any_table_is_prepared_or_an_error_of_data(tmp_path, rows, task, scaling, share):
    text = "\n".join(",".join(row) for row in [[f"c{i}" for i in range(len(rows[0]))], *rows])
    (tmp_path / "any.csv").write_bytes(text.encode())
    try:
        prepared = prepare_files(
            "any.csv", folder=tmp_path, task=task, target=-1, scaling=scaling, validation=share, test=0
        )
    except DataError:
        return
    assert np.isfinite(prepared.train.inputs).all()
    assert np.isfinite(prepared.train.targets).all()
    assert_equal(prepared.encoder, saved(prepared.encoder))


@pytest.fixture(scope="module")
def states(tmp_path_factory):
    """Return states of an encoder for a table, and of one for bytes."""
    folder = tmp_path_factory.mktemp("states")
    (folder / "a.csv").write_text("a,b,c,d,y\n" + "\n".join(ROWS))
    np.savez(folder / "a.npz", x=np.eye(9, dtype=np.uint8), f=np.eye(9), y=np.arange(9) % 2)
    options = {"folder": folder, "validation": 0, "test": 0}
    encoders = [
        prepare_files("a.csv", task="regression", target="y", scaling="quantile", **options).encoder,
        prepare_files("a.csv", task="classification", target="y", weights="b", **options).encoder,
        prepare_files("a.npz", task="classification", target="y", **options).encoder,
        prepare_files("a.npz", task="classification", target="y", drop=["x"], **options).encoder,
    ]
    return [encoder.to_state() for encoder in encoders]


def places(value: object, path: tuple = ()):
    """Yield the path to every entry of nested dicts and lists."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in items:
        yield (*path, key)
        yield from places(each, (*path, key))


# A value of each kind that JSON has; none of them is right in all places, none may crash.
WRONG = [None, True, -1, 10**400, 0.5, float("nan"), "", "x", [], [1], ["x", "x"], {}, {"a": 1}, [[]], [{}]]


def test_no_damaged_field_is_a_crash(states):
    refused = 0
    for fields, arrays in states:
        for path in places(fields):
            for wrong in WRONG:
                damaged = copy.deepcopy(fields)
                holder = damaged
                for key in path[:-1]:
                    holder = holder[key]
                holder[path[-1]] = wrong
                try:
                    encoder = Encoder.from_state(damaged, arrays)
                except RunError as error:
                    refused += 1
                    assert "damaged model" in str(error)  # noqa: PT017 (some damage is another right value)
                    continue
                assert encoder.width == len(encoder.features) > 0
                assert encoder.outputs > 0
    assert refused > 1000


def test_every_field_and_array_is_needed(states):
    for fields, arrays in states:
        for path in places(fields):
            if not isinstance(path[-1], str) or (path[0], path[-1]) == (
                "target",
                "type",
            ):  # earlier versions had none
                continue
            damaged = copy.deepcopy(fields)
            holder = damaged
            for key in path[:-1]:
                holder = holder[key]
            del holder[path[-1]]
            with pytest.raises(RunError, match=rf"{path[-1]} (is missing|must be)"):
                Encoder.from_state(damaged, arrays)
        for name in arrays:
            with pytest.raises(RunError, match=f"damaged model: {name} must be a finite array"):
                Encoder.from_state(fields, {k: v for k, v in arrays.items() if k != name})


@pytest.mark.parametrize(
    "damage",
    [
        lambda a: a.astype(np.float16),
        lambda a: a[..., None],
        lambda a: a[..., :-1],
        lambda a: a.tolist(),
        lambda a: np.full_like(a, np.nan) if a.dtype.kind == "f" else a - 99,
        lambda a: np.full_like(a, np.inf) if a.dtype.kind == "f" else a + 99,
    ],
    ids=["dtype", "axes", "length", "list", "low", "high"],
)
def test_damaged_arrays_are_refused(states, damage):
    for fields, arrays in states:
        for name in arrays:
            if name.endswith("flagged") and arrays[name].size == 0:
                continue
            changed = damage(arrays[name])
            if name.endswith("flagged") and np.ndim(changed) == 1 and np.size(changed) == 0:
                continue  # fewer flags are another right value
            with pytest.raises(RunError, match="damaged model"):
                Encoder.from_state(fields, {**arrays, name: changed})


def test_a_column_cannot_be_numeric_and_text(states):
    fields, arrays = copy.deepcopy(states[0])
    fields["inputs"]["one_hots"][0]["name"] = fields["inputs"]["numeric"][0]
    with pytest.raises(RunError, match="damaged model: inputs must name each column once"):
        Encoder.from_state(fields, arrays)


@pytest.mark.parametrize("state", [None, [], "x", 1])
def test_a_state_is_a_mapping(state):
    with pytest.raises(RunError, match="damaged model: the state must be a mapping"):
        Encoder.from_state(state, {})


@pytest.mark.parametrize("version", [2, True, 1.0])
def test_a_state_of_another_version(states, version):
    fields, arrays = states[0]
    with pytest.raises(RunError, match="format must be a whole number from 1 to 1"):
        Encoder.from_state({**fields, "format": version}, arrays)


# Larger data, where there is any.


def test_census(larger):
    prepared = prepare_files(
        "census_kdd_train.csv.gz",
        folder=larger / "census_kdd",
        task="classification",
        target="income_gt_50k",
        test="census_kdd_test.csv.gz",
    )
    assert len(prepared.train) + len(prepared.validation) == 199523
    assert len(prepared.test) == 99762
    assert prepared.encoder.classes == ("- 50000.", "50000+.")
    assert "hispanic_origin=(missing)" in prepared.encoder.features


def test_housing_has_one_column_with_gaps(larger):
    prepared = prepare_files(
        "housing.csv.gz", folder=larger / "california", task="regression", target="median_house_value"
    )
    assert [f for f in prepared.encoder.features if "missing" in f] == ["total_bedrooms is missing"]


def test_wine_is_separated_by_semicolons(larger):
    prepared = prepare_files(
        "winequality-red.csv", folder=larger / "wine_quality", task="regression", target="quality"
    )
    assert prepared.encoder.features[0] == "fixed acidity"
    assert prepared.encoder.width == 11


@pytest.mark.parametrize(
    ("name", "rows", "columns", "separator", "header"),
    [
        ("uci_regression/yacht/data.txt.gz", 308, 7, " ", False),
        ("uci_regression/concrete/data.txt.gz", 1030, 9, "\t", False),
        ("wine_quality/winequality-white.csv", 4898, 12, ";", True),
        ("covertype/covtype.20k.data.gz", 20000, 55, ",", False),
        ("connect4/connect4.csv.gz", 67557, 43, ",", True),
        ("adult/adult.data.gz", 32561, 15, ",", False),
        ("adult/adult.test.gz", 16281, 15, ",", False),
        ("churn/Churn_Modelling.csv.gz", 10000, 14, ",", True),
    ],
)
def test_published_files_are_read_as_they_are(larger, name, rows, columns, separator, header):
    found = read(larger / name)
    assert (len(found), len(found.names)) == (rows, columns)
    assert (found.dialect.separator, found.dialect.header, found.dialect.decimal) == (separator, header, ".")
    if name.startswith("adult"):
        assert sorted(found.column("column_14").texts) == ["<=50K", ">50K"]


def test_ids_of_churn_are_reported(larger):
    prepared = prepare_files(
        "Churn_Modelling.csv.gz", folder=larger / "churn", task="classification", target="Exited"
    )
    (ids,) = (note for note in prepared.notes if "looks like an id" in note)
    assert "'RowNumber'" in ids
    assert "'CustomerId'" in ids
