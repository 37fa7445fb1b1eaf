"""A law for the FLOPs of batches of one structure, fitted to those that were counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations_with_replacement

import numpy as np

_Rows = np.ndarray  # (N, F)
_SPARE = 2  # counts beyond the law's coefficients, without which its error is not known


class ShapeLaw:
    """FLOPs as a polynomial in the sizes of a batch, by least squares.

    Each sample takes FLOPs of second order in the sizes that vary: a Transformer's are ``a T + b T^2`` for T tokens, a
    convolution's ``a H W``. Batches of many tensors of their own sizes (a list of images) follow the sums of the
    tensors' elements and of their squares. Of these laws, the one that tells each count best from the others is taken.

    Args:
        samples: Number of samples of each counted batch, (N,).
        shapes: The shapes of each one's tensors; every batch has as many, of the same ranks.
        flops: FLOPs of each, (N,).

    Attributes:
        error: The largest relative error with which the law, fitted to the other counts, tells one; infinite if there
            are too few of them.
    """

    def __init__(
        self, samples: Sequence[int], shapes: Sequence[tuple[tuple[int, ...], ...]], flops: Sequence[float]
    ) -> None:
        self.error = float("inf")
        counted, values = list(zip(samples, shapes, strict=True)), np.asarray(flops, float)
        if not counted:
            return
        varying = _varying(counted)
        for features in (_per_sample(varying), _of_sums):
            rows = features(counted)
            fitted = _fit(rows, values)
            if fitted is not None and fitted[1] < self.error:
                self._features, (self._coefficients, self.error) = features, fitted

    def flops(self, samples: int, shapes: tuple[tuple[int, ...], ...]) -> float:
        """The FLOPs of a batch by the law, whose error must be finite."""
        return float((self._features([(samples, shapes)]) @ self._coefficients)[0])


_Counted = tuple[int, tuple[tuple[int, ...], ...]]  # samples, and the shapes of the tensors
_Features = Callable[[Sequence[_Counted]], _Rows]


def _sizes(counted: Sequence[_Counted]) -> np.ndarray:
    """All dimensions of all tensors, (N, D)."""
    return np.array([[size for shape in shapes for size in shape] for _, shapes in counted], float)


def _varying(counted: Sequence[_Counted]) -> list[int]:
    """The dimensions that vary other than the samples do, one of those that always agree."""
    sizes, samples = _sizes(counted), np.array([number for number, _ in counted], float)
    kept: list[int] = []
    for number, column in enumerate(sizes.T):
        others = [samples, *(sizes[:, other] for other in kept)]
        if np.ptp(column) and not any(np.array_equal(column, other) for other in others):
            kept.append(number)
    return kept


def _per_sample(varying: list[int]) -> _Features:
    """Samples times 1, each varying size and each product of two."""

    def features(counted: Sequence[_Counted]) -> _Rows:
        samples = np.array([number for number, _ in counted], float)
        sizes = _sizes(counted)[:, varying]
        pairs = combinations_with_replacement(range(len(varying)), 2)
        columns = [np.ones(len(counted)), *sizes.T, *(sizes[:, one] * sizes[:, two] for one, two in pairs)]
        rows: _Rows = np.stack(columns, 1) * samples[:, None]
        return rows

    return features


def _of_sums(counted: Sequence[_Counted]) -> _Rows:
    """Samples, and the sums of the tensors' elements and of their squares."""
    elements = [np.array([np.prod(shape, dtype=float) for shape in shapes]) for _, shapes in counted]
    return np.array(
        [[number, one.sum(), np.square(one).sum()] for (number, _), one in zip(counted, elements, strict=True)]
    )


def _fit(rows: _Rows, values: np.ndarray) -> tuple[np.ndarray, float] | None:
    """Coefficients, and the largest relative error of a value that is left out; None if there are too few values."""
    scale = np.abs(rows).max(0, initial=0)
    used = scale > 0
    scaled = rows[:, used] / scale[used] / values[:, None]  # relative errors are to be small
    if len(values) < np.linalg.matrix_rank(scaled) + _SPARE:
        return None
    inverse = np.linalg.pinv(scaled)
    leverage = np.einsum("nf,fn->n", scaled, inverse)
    residuals = 1 - scaled @ inverse.sum(1)
    errors = np.abs(residuals) / np.maximum(1 - leverage, 1e-9)
    coefficients = np.zeros(rows.shape[1])
    coefficients[used] = inverse.sum(1) / scale[used]
    return coefficients, float(errors.max())
