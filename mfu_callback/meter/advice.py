"""What to change in a run: settings that leave its device unused, then the largest loss in its waterfall."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

# A loop's own work for a step (hooks, metrics, progress bar) takes about a millisecond; the parts of a step that is not
# much longer say nothing about the model.
SHORTEST_STEP_SEC = 0.005
# Before everything else.
ABOVE_ONE = (
    "MFU cannot exceed 1, so the peak, the FLOPs or the time is wrong: a warning in the log has the likely causes."
)


class Advice(NamedTuple):
    """Advice for one part of the waterfall.

    Attributes:
        part: Name of the part.
        above: The advice is given if the part's share is at least this.
        fact: What the share means; follows the percentage.
        remedy: What to try.
    """

    part: str
    above: float
    fact: str
    remedy: str


ADVICE = (
    Advice("data", 0.05, "of the time is spent waiting for data", "more workers (num_workers), or pin_memory"),
    Advice("optimizer", 0.10, "of the time is spent in the optimizer", "fused=True, or larger batches"),
    Advice("other", 0.05, "of the time is spent in callbacks and logging", "log less often, or look at the callbacks"),
    Advice(
        "kernels",
        0.20,
        "of the machine is lost because forward and backward run below the rate of its best matmuls",
        "larger batches, torch.compile, or fused attention",
    ),
    Advice(
        "unreachable",
        0.25,
        "of the peak is out of reach of every matmul on this device",
        "check its power limit, its clocks and its cooling",
    ),
)


def advice_of_run(
    hints: Sequence[str], waterfall: Mapping[str, float] | None, step_time_sec: float | None
) -> str | None:
    """The sentences that a run's figures call for, one a line; None if there are none.

    Args:
        hints: Sentences on settings of the run, which come first (`mfu_callback.peaks.hints`).
        waterfall: The share of each part; None if unknown.
        step_time_sec: Seconds of a step; None if unknown.
    """
    is_long_enough = step_time_sec is not None and step_time_sec >= SHORTEST_STEP_SEC
    loss = advice_for(waterfall) if waterfall and is_long_enough else None
    return "\n".join([*hints, *([] if loss is None else [loss])]) or None


def advice_for(waterfall: Mapping[str, float]) -> str | None:
    """One sentence about the largest loss; None if it is small.

    Args:
        waterfall: The share of each part.

    Example:
        >>> advice_for({"mfu": 0.4, "data": 0.41, "optimizer": 0.1, "other": 0.09, "kernels": 0, "unreachable": 0})
        '41 % of the time is spent waiting for data: more workers (num_workers), or pin_memory.'
    """
    largest = max(ADVICE, key=lambda advice: waterfall[advice.part])
    share = waterfall[largest.part]
    if share < largest.above:
        return None
    return f"{100 * share:.0f} % {largest.fact}: {largest.remedy}."
