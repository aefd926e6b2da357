"""A trained network, or several, in one file. It needs Python 3.9 or later and NumPy. Written by gpumlp.

    python FILE rows.csv                 predictions as CSV; - reads standard input
    python FILE rows.csv --proba         with the probability of each class

    predict(rows)                        in Python: predictions of raw rows
    predict_proba(rows)                  probabilities, (N, classes)
    predict_quantiles(rows)              quantiles, (N, levels), of T targets (N, T, levels)

Rows are dictionaries of raw values by column (texts, numbers, None), or an array where the network takes one.
"""

from __future__ import annotations

import argparse
import base64
import csv
import datetime
import gzip
import io
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

BATCH = 2048
FLOAT32_MAX = float(np.finfo(np.float32).max)


def array(dtype: str, shape: tuple[int, ...], content: str) -> Any:
    """Return an array from its bytes in base 64."""
    return np.frombuffer(base64.b64decode(content), dtype).reshape(shape)


class Part(NamedTuple):
    """One of the networks that predict by the weighted mean of their probabilities or numbers, or the only one."""

    weight: float
    model: dict[str, Any]
    arrays: dict[str, Any]
    scale: Callable[[Any], Any]
    network: Callable[[Any], tuple[Any, Any]]


# <model>
MODEL: dict[str, Any] = {}
ARRAYS: dict[str, Any] = {}


def scale(x: Any) -> Any:
    """Return (N, p) numbers, their gaps filled, as the network was trained on them."""
    return x


def network(x: Any) -> tuple[Any, Any]:
    """Return the last linear values (N, K) of encoded rows (N, p), and the predictions that they stand for."""
    return x, x


PARTS = [Part(1.0, MODEL, ARRAYS, scale, network)]
# </model>


class InputError(ValueError):
    """A row does not fit the network."""


def predict(rows: Any) -> list[Any]:
    """Return a prediction for each row: a class, a number, or a list of several numbers or labels."""
    predictions = _outputs(rows)[0]
    if MODEL["classes"]:
        values = dict(zip(MODEL["classes"], MODEL["values"]))  # noqa: B905
        return [values[name] for name in predictions]
    if labels := MODEL.get("labels"):
        several = [dict(zip(each["classes"], each["values"])) for each in labels]  # noqa: B905
        return [[values[name] for values, name in zip(several, row)] for row in predictions]  # noqa: B905
    return predictions


def predict_proba(rows: Any) -> Any:
    """Return the probability of each class, (N, classes) float64, in the order of MODEL["classes"], or label."""
    if not (MODEL["classes"] or MODEL.get("labels")):
        raise TypeError("this network predicts numbers, which have no probabilities")
    return _outputs(rows)[1]


def predict_quantiles(rows: Any) -> Any:
    """Return the quantiles of each row at MODEL["levels"], (N, levels), of T targets (N, T, levels), rising."""
    if not MODEL.get("levels"):
        raise TypeError("this network predicts no quantiles")
    quantiles = _outputs(rows)[1]
    targets = len(MODEL["numbers"])
    return quantiles if targets == 1 else quantiles.reshape(len(quantiles), targets, -1)


def encode(rows: Any) -> Any:
    """Return what the network, of several the first, takes of raw rows, (N, p)."""
    return _encode(rows, PARTS[0])


def _encode(rows: Any, part: Part) -> Any:
    return _encode_array(rows, part) if part.model["array"] else _encode_table(list(rows), part)


def _outputs(rows: Any) -> tuple[list[Any], Any]:
    rows = rows if MODEL["array"] else list(rows)
    predictions: list[Any] = []
    labels, targets = MODEL.get("labels", ()), MODEL.get("numbers", ())
    # Behind the predictions: probabilities, or quantiles of each target in turn.
    more = [np.zeros((0, len(MODEL["classes"] or labels) or len(targets) * len(MODEL.get("levels", ()))))]
    for start in range(0, len(rows), BATCH):
        try:
            each = [_outputs_of(part, rows[start : start + BATCH]) for part in PARTS]
        except _CellError as error:
            raise InputError(f"row {start + error.row + 1}: {error}") from None
        predicted, others = each[0]
        if len(PARTS) > 1:
            predicted, others = (sum(part.weight * arrays[i] for part, arrays in zip(PARTS, each)) for i in (0, 1))  # noqa: B905
        if labels:
            predictions += [[one["classes"][p > 0.5] for one, p in zip(labels, row)] for row in others.tolist()]  # noqa: B905
        elif MODEL["classes"]:
            chosen = predicted if len(PARTS) == 1 else others.argmax(axis=1)
            predictions += [MODEL["classes"][i] for i in chosen.tolist()]
        else:
            predictions += (predicted[:, 0] if len(targets) == 1 else predicted).tolist()
        more.append(others)
    return predictions, np.concatenate(more)


def _outputs_of(part: Part, rows: Any) -> tuple[Any, Any]:
    """Return what a network predicts: classes, labels' probabilities or numbers, and probabilities or quantiles."""
    model = part.model
    x = _encode(rows, part)
    with np.errstate(all="ignore"):
        linear, answer = part.network(x)
    if not (finite := np.isfinite(linear).all(axis=1)).all():
        raise _CellError(
            int(np.argmin(finite)), "the prediction is not finite, since a number is too far from the training values"
        )
    if model.get("labels"):
        shares = _probabilities(linear.astype(np.float64).reshape(-1, 1), model)[:, 1].reshape(linear.shape)
        return shares, shares
    if model["classes"]:
        chosen = (answer[:, 0] > 0.5).astype(int) if answer.shape[1] == 1 else answer.argmax(axis=1)
        return chosen, _probabilities(linear.astype(np.float64), model)
    columns = answer.astype(np.float64).reshape(len(answer), len(model["numbers"]), -1)
    each = [_restore(columns[:, i], fitted) for i, fitted in enumerate(model["numbers"])]
    whole, levels = np.sort(np.stack(each, axis=1), axis=2), model["levels"]
    middle = min(range(len(levels)), key=lambda i: abs(levels[i] - 0.5)) if levels else 0
    return whole[:, :, middle], whole.reshape(len(whole), -1)[:, : len(each) * len(levels)]


def _restore(values: Any, fitted: dict[str, Any]) -> Any:
    """Return outputs of the network, of any shape, in the units of a target."""
    if fitted["counts"]:
        return np.exp(np.minimum(values, 700.0)) * fitted["deviation"]
    values = values * fitted["deviation"] + fitted["mean"]
    transform = fitted["transform"]
    if transform is None:
        return values
    values = np.clip(values, transform["low"], transform["high"])
    if transform["kind"] == "log":
        return np.exp(values)
    power = transform["exponent"]
    above, below = (
        _untransformed(np.maximum(values, 0.0), power),
        _untransformed(np.maximum(-values, 0.0), 2.0 - power),
    )
    return np.where(values >= 0, above, -below)


def _untransformed(values: Any, power: float) -> Any:
    return np.expm1(np.log1p(power * values) / power if power else values)


def _probabilities(linear: Any, model: dict[str, Any]) -> Any:
    if linear.shape[1] == 1:
        linear = np.concatenate([-linear, np.zeros_like(linear)], axis=1)
    fitted = model["calibration"] or {"sharpness": 1.0, "mix": 0.0}
    linear = fitted["sharpness"] * linear
    powers = np.exp(linear - linear.max(axis=1, keepdims=True))
    shares = powers / powers.sum(axis=1, keepdims=True)
    curves = [(each["inputs"], each["outputs"]) for each in fitted.get("curves", ())]
    if len(curves) == 1:
        second = np.interp(shares[:, 1], *curves[0])
        shares = np.stack([1.0 - second, second], axis=1)
    elif curves:
        shares = np.stack([np.interp(p, *curve) for p, curve in zip(shares.T, curves, strict=True)], axis=1)
        total = shares.sum(axis=1, keepdims=True)
        shares = np.where(total > 0, shares / np.where(total > 0, total, 1.0), 1.0 / shares.shape[1])
    return (1.0 - fitted["mix"]) * shares + fitted["mix"] / linear.shape[1]


class _CellError(ValueError):
    """A cell does not fit the network; ``row`` is its row in the batch, counted from 0."""

    def __init__(self, row: int, message: str) -> None:
        super().__init__(message)
        self.row = row


def _encode_array(values: Any, part: Part) -> Any:
    model = part.model
    values, wide = np.asarray(values), np.dtype(model["dtype"])
    values = values.reshape(len(values), -1)
    if values.shape[1] != model["columns"]:
        raise InputError(f"the rows have {values.shape[1]} numbers; the network takes {model['columns']}")
    if model["bytes"]:
        if values.dtype != np.uint8:
            raise InputError(f"the rows are {values.dtype}; the network takes bytes (uint8)")
        return (values.astype(wide) * (1.0 / 255.0)).astype(wide)
    block = values.astype(np.float64)
    return _encode_numbers(block, [f"{model['name']}[{i}]" for i in range(block.shape[1])], part).astype(wide)


def _encode_numbers(block: Any, names: list[str], part: Part) -> Any:
    """Return numbers with their gaps filled and scaled, then the flags of gaps, float32."""
    flagged = part.arrays["flagged"]
    gaps = np.isnan(block)
    out = np.empty((len(block), len(names) + len(flagged)), np.float32)
    with np.errstate(all="ignore"):
        out[:, : len(names)] = part.scale(np.where(gaps, part.arrays["medians"], block))
    out[:, len(names) :] = gaps[:, flagged]
    for row, column in np.argwhere(~np.isfinite(out))[:1].tolist():
        raise _CellError(row, f"column {names[column]!r}: {block[row, column]} is too far from the training values")
    return out


def _encode_table(rows: list[Any], part: Part) -> Any:
    model = part.model
    names = model["numeric"]
    for column in (*names, *(each["name"] for each in (*model["dates"], *model["categories"]))):
        for i, row in enumerate(rows):
            if column not in row:
                raise _CellError(i, f"there is no column {column!r}")
    x = np.zeros((len(rows), model["width"]), np.dtype(model["dtype"]))
    start = 0
    if names:
        cells = [[_number(row[name], i, name, model) for name in names] for i, row in enumerate(rows)]
        numbers = _encode_numbers(np.array(cells, np.float64).reshape(len(rows), len(names)), names, part)
        start = numbers.shape[1]
        x[:, :start] = numbers
    for each in model["dates"]:
        column, order = each["name"], each["order"]
        days = np.array([_days(row[column], order, i, column, model) for i, row in enumerate(rows)])
        parts = _encode_dates(days, each)
        x[:, start : start + parts.shape[1]] = parts
        start += parts.shape[1]
    for each in model["categories"]:
        codes, other = each["codes"], each["other"]
        for i, row in enumerate(rows):
            code = codes.get(_text(row[each["name"]], each["truths"], model), other)
            if code is not None:
                x[i, start + code] = 1
        start += each["width"]
    return x


ISO = re.compile(r"(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})(?:(?:T|,? )(.+))?", re.ASCII)
OTHER = re.compile(r"(\d{1,2})([-/.])(\d{1,2})\2(\d{4})(?:(?:T|,? )(.+))?", re.ASCII)
HALF = "[\\s\u00a0\u202f]*([AaPp])\\.?[Mm]\\.?"
CLOCK = re.compile(
    rf"\s*(\d{{1,2}}):(\d{{2}})(?::(\d{{2}})(\.\d{{1,9}})?)?(?:{HALF})?\s*(Z|[+-]\d{{2}}(?::?\d{{2}})?)?", re.ASCII
)


def _days(value: Any, order: str, row: int, column: str, model: dict[str, Any]) -> float:
    """Return a raw date as days since 1970-01-01 (UTC where it has a zone), NaN where it is missing."""
    text = "" if value is None or value != value else str(value).strip()
    if text in model["missing"] or not text:
        return math.nan
    match = (ISO if order == "ymd" else OTHER).fullmatch(text)
    parts = match.groups() if match else ()
    clock = CLOCK.fullmatch(parts[-1] or "0:00") if parts else None
    try:
        if clock is None:
            raise ValueError
        year, month, day = parts[:3] if order == "ymd" else (parts[3], parts[2], parts[0])
        if order == "mdy":
            month, day = day, month
        hour, minute, second, fraction, half, zone = clock.groups()
        if half and not 1 <= int(hour) <= 12:
            raise ValueError
        hours = int(hour) % 12 + 12 * (half in "Pp") if half else int(hour)
        time = datetime.datetime(int(year), int(month), int(day), hours, int(minute), int(second or 0))
    except ValueError:
        raise _CellError(row, f"column {column!r} should have dates, but this cell is {text!r}") from None
    days = (time - datetime.datetime(1970, 1, 1)) / datetime.timedelta(days=1) + float(fraction or 0) / 86400.0
    if zone and zone != "Z":
        days -= (int(zone[:3]) * 60 + int(zone[0] + (zone[3:].lstrip(":") or "0"))) / 1440.0
    return days


def _encode_dates(days: Any, fitted: dict[str, Any]) -> Any:
    """Return elapsed time, sine and cosine of each cycle, and a flag of gaps, if there were any: (N, features)."""
    missing = np.isnan(days)
    there = np.where(missing, fitted["center"], days)
    parts = [(there - fitted["center"]) / fitted["deviation"]]
    for length in fitted["cycles"]:
        angle = there * (2.0 * np.pi / length)
        parts += [np.where(missing, 0.0, np.sin(angle)), np.where(missing, 0.0, np.cos(angle))]
    if fitted["gaps"]:
        parts.append(missing)
    return np.stack(parts, axis=1).astype(np.float32)


def _number(value: Any, row: int, column: str, model: dict[str, Any]) -> float:
    """Return a raw value as a number, NaN where it is missing."""
    number = math.nan
    if isinstance(value, str):
        text, decimal = value.strip(), model["decimal"]
        if column in model["plain"]:
            text = _plain(text, decimal, **model["plain"][column])
        if text in model["missing"] or text in model["missing_among_numbers"] or not text:
            return math.nan
        plain = "_" not in text and not (decimal == "," and "." in text)
        try:
            number = float(text.replace(",", ".") if decimal == "," else text) if plain else math.inf
        except ValueError:
            plain = False
        if not plain or number != number:
            raise _CellError(row, f"column {column!r} should be numeric, but this cell is {text!r}")
    elif value is not None:
        short = isinstance(value, (np.float16, np.float32))  # is the number that its shortest text stands for
        number = float(str(np.float32(value)) if short else _seconds(value))
    if abs(number) > FLOAT32_MAX:
        raise _CellError(row, f"column {column!r} has {value!r}, which is not a finite 32-bit float")
    return math.nan if number in model["missing_numbers"] else number


def _seconds(value: Any) -> Any:
    """Return a value, in seconds if it is a time that passed."""
    if isinstance(value, np.timedelta64):
        return value / np.timedelta64(1, "s")
    return value.total_seconds() if isinstance(value, datetime.timedelta) else value


def _plain(text: str, decimal: str, thousands: str | None, unit: str | None) -> str:
    """Return a number without marks between thousands and without unit."""
    if unit:
        sign = text[:1] if text[:1] in ("-", "+") else ""
        text = sign + text[len(sign) :].strip().removeprefix(unit).removesuffix(unit).strip()
    text = text.replace(thousands or "", "") if thousands else text
    other = "." if decimal == "," else ","
    return text.replace(other, decimal) if thousands == decimal else text


def _text(value: Any, truths: bool, model: dict[str, Any]) -> str:
    """Return a raw value as the text of a category, empty where it is missing."""
    value = _seconds(value)
    if isinstance(value, (float, np.floating)):
        is_whole = abs(float(value)) < 2**53 and float(value).is_integer()
        text = "" if value != value else str(int(value)) if is_whole else str(value)
    elif isinstance(value, (bool, np.bool_)):
        text = str(value).lower()
    else:
        text = "" if value is None else str(value).strip()
    return "" if text in model["missing"] else text.lower() if truths else text


# ---- files ---------------------------------------------------------------------------------------------------------


def read_rows(path: str) -> Any:
    """Return the rows of a file: of CSV as dictionaries; of .npy, .npz and IDX as an array."""
    content = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    return _read_array(content) if MODEL["array"] else list(_read_csv(content))


def _read_csv(content: bytes) -> Iterator[dict[str, str]]:
    text = content.decode(MODEL["encoding"] or "utf-8").removeprefix("\ufeff")
    lines: Iterable[str] = io.StringIO(text, newline="\n")
    if MODEL["separator"] == " ":
        lines = (re.sub(r"[ \t]+", " ", line.strip()) + "\n" for line in lines)
    reader = csv.reader(
        lines,
        delimiter=MODEL["separator"],
        quotechar=MODEL["quote"],
        quoting=csv.QUOTE_MINIMAL if MODEL["quote"] else csv.QUOTE_NONE,
        skipinitialspace=MODEL["separator"] != " ",
        strict=True,
    )
    names: list[str] = []
    for row in reader:
        if not row:
            continue
        if not names:
            names = [name.strip() if MODEL["header"] else "" for name in row]
            names = [name or f"column_{i}" for i, name in enumerate(names)]
            if twice := [name for i, name in enumerate(names) if name in names[:i]]:
                raise InputError(f"line {reader.line_num}: two columns are called {twice[0]!r}")
            if MODEL["header"]:
                continue
        if len(row) != len(names):
            raise InputError(f"line {reader.line_num} has {len(row)} cells, the first has {len(names)}")
        yield dict(zip(names, row))  # noqa: B905  # strict is newer than Python 3.9


def _read_array(content: bytes) -> Any:
    if content[:2] == b"\0\0":  # IDX: https://yann.lecun.com/exdb/mnist
        dtype = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}[content[2]]
        shape = np.frombuffer(content, ">i4", content[3], 4)
        return np.frombuffer(content, dtype, offset=4 + 4 * content[3]).reshape(shape)
    loaded = np.load(io.BytesIO(content), allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return loaded
    if MODEL["name"] not in loaded:
        raise InputError(f"there is no array {MODEL['name']!r}; there are {', '.join(loaded)}")
    return loaded[MODEL["name"]]


def main() -> None:
    """Predict the rows of a file."""
    parser = argparse.ArgumentParser(description="Predict raw rows. The file has the columns of the training file.")
    parser.add_argument("file", help="CSV, .npy, .npz or IDX, also packed by gzip; - reads standard input")
    parser.add_argument("--proba", action="store_true", help="add the probability of each class")
    parser.add_argument("-o", "--output", help="the CSV file to write  [default: standard output]")
    options = parser.parse_args()
    labels = [each["name"] for each in MODEL.get("labels", ())]
    classes = MODEL["classes"] or labels
    if options.proba and not classes:
        parser.error("--proba is for classes; this network predicts numbers")
    try:
        predictions, more = _outputs(read_rows(options.file))
    except (OSError, UnicodeError, csv.Error, ValueError, LookupError) as error:
        sys.exit(f"error: {options.file}: {error}")
    targets = labels or [each["name"] for each in MODEL.get("numbers", ())]
    several = bool(labels) or len(targets) > 1
    names = [f"probability {name}" for name in classes] if options.proba else []
    for target in targets:
        names += [f"quantile {level:g}" + f" {target}" * several for level in MODEL.get("levels", ())]
    stream = open(options.output, "w", encoding="utf-8", newline="") if options.output else sys.stdout  # noqa: SIM115
    with stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([*([f"prediction {name}" for name in targets] if several else ["prediction"]), *names])
        for prediction, others in zip(predictions, more.tolist() if names else [[]] * len(predictions)):  # noqa: B905
            writer.writerow([*(prediction if several else [prediction]), *others])


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:  # whoever reads has seen enough
        sys.exit(1)
