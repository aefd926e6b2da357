"""Rows whose categories are codes, as a dense layer takes them: it reads its weights by code.

Everything else that computes with such rows gets the matrix of 0 and 1 that they stand for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeGuard

from gpumlp.autodiff.tape import Want
from gpumlp.autodiff.tensor import Tensor, wrap
from gpumlp.backend.base import Backend, place_of
from gpumlp.ops.batches import CODE_SUM, EXPAND
from gpumlp.ops.precision import is_floating, is_narrow
from gpumlp.ops.record import Array, Op


class CodedRows(Tensor):
    """Rows of ``width`` features, most of them 0 or 1, (N, width): a tensor that is made when it is read.

    Parameters
    ----------
    stored : (N, d + q) on the backend, float32 or float64
        The first d features, then q numbers that say which of the features d to ``width`` - 1 are 1, any other
        number for none. No two of a row are the same.
    dense
        d.
    width
        Number of features.
    dtype
        Of the features.
    """

    __slots__ = ("_features", "_numbers", "_width", "dense", "kept_dtype", "stored")

    def __init__(self, stored: Array, dense: int, width: int, dtype: Any, backend: Backend) -> None:
        self.backend, self.name, self.unit, self.view_of = backend, "", False, None
        self.stored, self.dense, self._width, self.kept_dtype = stored, dense, width, dtype
        self._features: Array | None = None
        self._numbers: Array | None = None

    @property
    def array(self) -> Array:
        """All features."""
        if self._features is None:
            self._features = self._first(self._width)
        return self._features

    def _first(self, width: int) -> Array:
        """Return the first features of the rows."""
        (x,) = self.backend.run(
            EXPAND, "forward", (self.stored,), dense=self.dense, width=width, dtype=self.kept_dtype
        )
        return x

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.stored), self._width

    @property
    def ndim(self) -> int:
        return 2

    @property
    def dtype(self) -> Any:
        return self.kept_dtype

    @property
    def differentiable(self) -> bool:
        return is_floating(self.kept_dtype)

    def sharing(self, array: Array) -> Any:
        return wrap(array, self.backend)

    def __reduce__(self) -> Any:
        return wrap(self.array, self.backend).__reduce__()

    # ---- a dense layer -----------------------------------------------------------------------------------------

    @property
    def numbers(self) -> Array:
        """The features that are not stored as codes, (N, d)."""
        if self._numbers is None:
            self._numbers = self._first(self.dense)
        return self._numbers

    def times(self, W: Array) -> Array:
        """Return the product with weights (width, H): that of the numbers, and a row of ``W`` for each code."""
        z = self.backend.matmul(self.numbers, W[: self.dense]) if self.dense else None
        (z,) = self.backend.run(CODE_SUM, "forward", (z, self.stored, W), (z,), dense=self.dense)
        return z

    def product_backward(self, W: Array, dz: Array, wants: Sequence[Want]) -> tuple[Array | None, Array | None]:
        """Return the gradients of the features and of ``W`` from that of :meth:`times`, as :class:`Backend` does."""
        want_x, want_W = wants
        dx = self.backend.matmul(dz, W.T) if want_x is not False else None
        if want_W is False:
            return dx, None
        dW = place_of(want_W)
        dW = self.backend.allocate(W.shape, dz.dtype) if dW is None else dW
        if self.dense:
            self.backend.matmul(self.numbers.T, dz, dW[: self.dense])
        below = {"dense": self.dense, "features": self._width}
        self.backend.run(CODE_SUM, "backward", (self.stored, dz), (dW[self.dense :],), **below)
        return dx, dW

    def dense_forward(self, op: Op, W: Array, b: Array) -> tuple[Array, Array | None]:
        """Return what :meth:`Backend.dense` does."""
        product = self.times(W)
        y, z = self.backend.run(op, "bias_forward", (product, b), (product, None))
        return y, z

    def dense_backward(
        self, op: Op, W: Array, saved: Array, dy: Array, wants: Sequence[Want]
    ) -> tuple[Array | None, Array | None, Array | None]:
        """Return what :meth:`Backend.dense_backward` does."""
        want_x, want_W, want_b = wants
        dz, db = self.backend.run(op, "bias_backward", (saved, dy), (None, place_of(want_b)))
        return *self.product_backward(W, dz, (want_x, want_W)), db if want_b is not False else None


MIN_VALUES_PER_CODE = 48
"""Features for each code of a row from which on reading weights by code takes less time than the product."""


def is_read_by_code(x: Any) -> TypeGuard[CodedRows]:
    """Return whether a dense layer reads its weights by the codes of these rows, and does not multiply all features.

    It does where categories have many values. In bfloat16 it never does: that product is made for tiles and tensor
    cores, and is rounded once.
    """
    if not isinstance(x, CodedRows) or is_narrow(x.dtype):
        return False
    values, codes = x.shape[1] - x.dense, int(x.stored.shape[1]) - x.dense
    return values >= MIN_VALUES_PER_CODE * codes
