"""The search for the largest size that fits: pure, and told by a function what fits."""

from __future__ import annotations

from collections.abc import Callable


def find_largest(
    fits: Callable[[int], bool], *, init_size: int = 2, max_size: int | None = None, resolution: float = 0.01
) -> int | None:
    """Find the largest size that fits by doubling, then bisection.

    No size is asked for twice, and what is returned was asked for and fitted.

    Args:
        fits: Whether a size fits; larger sizes than one that does not fit are never asked for.
        init_size: The first size.
        max_size: No size above this one is asked for.
        resolution: The search ends when the smallest size that failed is no more than this share above the largest
            that fitted; below ``1 / resolution`` the result is exact, and with 0 it always is.

    Returns:
        The largest size known to fit, or None if not even 1 does.

    Example:
        >>> find_largest(lambda size: size <= 37)
        37
    """
    fitted, failed = 0, None
    size = init_size if max_size is None else min(init_size, max_size)
    while True:
        if fits(size):
            fitted = size
        else:
            failed = size
        if failed is not None and failed - fitted <= max(1, resolution * fitted):
            return fitted or None
        if fitted == max_size:
            return fitted
        if failed is not None:
            size = (fitted + failed) // 2
        else:
            size = 2 * fitted if max_size is None else min(2 * fitted, max_size)
