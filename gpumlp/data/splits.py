"""Dividing rows into training, validation and test rows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpumlp.errors import DataError
from gpumlp.seeds import SPLIT, generator

Rows = NDArray[np.int64]


class Split(NamedTuple):
    """Row numbers of each part, sorted; together they are every row once."""

    train: Rows
    validation: Rows
    test: Rows


def split(count: int, *, validation: float, test: float, seed: int, labels: Rows | None = None) -> Split:
    """Draw validation and test rows, the same ones for the same arguments on any machine.

    With ``labels``, (count,) class numbers, each class is divided in the same shares, as exactly as whole
    rows allow, and keeps at least one training row.

    Raises
    ------
    DataError : if the shares are not possible, or leave a part without rows
    """
    if not (validation >= 0 and test >= 0 and validation + test < 1):
        raise DataError(
            f"the shares {validation} for validation and {test} for test are not possible",
            hint="each must be 0 or more, and together less than 1",
        )
    groups = np.zeros(count, np.int64) if labels is None else labels
    sizes = np.bincount(groups)
    # Each group may give all but one row, which stays for training.
    from_test = _apportion(sizes, test, sizes - 1)
    from_validation = _apportion(sizes, validation, sizes - 1 - from_test)
    for name, share, given in (("validation", validation, from_validation), ("test", test, from_test)):
        if share > 0 and not given.any():
            if round(share * count) > 0:
                raise DataError(
                    f"{count} rows of {len(sizes)} classes are too few for a share of {share} for {name}: each class "
                    "keeps a training row",
                    hint=f"use more data, or {name}: 0; if the target is a number, set the task to regression",
                )
            raise DataError(
                f"{count} rows are too few: a share of {share} for {name} is no row at all",
                hint=f"use more data, a larger share, or {name}: 0",
            )
    # In a shuffled order sorted by group, the first rows of each group go to the test part, and so on.
    order = generator(seed, SPLIT).permutation(count)
    order = order[np.argsort(groups[order], kind="stable")]
    starts = np.cumsum(sizes) - sizes
    place = np.arange(count) - np.repeat(starts, sizes)
    of_test = place < np.repeat(from_test, sizes)
    of_validation = ~of_test & (place < np.repeat(from_test + from_validation, sizes))
    return Split(
        train=np.sort(order[~of_test & ~of_validation]),
        validation=np.sort(order[of_validation]),
        test=np.sort(order[of_test]),
    )


def _apportion(sizes: Rows, share: float, limits: Rows) -> Rows:
    """Return how many rows each group gives, by largest remainders: (groups,) each at most its limit.

    The sum is ``share`` of all rows, rounded, unless the limits forbid it; no group is more than one row
    away from its exact share.
    """
    exact = share * sizes
    given: Rows = np.minimum(np.floor(exact).astype(np.int64), limits)
    wanted = round(share * int(sizes.sum())) - int(given.sum())
    by_remainder: Rows = np.argsort(given - exact, kind="stable")
    open_groups = by_remainder[(given < limits)[by_remainder] & (given <= exact)[by_remainder]]
    given[open_groups[: max(wanted, 0)]] += 1
    return given
