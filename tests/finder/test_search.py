from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mfu_callback.finder.search import Outcome, find_largest

sizes = st.integers(1, 3000)
shares = st.floats(0, 0.9)
resolutions = st.one_of(st.just(0.0), st.floats(0.005, 0.2))  # peaks of one size differ by 0.2 %


def up_to(most: int | None) -> range:
    return range(1, (most or 10**9) + 1)


@dataclass
class Asked:
    """Says what fits under a limit, and remembers what it was asked.

    A size takes ``base + size`` of what the limit takes, or less where ``told`` makes the peaks lie.
    """

    limit: int
    base: float | None = None
    lies: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    def __call__(self, size: int) -> Outcome:
        self.sizes.append(size)
        return Outcome(fits=size <= self.limit, used=self._used(size))

    def _used(self, size: int) -> float | None:
        if self.base is None:
            return None
        base = self.base * self.limit
        lie = self.lies[len(self.sizes) % len(self.lies)] if self.lies else 1.0
        return lie * (base + size) / (base + self.limit + 0.5)


def assert_found(asked: Asked, found: int | None, *, max_size: int | None = None, resolution: float = 0.0) -> None:
    """The result ran; what is one step above it failed, or is the end."""
    assert len(set(asked.sizes)) == len(asked.sizes)
    largest = min(asked.limit, max_size or asked.limit)
    assert found is not None
    assert found in asked.sizes
    assert found <= largest <= found + max(0, int(resolution * found) - 1) or found == largest


@pytest.mark.parametrize("base", [None, 0.0, 0.1, 3.0], ids="base={}".format)
@pytest.mark.parametrize("init_size", [1, 2, 64])
@pytest.mark.parametrize("max_size", [None, 1, 5, 64, 299, 1000])
def test_every_limit_is_found_exactly_without_a_resolution(
    init_size: int, max_size: int | None, base: float | None
) -> None:
    for limit in range(1, 301):
        asked = Asked(limit, base)
        found = find_largest(asked, init_size=init_size, sizes=up_to(max_size), resolution=0)
        assert_found(asked, found, max_size=max_size)
        assert found == max_size or (found or 0) + 1 in asked.sizes


@pytest.mark.parametrize("base", [None, 0.1], ids="base={}".format)
@pytest.mark.parametrize("limit", [*range(1, 301), 999, 4321, 44_481, 10**6])
def test_the_default_resolution_is_one_percent_and_exact_below_a_hundred(limit: int, base: float | None) -> None:
    asked = Asked(limit, base)
    found = find_largest(asked)
    assert_found(asked, found, resolution=0.01)
    assert found == limit or limit >= 100


@given(sizes, sizes, st.one_of(st.none(), sizes), resolutions, st.lists(st.floats(0.2, 5), max_size=7), shares)
@example(limit=2555, init_size=1, max_size=None, resolution=0.0, lies=[3.0, 0.203125], base=0.75)
@settings(max_examples=500, deadline=None)
def test_whatever_the_peaks_say_the_result_ran_and_the_next_failed(
    limit: int, init_size: int, max_size: int | None, resolution: float, lies: list[float], base: float
) -> None:
    asked = Asked(limit, base, lies)
    found = find_largest(asked, init_size=init_size, sizes=up_to(max_size), resolution=resolution)
    assert_found(asked, found, max_size=max_size, resolution=resolution)
    assert found == max_size or any((found or 0) < size <= (found or 0) * (1 + resolution) + 1 for size in asked.sizes)
    assert len(asked.sizes) <= 4 * math.log2(max(limit, init_size) + 1) + 8


@given(st.integers(1, 100_000), st.floats(0, 3), st.floats(-0.001, 0.001))
@settings(max_examples=300, deadline=None)
def test_where_memory_is_linear_a_few_attempts_are_enough(limit: int, base: float, noise: float) -> None:
    asked = Asked(limit, base, [1.0, 1.0 + noise, 1.0 - noise])
    find_largest(asked)
    assert len(asked.sizes) <= 8


@given(st.integers(1, 2000), st.sampled_from([1, 8, 64]))
@settings(max_examples=200, deadline=None)
def test_only_multiples_are_asked_for(limit: int, multiple: int) -> None:
    asked = Asked(limit, 0.2)
    found = find_largest(asked, sizes=range(multiple, 10_000, multiple), resolution=0)
    assert all(size % multiple == 0 for size in asked.sizes)
    assert (found or 0) == limit // multiple * multiple


@given(st.integers(1, 50_000), st.floats(0, 5))
@settings(max_examples=300, deadline=None)
def test_predicted_sizes_alone_never_fail_where_memory_is_linear(limit: int, base: float) -> None:
    asked = Asked(limit, base)
    at_zero = base * limit / (base * limit + limit + 0.5)
    found = find_largest(asked, init_size=1, predicted_only=True, used_at_zero=at_zero)
    assert max(asked.sizes) <= limit
    assert found == max(asked.sizes)
    assert limit <= (found or 0) * 1.02 + 1


def test_sizes_that_are_predicted_need_peaks() -> None:
    with pytest.raises(ValueError, match="peak at size 2"):
        find_largest(Asked(10), predicted_only=True)


def test_a_size_beyond_the_limit_though_it_was_predicted_is_stepped_back_from() -> None:
    asked = Asked(100, 0.1, [0.9])  # tells a tenth too little
    found = find_largest(asked, predicted_only=True, resolution=0)
    assert found == 100


@pytest.mark.parametrize("resolution", [0, 0.01, 0.1])
def test_without_peaks_it_doubles_and_bisects(resolution: float) -> None:
    for limit in range(1, 2000):
        asked = Asked(limit)
        find_largest(asked, init_size=1, resolution=resolution)
        assert len(asked.sizes) <= 2 * math.log2(limit) + 2


@given(st.lists(st.integers(1, 3000), min_size=1, unique=True), sizes, st.one_of(st.none(), shares))
@settings(max_examples=300, deadline=None)
def test_only_the_sizes_given_are_asked_for(given_sizes: list[int], limit: int, base: float | None) -> None:
    asked, some = Asked(limit, base), sorted(given_sizes)
    found = find_largest(asked, sizes=some, resolution=0)
    assert set(asked.sizes) <= set(some)
    assert found == max((size for size in some if size <= limit), default=None)


@dataclass
class Lines:
    """What sizes are foreseen to use: the larger of two lines."""

    fixed: tuple[float, float]
    per_size: tuple[float, float]

    def peak(self, size: float) -> float:
        return max(f + p * size for f, p in zip(self.fixed, self.per_size, strict=True))

    def largest_within(self, peak: float) -> float:
        if self.peak(0) > peak:
            return 0.0
        return min((peak - f) / p if p else math.inf for f, p in zip(self.fixed, self.per_size, strict=True))


def attempts_with(
    foreseen: Lines, real: Callable[[int], float], *, resolution: float = 0.01, most: int = 10**6
) -> tuple[int | None, list[int]]:
    tried: list[int] = []

    def attempt(size: int) -> Outcome:
        tried.append(size)
        return Outcome(fits=real(size) <= 1, used=min(real(size), 1.0))

    return find_largest(attempt, sizes=up_to(most), foreseen=foreseen, resolution=resolution), tried


@pytest.mark.parametrize("resolution", [0, 0.01])
@pytest.mark.parametrize("limit", [3, 30, 300, 3000, 48_774])
@pytest.mark.parametrize("base", [0.0, 0.3, 0.9])
def test_what_is_foreseen_ends_after_three_attempts(base: float, limit: int, resolution: float) -> None:
    # At small sizes the optimizer's line is the higher one: those alone foresee nothing.
    lines = Lines((base + 0.05, base), (0.0, (1 - base) / (limit + 0.5)))
    found, tried = attempts_with(lines, lambda size: lines.peak(size) + 0.02 / (1 + limit), resolution=resolution)
    assert found is not None
    assert found <= limit <= found * (1 + resolution * (2 if base == 0.9 else 1)) + 1
    assert len(tried) <= 3


@given(st.integers(1, 10**6), st.floats(0, 0.95), st.floats(0.8, 1.2), st.floats(0, 0.04), st.floats(0.0, 0.2))
@settings(max_examples=500, deadline=None)
def test_what_is_foreseen_wrongly_does_no_harm(
    limit: int, base: float, factor: float, left_out: float, step: float
) -> None:
    per_size = (1 - base) / (limit + 0.5)
    lines = Lines((base * (1 - left_out), base + step), (factor * per_size, 0.0))
    found, tried = attempts_with(lines, lambda size: base + per_size * size, most=2 * 10**6)
    assert found is not None
    assert found <= limit < found * (1.01 if base < 0.7 else 1.05) + 1
    assert len(tried) <= 2 * math.log2(limit + 1) + 8


def test_a_size_that_fails_though_it_was_foreseen_is_stepped_back_from_once() -> None:
    lines = Lines((0.1, 0.1), (0.9 / 10_000, 0.0))
    found, tried = attempts_with(lines, lambda size: lines.peak(size) + 0.01 * size / 10_000)  # grows by 1 % more
    assert found is not None
    assert found <= 9890 <= found * 1.01 + 1
    assert len(tried) <= 3


def test_nothing_above_the_largest_size_allowed_is_asked_for() -> None:
    asked = Asked(10**9)
    assert find_largest(asked, init_size=2, sizes=up_to(100)) == 100
    assert asked.sizes == [2, 4, 8, 16, 32, 64, 100]


def test_nothing_that_fits_is_none_and_one_was_tried() -> None:
    asked = Asked(0)
    assert find_largest(asked, init_size=16) is None
    assert asked.sizes == [16, 8, 4, 2, 1]


def test_nothing_larger_than_a_failure_is_asked_for() -> None:
    asked = Asked(37, 0.1)
    find_largest(asked)
    failed = math.inf
    for size in asked.sizes:
        assert size < failed
        failed = failed if size <= 37 else size


def test_when_time_is_over_the_largest_so_far_is_taken_but_one_must_fit() -> None:
    asked = Asked(3)
    assert find_largest(asked, init_size=16, is_over=lambda: True) == 2
    assert asked.sizes == [16, 8, 4, 2]


def test_a_flat_line_through_two_close_sizes_does_not_make_a_size_predicted() -> None:
    peaks = {2: 10.9, 19: 79.6, 22: 91.1, 23: 95.1}  # MiB of a limit of 95: measured on a sharded GPT
    tried: list[int] = []

    def attempt(size: int) -> Outcome:
        tried.append(size)
        used = peaks.get(size, 4.1 * size + 2.5)
        return Outcome(fits=used <= 95, used=used / 95)

    found = find_largest(attempt, predicted_only=True, used_at_zero=0.012)
    assert found == 22
    assert tried == [2, 19, 22]
