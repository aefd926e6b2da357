"""One row at a time, as a service predicts: beside scikit-learn's pipeline, and without the encoding.

    pip install -e '.[bench]'
    python benchmarks/one_row.py [--rounds 300] [--json FILE]

The rows have 16 columns of numbers and 3 of texts (3, 12 and 300 values), the network is 128-64. Both libraries take
turns, call by call; the table has the median microseconds of a call.

    raw        a DataFrame of one row: ``model.predict(frame)`` and ``pipeline.predict(frame)`` (ColumnTransformer
               with RobustScaler and OneHotEncoder, MLPClassifier)
    columns    the same row as a mapping from names to arrays, beside scikit-learn's DataFrame
    encoded    features as the network takes them: ``model.outputs(features)`` and ``MLPClassifier.predict_proba(X)``
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline import write_files
from reader import until_reader_leaves

TRAINED_ROWS = 5000


def calls(folder: Path) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """Return what is timed, by name: ours, and scikit-learn's."""
    import pandas
    from sklearn.compose import make_column_transformer
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, RobustScaler

    from gpumlp.data import rows_of
    from gpumlp.runs import fit, load_trained

    write_files(folder, TRAINED_ROWS)
    frame = pandas.read_csv(folder / "rows.csv")
    model = fit(frame, "y", model={"hidden": [128, 64]}, training={"epochs": 2})
    model.save(folder / "model")
    model = load_trained(folder / "model")
    y = frame.pop("y")
    texts = ["level", "city", "code"]
    encode = make_column_transformer(
        (RobustScaler(), [name for name in frame if name not in texts]),
        (OneHotEncoder(handle_unknown="ignore", sparse_output=False), texts),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = make_pipeline(encode, MLPClassifier((128, 64), max_iter=2, random_state=0)).fit(frame, y)
    row = frame.iloc[:1]
    columns = {name: values.to_numpy() for name, values in row.items()}
    encoded, _ = model.encoder.encode(rows_of(columns), targets=False)
    x, network = theirs[0].transform(row), theirs[-1]
    return {
        "raw": (lambda: model.predict(row), lambda: theirs.predict(row)),
        "columns": (lambda: model.predict(columns), lambda: theirs.predict(row)),
        "encoded": (lambda: list(model.outputs(encoded.features)), lambda: network.predict_proba(x)),
    }


def measure(rounds: int) -> dict[str, dict[str, float]]:
    """Return the median microseconds of each, and their ratio."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, pair in calls(Path(folder)).items():
            seconds: tuple[list[float], list[float]] = ([], [])
            for number in range(rounds + 10):
                for call, each in zip(pair, seconds, strict=True):
                    started = time.perf_counter()
                    call()
                    if number >= 10:
                        each.append(time.perf_counter() - started)
            ours, theirs = (1e6 * statistics.median(each) for each in seconds)
            found[name] = {"gpumlp": ours, "sklearn": theirs, "ratio": ours / theirs}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = measure(options.rounds)
    print(f"{'µs':<10}{'gpumlp':>9}{'sklearn':>9}{'ratio':>7}")
    for name, row in found.items():
        print(f"{name:<10}{row['gpumlp']:9.0f}{row['sklearn']:9.0f}{row['ratio']:7.2f}")
    if options.json:
        options.json.write_text(
            json.dumps({"processor": platform.processor() or platform.machine(), "calls": found}, indent=1) + "\n"
        )


if __name__ == "__main__":
    until_reader_leaves(main)
