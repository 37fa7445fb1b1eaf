from __future__ import annotations

import math

import pytest

from mfu_callback.finder.search import find_largest


class Asked:
    """Says what fits under a limit, and remembers what it was asked."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.sizes: list[int] = []

    def __call__(self, size: int) -> bool:
        self.sizes.append(size)
        return size <= self.limit


@pytest.mark.parametrize("init_size", [1, 2, 3, 7, 64, 300])
@pytest.mark.parametrize("max_size", [None, 1, 2, 5, 64, 100, 299, 1000])
def test_every_limit_is_found_exactly_without_a_resolution(init_size: int, max_size: int | None) -> None:
    for limit in range(1, 301):
        asked = Asked(limit)
        found = find_largest(asked, init_size=init_size, max_size=max_size, resolution=0)
        assert found == min(limit, max_size or limit)
        assert found in asked.sizes
        assert found == max_size or found + 1 in asked.sizes


@pytest.mark.parametrize("limit", [*range(1, 301), 999, 4321, 44_481, 10**6])
def test_the_default_resolution_is_one_percent_and_exact_below_a_hundred(limit: int) -> None:
    asked = Asked(limit)
    found = find_largest(asked)
    assert found is not None
    assert found <= limit <= found * 1.01
    assert found == limit or limit >= 100
    assert found in asked.sizes


@pytest.mark.parametrize("resolution", [0, 0.01, 0.1])
def test_no_size_is_asked_for_twice_and_trials_grow_with_the_logarithm(resolution: float) -> None:
    for limit in range(1, 2000):
        asked = Asked(limit)
        find_largest(asked, init_size=1, resolution=resolution)
        assert len(set(asked.sizes)) == len(asked.sizes)
        assert len(asked.sizes) <= 2 * math.log2(limit) + 2


def test_nothing_above_the_largest_size_allowed_is_asked_for() -> None:
    asked = Asked(10**9)
    assert find_largest(asked, init_size=2, max_size=100) == 100
    assert asked.sizes == [2, 4, 8, 16, 32, 64, 100]


def test_nothing_that_fits_is_none_and_one_was_tried() -> None:
    asked = Asked(0)
    assert find_largest(asked, init_size=16) is None
    assert asked.sizes == [16, 8, 4, 2, 1]


def test_nothing_larger_than_a_failure_is_asked_for() -> None:
    asked = Asked(37)
    find_largest(asked)
    failed = math.inf
    for size in asked.sizes:
        assert size < failed
        failed = failed if size <= 37 else size
