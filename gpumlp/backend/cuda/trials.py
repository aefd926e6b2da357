"""What cuBLASLt's epilogues do that no document says: tried on the device, once for each dtype, and checked.

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
from gpumlp.ops.masks import mask_shape
from gpumlp.ops.record import Array

ASKED = 40
"""Rows and columns of what the device is asked with: more than 32, and fewer than a mask has room for."""
GRADIENT = np.resize([1.0, -2.0, 3.0, np.inf, np.nan], (ASKED, 1))
"""That of each row: what a mask does not let through must become 0 whatever it is."""

log = logging.getLogger(__name__)


class Trials:
    """The answers of one device. ``product`` binds a product to its arrays, in the context ``quiet``."""

    def __init__(
        self, xp: Any, quiet: Callable[[], AbstractContextManager[Any]], product: Callable[..., Product | None]
    ) -> None:
        self._xp, self._quiet, self._product = xp, quiet, product
        self._answers: dict[tuple[str, Any], bool] = {}

    def keeps_nan(self, dtype: Any) -> bool:
        """Tell whether its ReLU lets NaN through, as ours does."""
        y = np.full((ASKED, ASKED), np.nan)
        return self._answer("keeps NaN", dtype, lambda: _same(self._relu(dtype, y[0], Epilogue.RELU_BIAS), y))

    def leaves_masks(self, dtype: Any) -> bool:
        """Tell whether its ReLU, besides, leaves a mask that it takes a gradient through."""
        signs = np.resize([1.0, -1.0, 0.0, 2.0, -3.0, np.nan], ASKED)
        known = signs == signs  # a gradient of NaN may go through or not

        def right() -> bool:
            mask = self._xp.asarray(np.zeros(mask_shape(ASKED, ASKED), np.uint8))
            y = self._relu(dtype, signs, Epilogue.RELU_AUX_BIAS, mask)
            dz = self._through(dtype, mask)
            wanted = _blocked(np.tile(signs > 0, (ASKED, 1)))
            return _same(y, np.tile(np.maximum(signs, 0), (ASKED, 1))) and _same(dz, wanted, known)

        return self._answer("leaves masks", dtype, right)

    def reads_masks(self, dtype: Any) -> bool:
        """Tell whether it takes a gradient through a mask of our own making."""
        passed = np.resize([1, 0, 0, 1, 1, 0, 1], (ASKED, ASKED))

        def right() -> bool:
            bits = np.zeros(mask_shape(ASKED, ASKED), np.uint8)
            packed = np.packbits(passed.astype(np.uint8), axis=1, bitorder="little")
            bits[:, : packed.shape[1]] = packed
            return _same(self._through(dtype, self._xp.asarray(bits)), _blocked(passed == 1))

        return self._answer("reads masks", dtype, right)

    def _answer(self, question: str, dtype: Any, ask: Callable[[], bool]) -> bool:
        if (question, dtype) not in self._answers:
            try:
                with self._quiet():
                    self._answers[question, dtype] = ask()
            except BackendError as error:
                log.info("cuBLASLt does not say whether it %s: %s", question, error.what)
                self._answers[question, dtype] = False
        return self._answers[question, dtype]

    def _relu(self, dtype: Any, bias: Any, epilogue: Epilogue, mask: Array | None = None) -> Any:
        """Return what its ReLU makes of zeros and a bias, (ASKED, ASKED), or None where there is no such product."""
        zeros, out = (self._xp.asarray(np.zeros((ASKED, ASKED), dtype)) for _ in range(2))
        return self._made(self._product(zeros, zeros, out, epilogue, self._xp.asarray(bias.astype(dtype)), mask))

    def _through(self, dtype: Any, mask: Array) -> Any:
        """Return what it lets through a mask of GRADIENT in every column, or None where there is no such product."""
        ones, out = np.ones((1, ASKED), dtype), self._xp.asarray(np.zeros((ASKED, ASKED), dtype))
        a, b = self._xp.asarray(GRADIENT.astype(dtype)), self._xp.asarray(ones)
        return self._made(self._product(a, b, out, Epilogue.DRELU, None, mask))

    def _made(self, product: Product | None) -> Any:
        if product is None:
            return None
        product()
        return self._xp.asnumpy(product.out).astype(np.float64)


def _blocked(passed: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the gradient that is asked about, 0 where a mask does not let it through."""
    return np.where(passed, GRADIENT, 0.0)


def _same(found: Any, wanted: np.ndarray[Any, Any], columns: Any = ...) -> bool:
    return found is not None and np.array_equal(found[:, columns], wanted[:, columns], equal_nan=True)
