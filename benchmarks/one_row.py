"""One row at a time, as a service predicts, beside scikit-learn's pipeline; with --rows many at once.

    pip install -e '.[bench,onnx]'
    python benchmarks/one_row.py [--rounds 300] [--rows 0] [--json FILE]

The rows have 16 columns of numbers and 3 of texts (3, 12 and 300 values), the network is 128-64. Both libraries take
turns, call by call; the table has the median microseconds of a call.

    raw        a DataFrame of one row: ``model.predict(frame)`` and ``pipeline.predict(frame)`` (ColumnTransformer
               with RobustScaler and OneHotEncoder, MLPClassifier)
    columns    the same row as a mapping from names to arrays, beside scikit-learn's DataFrame
    encoded    features as the network takes them: ``model.outputs(features)`` and ``MLPClassifier.predict_proba(X)``

Of many rows, 61 numbers each, by a network 61-128-10, the table has million rows a second, in turns, medians of five:

    products   the two products alone, in blocks as large as ours, by NumPy
    encoded    ``model.outputs(features)``
    raw        ``model.predict_proba(X)``, with the encoding and the calibration
    onnx       the exported file in ONNX Runtime, which does all that ``raw`` does
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

import numpy as np
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


def many(count: int) -> dict[str, float]:
    """Return million rows a second of each way to predict many rows."""
    import onnxruntime  # type: ignore[import-untyped, import-not-found, unused-ignore]

    from gpumlp.data import Features
    from gpumlp.export.files import _rebuilt
    from gpumlp.export.graph import write_onnx
    from gpumlp.export.trace import Tracer, trace_network
    from gpumlp.runs import fit
    from gpumlp.training.measure import MAX_BATCH_ROWS

    rng = np.random.default_rng(0)
    X = rng.standard_normal((count, 61)).astype(np.float32)
    y = rng.integers(0, 10, TRAINED_ROWS).astype(str)
    model = fit(X[:TRAINED_ROWS], y, model={"hidden": [128]}, training={"epochs": 2})
    features = Features.of_array(X)
    W1, W2 = (W for W in model.network.arrays().values() if W.ndim == 2)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        write_onnx(file, model, trace_network(_rebuilt(model, Tracer(), np.float32).network))
        session = onnxruntime.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"])
    (given,) = (each.name for each in session.get_inputs())
    raw = X.astype(np.float64)

    def products() -> None:
        for start in range(0, count, MAX_BATCH_ROWS):
            (X[start : start + MAX_BATCH_ROWS] @ W1) @ W2

    ways: dict[str, Callable[[], Any]] = {
        "products": products,
        "encoded": lambda: [None for _ in model.outputs(features)],
        "raw": lambda: model.predict_proba(raw),
        "onnx": lambda: session.run(None, {given: raw}),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(6):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - started)
    return {name: count / 1e6 / statistics.median(each[1:]) for name, each in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--rows", type=int, default=0, help="predict so many at once, too  [default: 0]")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = measure(options.rounds)
    print(f"{'µs':<10}{'gpumlp':>9}{'sklearn':>9}{'ratio':>7}")
    for name, row in found.items():
        print(f"{name:<10}{row['gpumlp']:9.0f}{row['sklearn']:9.0f}{row['ratio']:7.2f}")
    about: dict[str, Any] = {"processor": platform.processor() or platform.machine(), "calls": found}
    if options.rows:
        about |= {"rows": options.rows, "million_rows_per_second": (rates := many(options.rows))}
        print("\n" + "  ".join(f"{name} {rate:.2f}" for name, rate in rates.items()))
    if options.json:
        options.json.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    until_reader_leaves(main)
