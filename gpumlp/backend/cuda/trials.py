"""What cuBLASLt's ReLU does that no document states: tried on the device, once for each dtype.

A trial that fails counts as no.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from gpumlp.backend.cuda.cublaslt import Epilogue, Product
from gpumlp.errors import BackendError

TRIAL_SIZE = 40
"""Rows and columns of the matrices that are tried: more than the 32 of a warp."""

log = logging.getLogger(__name__)


class Trials:
    """The answers of one device. ``product`` binds a product to its arrays, in the context ``quiet``."""

    def __init__(
        self, xp: Any, quiet: Callable[[], AbstractContextManager[Any]], product: Callable[..., Product | None]
    ) -> None:
        self._xp, self._quiet, self._product = xp, quiet, product
        self._keeps_nan: dict[Any, bool] = {}

    def keeps_nan(self, dtype: Any) -> bool:
        """Return whether its ReLU passes NaN on, as ours does."""
        if dtype not in self._keeps_nan:
            try:
                with self._quiet():
                    self._keeps_nan[dtype] = self._relu_of_nan_is_nan(dtype)
            except BackendError as error:
                log.info("cannot find out whether cuBLASLt keeps NaN: %s", error.what)
                self._keeps_nan[dtype] = False
        return self._keeps_nan[dtype]

    def _relu_of_nan_is_nan(self, dtype: Any) -> bool:
        """Multiply zeros, with a bias of NaN; without such a product the answer is no."""
        zeros, out = (self._xp.asarray(np.zeros((TRIAL_SIZE, TRIAL_SIZE), dtype)) for _ in range(2))
        bias = self._xp.asarray(np.full(TRIAL_SIZE, np.nan).astype(dtype))
        product = self._product(zeros, zeros, out, Epilogue.RELU_BIAS, bias)
        if product is None:
            return False
        product()
        return bool(np.isnan(self._xp.asnumpy(product.out).astype(np.float64)).all())
