"""Plans the benchmark: the precision of a size, and the batch, context and steps that its share of the time allows.

Pure functions: rates, memory and seconds are given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

WARMUP_STEPS = 2  # FLOPs are counted in the first of them
MEASURED_STEPS = 3  # at least, unless time is very short
MOST_STEPS = 30
FEWEST_STEPS = 2  # one to count FLOPs, one to measure
ENOUGH_SEC = 60.0  # of training; more does not make a row better
LARGER_BATCH_SEC = 20.0  # batches above 1 are for machines that train five of them in this time
BATCHES = (8, 4, 2, 1)
_SHORTEST_SEC = 1e-4  # of a step; also where nothing is known of it
CONTEXTS = (1024, 512, 256, 128, 64, 32, 16, 8)
# Of the memory; the rest is for the process itself and for what the prediction does not see.
USABLE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the command line fixes; None is left to the plan."""

    batch_size: int | None = None
    context_length: int | None = None
    max_steps: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The run of one size.

    Attributes:
        batch_size: Sequences in a batch.
        context_length: Tokens in a sequence.
        max_steps: Optimizer steps, including warm-up.
        warmup_steps: Number of the first steps, which are not measured.
        seconds: About how long the steps take.
    """

    batch_size: int
    context_length: int
    max_steps: int
    warmup_steps: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The precision of a size; None with the reason if it cannot be trained."""

    precision: str | None
    reason: str | None = None


def plan_of(
    wish: Wish, step_sec: Callable[[int, int], float], *, seconds: float, most_tokens: float = float("inf")
) -> Plan | None:
    """Returns the largest batch and context of which enough steps fit into the time; None if not even two do.

    Args:
        wish: What is fixed.
        step_sec: Returns about the seconds of a step of a batch size and a context length.
        seconds: The time for all steps.
        most_tokens: Tokens of the largest batch that fits into the memory.
    """
    shapes = [shape for shape in _shapes(wish) if shape[0] * shape[1] <= most_tokens] or list(_shapes(wish))[-1:]
    steps = wish.max_steps or WARMUP_STEPS + MEASURED_STEPS
    for batch_size, context_length in shapes:
        each = max(step_sec(batch_size, context_length), _SHORTEST_SEC)
        is_comfortable = batch_size == 1 or batch_size == wish.batch_size or steps * each <= LARGER_BATCH_SEC
        if steps * each <= seconds and is_comfortable:
            return _plan(batch_size, context_length, wish.max_steps or _steps_in(min(seconds, ENOUGH_SEC), each), each)
    batch_size, context_length = shapes[-1]
    each = max(step_sec(batch_size, context_length), _SHORTEST_SEC)
    fitting = int(seconds / each)
    return _plan(batch_size, context_length, fitting, each) if fitting >= FEWEST_STEPS else None


def choose_precision(precisions: Sequence[str], memory_of: Callable[[str], float], available_bytes: float) -> Choice:
    """Returns the first precision whose training fits into the memory, or the reason why none does.

    Args:
        precisions: The precisions, the fastest first.
        memory_of: Returns the bytes that the smallest step needs in a precision.
        available_bytes: The available memory.
    """
    needs = {}
    for precision in precisions:
        needs[precision] = memory_of(precision)
        if needs[precision] <= USABLE * available_bytes:
            return Choice(precision=precision, reason=_why_not(needs, available_bytes, without=precision))
    return Choice(precision=None, reason=_why_not(needs, available_bytes))


def line_through(points: Sequence[tuple[float, float]], flops: float) -> float:
    """Returns the seconds of a step of some FLOPs, by the line through the last two of the steps that were timed.

    A step has a part that does not grow with its FLOPs, the optimizer. Through one step alone, seconds grow with FLOPs.

    Args:
        points: FLOPs and seconds of the steps that were timed, the shortest first.
        flops: The FLOPs.
    """
    last_flops, last = points[-1]
    if flops <= last_flops:
        return last
    if len(points) == 1:
        return last * flops / last_flops
    before_flops, before = points[-2]
    # A step that was slow for a moment makes the line flat: at least half as steep as through the last step alone.
    slope = max((last - before) / (last_flops - before_flops), last / last_flops / 2)
    return last + slope * (flops - last_flops)


def by_speed(rates: Mapping[str, float]) -> list[str]:
    """Returns the precisions, the fastest first.

    Args:
        rates: FLOP/s in training by precision. Of equal ones bf16 is first, which needs no loss scaling.
    """
    return sorted(rates, key=lambda precision: (-rates[precision], not precision.startswith("bf16")))


def share_of(left_sec: float, sizes_left: int) -> float:
    """Returns the seconds for the next size. What it does not use is for those after it."""
    return left_sec / sizes_left


def _shapes(wish: Wish) -> Iterator[tuple[int, int]]:
    """Yields batches and contexts, the largest first: a batch above 1 only of the longest context."""
    contexts = CONTEXTS if wish.context_length is None else (wish.context_length,)
    if wish.batch_size is not None:
        yield from ((wish.batch_size, context) for context in contexts)
        return
    yield from ((batch, contexts[0]) for batch in BATCHES)
    yield from ((1, context) for context in contexts[1:])


def _plan(batch_size: int, context_length: int, steps: int, each: float) -> Plan:
    warmup_steps = WARMUP_STEPS if steps >= WARMUP_STEPS + MEASURED_STEPS else 1
    return Plan(
        batch_size=batch_size,
        context_length=context_length,
        max_steps=steps,
        warmup_steps=warmup_steps,
        seconds=steps * each,
    )


def _steps_in(seconds: float, each: float) -> int:
    return min(MOST_STEPS, max(WARMUP_STEPS + MEASURED_STEPS, int(seconds / each)))


def _why_not(needs: Mapping[str, float], available_bytes: float, without: str | None = None) -> str | None:
    too_large = [f"{size / 2**30:.1f} GiB in {precision}" for precision, size in needs.items() if precision != without]
    if not too_large:
        return None
    return f"training needs {' and '.join(too_large)}, {available_bytes / 2**30:.1f} GiB are available"
