"""What cuBLASLt's ReLU does that no document states: tried on the device, once for each recipe.

Another shape, or alignment, is another kernel of the library, which may answer otherwise. A trial that fails counts
as no.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from gpumlp.backend.cuda.cublaslt import MAX_ALIGNMENT, Epilogue, Product, aligned
from gpumlp.backend.kernels import address
from gpumlp.errors import BackendError
from gpumlp.ops.record import Array

log = logging.getLogger(__name__)


class Trials:
    """The answers of one device. ``product`` binds a product to its arrays, in the context ``quiet``."""

    def __init__(
        self, xp: Any, quiet: Callable[[], AbstractContextManager[Any]], product: Callable[..., Product | None]
    ) -> None:
        self._xp, self._quiet, self._product = xp, quiet, product
        self._keeps_nan: dict[Any, bool] = {}

    def keeps_nan(self, x: Array, W: Array, b: Array) -> bool:
        """Return whether its ReLU of ``x W + b`` passes NaN on, as ours does, for matrices that lie so."""
        key = x.dtype, *((array.shape, array.strides, aligned(address(array))) for array in (x, W, b))
        if key not in self._keeps_nan:
            try:
                with self._quiet():
                    self._keeps_nan[key] = self._relu_of_nan_is_nan(x, W, b)
            except BackendError as error:
                log.info("cannot find out whether cuBLASLt keeps NaN: %s", error.what)
                self._keeps_nan[key] = False
        return self._keeps_nan[key]

    def _relu_of_nan_is_nan(self, x: Array, W: Array, b: Array) -> bool:
        """Multiply, with a bias of NaN aligned as the given one; without such a product the answer is no."""
        alignment = aligned(address(b))
        before = 0 if alignment == MAX_ALIGNMENT else alignment // b.itemsize
        bias = self._xp.asarray(np.full(before + b.size, np.nan).astype(b.dtype))[before:]
        out = self._xp.empty((x.shape[0], W.shape[1]), x.dtype)
        product = self._product(x, W, out, Epilogue.RELU_BIAS, bias)
        if product is None:
            return False
        product()
        return bool(np.isnan(self._xp.asnumpy(product.out).astype(np.float64)).all())
