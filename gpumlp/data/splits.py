"""Dividing rows into training, validation and test rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpumlp.errors import DataError
from gpumlp.seeds import FOLDS, SPLIT, generator

Rows = NDArray[np.int64]


class Split(NamedTuple):
    """Row numbers of each part, sorted. No row is in two parts; all rows are in one, but for folds in time order."""

    train: Rows
    validation: Rows
    test: Rows


@dataclass(frozen=True)
class Fold:
    """Test rows that are one of several folds: number ``number``, counted from 1, of ``of``."""

    number: int
    of: int


def split(
    count: int,
    *,
    validation: float | Fold,
    test: float | Fold,
    seed: int,
    labels: Rows | None = None,
    groups: Rows | None = None,
    times: NDArray[Any] | None = None,
) -> Split:
    """Draw validation and test rows, the same ones for the same arguments on any machine.

    Parameters
    ----------
    count
        Rows to divide.
    validation
        Share of the rows; of those outside the fold, where ``test`` is one; or one of several folds of the rows that
        are not test rows.
    test
        Share of the rows, or one of several folds, which are disjoint and of about the same size.
    seed
        Seed of the draw.
    labels
        (count,) class numbers: each class is divided in the same shares, as exactly as whole rows (or groups) allow.
        Without groups, times and folds each class keeps at least one training row.
    groups
        (count,) group numbers from 0: all rows of a group go to the same part.
    times
        (count,) what the rows are ordered by: the last ones are test rows, the last of the others are for validation,
        and rows of one time are not divided. Fold k is trained on the rows before it, which are about k of ``of + 1``
        shares.

    Raises
    ------
    DataError
        If the shares are not possible, or leave a part without rows.
    """
    if isinstance(test, Fold):
        rest, tested = _fold(count, test, seed, labels, groups, times)
        others = [None if each is None else each[rest] for each in (labels, groups, times)]
        inner = split(
            len(rest), validation=validation, test=0.0, seed=seed, labels=others[0], groups=others[1], times=others[2]
        )
        return Split(rest[inner.train], rest[inner.validation], tested)
    if isinstance(validation, Fold):
        outer = split(count, validation=0.0, test=test, seed=seed, labels=labels, groups=groups, times=times)
        others = [None if each is None else each[outer.train] for each in (labels, groups, times)]
        rest, validated = _fold(len(outer.train), validation, seed, *others)
        return Split(outer.train[rest], outer.train[validated], outer.test)
    if not (validation >= 0 and test >= 0 and validation + test < 1):
        raise DataError(
            f"the shares {validation} for validation and {test} for test are not possible",
            hint="each must be 0 or more, and together less than 1",
        )
    shares = {"train": 1 - validation - test, "validation": validation, "test": test}
    if times is not None:
        return _in_order(times, shares)
    if groups is not None:
        return _by_group(groups, labels, shares, generator(seed, SPLIT))
    classes = np.zeros(count, np.int64) if labels is None else labels
    sizes = np.bincount(classes)
    # Each class may give all but one row, which stays for training.
    from_test = _apportion(sizes, test, np.maximum(sizes - 1, 0))
    from_validation = _apportion(sizes, validation, np.maximum(sizes - 1 - from_test, 0))
    for name, share, rows_of_part in (("validation", validation, from_validation), ("test", test, from_test)):
        if share > 0 and not rows_of_part.any():
            if round(share * count) > 0:
                raise DataError(
                    f"{count} rows of {len(sizes)} classes are too few for a share of {share} for {name}: each class "
                    "keeps a training row",
                    hint=f"use more data, or {name}: 0; if the target is a number, set the task to regression",
                )
            raise DataError(
                f"{count} rows are too few: a share of {share} for {name} is less than one row",
                hint=f"use more data, a larger share, or {name}: 0",
            )
    # In a shuffled order sorted by class, the first rows of each class go to the test part, and so on.
    order = generator(seed, SPLIT).permutation(count)
    drawn = classes.astype(np.uint16 if len(sizes) <= 1 << 16 else np.int64)[order]  # 16 bits are sorted by counting
    order = order[np.argsort(drawn, kind="stable")]
    rows_of_part = np.stack([from_test, from_validation, sizes - from_test - from_validation], axis=1)
    part = np.empty(count, np.uint8)
    part[order] = np.repeat(np.tile(np.array([2, 1, 0], np.uint8), len(sizes)), rows_of_part.reshape(-1))
    return Split(*(np.flatnonzero(part == number) for number in range(3)))


def _apportion(sizes: Rows, share: float, limits: Rows) -> Rows:
    """Return how many rows each group gives, by largest remainders: (groups,) each at most its limit.

    The sum is ``share`` of all rows, rounded, unless the limits forbid it; no group is more than one row
    away from its exact share.
    """
    exact = share * sizes
    counts: Rows = np.minimum(np.floor(exact).astype(np.int64), limits)
    missing = round(share * int(sizes.sum())) - int(counts.sum())
    by_remainder: Rows = np.argsort(counts - exact, kind="stable")
    open_groups = by_remainder[(counts < limits)[by_remainder] & (counts <= exact)[by_remainder]]
    counts[open_groups[: max(missing, 0)]] += 1
    return counts


def _fold(
    count: int, fold: Fold, seed: int, labels: Rows | None, groups: Rows | None, times: NDArray[Any] | None
) -> tuple[Rows, Rows]:
    """Return the rows to train on and those of the fold."""
    if not 1 <= fold.number <= fold.of:
        raise DataError(f"there is no fold {fold.number} of {fold.of}", hint="folds are counted from 1")
    classes = np.zeros(count, np.int64) if labels is None else labels
    if times is not None:
        order = np.argsort(times, kind="stable")
        size = count // (fold.of + 1)
        first = count - (fold.of - fold.number + 1) * size
        start, end = (_start_of_time(times[order], position) for position in (first, first + size))
        if not 0 < start < end:
            raise _too_few(len(np.unique(times)), "different times", fold)
        return np.sort(order[:start]), np.sort(order[start:end])
    if groups is not None:
        if (number := len(np.unique(groups))) < fold.of:
            raise _too_few(number, "groups", fold)
        folds = _assigned(groups, classes, np.full(fold.of, 1 / fold.of), generator(seed, FOLDS))
    else:
        if count < fold.of:
            raise _too_few(count, "rows", fold)
        order = generator(seed, FOLDS).permutation(count)
        folds = np.empty(count, np.int64)
        folds[order[np.argsort(classes[order], kind="stable")]] = np.arange(count) % fold.of
    return np.flatnonzero(folds != fold.number - 1), np.flatnonzero(folds == fold.number - 1)


def _too_few(count: int, unit: str, fold: Fold) -> DataError:
    return DataError(f"{count} {unit} are too few for {fold.of} folds", hint="use more data, or fewer folds")


def _in_order(times: NDArray[Any], shares: dict[str, float]) -> Split:
    """Return parts of rows in the order of time."""
    order = np.argsort(times, kind="stable")
    ends = np.rint(np.cumsum([shares["train"], shares["validation"]]) * len(times)).astype(int)
    first, second = (_start_of_time(times[order], int(end)) for end in ends)
    return _checked([order[:first], order[first:second], order[second:]], shares, "different times")


def _start_of_time(times: NDArray[Any], position: int) -> int:
    """Return the place of the first row that has the time of the row at ``position``, in sorted times."""
    return len(times) if position >= len(times) else int(np.searchsorted(times, times[position], "left"))


def _by_group(groups: Rows, labels: Rows | None, shares: dict[str, float], rng: np.random.Generator) -> Split:
    """Return parts of whole groups."""
    classes = np.zeros(len(groups), np.int64) if labels is None else labels
    numbers = [number for number, share in enumerate(shares.values()) if share > 0]
    assigned = np.array(numbers)[_assigned(groups, classes, np.array([*shares.values()])[numbers], rng)]
    return _checked([np.flatnonzero(assigned == number) for number in range(len(shares))], shares, "groups")


def _assigned(groups: Rows, labels: Rows, shares: NDArray[np.float64], rng: np.random.Generator) -> Rows:
    """Return the part of each row, (count,): whole groups, such that each class is near its shares.

    The largest groups are placed first, each where the sum over parts and classes of (rows / rows of the class)² /
    share grows least, all rows counting as one more class: it is least where every class has its shares. The last
    groups go to parts that are still empty.
    """
    number, classes = int(groups.max()) + 1, int(labels.max()) + 1
    pairs, counts = np.unique(groups * classes + labels, return_counts=True)
    group_of_pair, label = np.divmod(pairs, classes)
    starts = np.searchsorted(group_of_pair, np.arange(number + 1))
    sizes, totals = np.bincount(groups), np.append(np.bincount(labels), len(labels))
    weights = 1.0 / np.maximum(totals, 1.0) ** 2
    order = rng.permutation(number)
    order = order[np.argsort(-sizes[order], kind="stable")]
    order = order[sizes[order] > 0]  # numbers that no row has
    rows = np.zeros((len(shares), classes + 1))
    part_of_group = np.empty(number, np.int64)
    for left, group in zip(range(len(order), 0, -1), order, strict=True):
        rows_of_group = slice(starts[group], starts[group + 1])
        of_class, added = np.append(label[rows_of_group], classes), np.append(counts[rows_of_group], sizes[group])
        growth = ((2 * rows[:, of_class] + added) * added * weights[of_class]).sum(axis=1) / shares
        empty = rows[:, -1] == 0
        growth[~empty & (np.count_nonzero(empty) >= left)] = np.inf
        part = np.lexsort((rows[:, -1] / shares, growth))[0]
        rows[part, of_class] += added
        part_of_group[group] = part
    return part_of_group[groups]


def _checked(parts: Sequence[Rows], shares: dict[str, float], unit: str) -> Split:
    """Return parts in the order of their rows. Raises DataError if a part that has a share is empty."""
    for (name, share), rows in zip(shares.items(), parts, strict=True):
        if share > 0 and not len(rows):
            part = "training" if name == "train" else name
            message = f"the rows have too few {unit} for a share of {share:.3g} for {part}"
            raise DataError(message, hint="use more data, or another share")
    return Split(*map(np.sort, parts))
