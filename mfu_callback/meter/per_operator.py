"""The operators of a batch beside what they compute and move, and what the waterfall's part "kernels" consists of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mfu_callback.flops.operator_calls import ATTENTION, MATMUL, MEMORY, TRANSFER, Calls, Shapes, kind_of_name
from mfu_callback.meter.operator_times import BACKWARD, FORWARD, Operator, Times

KERNEL_KINDS = {MATMUL: "matmuls", ATTENTION: "attention", MEMORY: "memory", TRANSFER: "transfers"}
GAPS = "gaps"
NO_OPERATOR = "no operator"

Known = Mapping[tuple[str, Shapes], Calls]


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorFigures:
    """One operator in one phase of a batch; means over the batches that were profiled.

    Attributes:
        name: Its name, as torch's profiler reports it; "compiled code" is what a compiler has made, and "no operator"
            the time of the phase in which none ran.
        kind: "matmul", "attention", "memory", "transfer", "other" for what only costs the host time, or "gap" for that
            of no operator.
        phase: "forward", "backward", "optimizer" or "other".
        calls: Number of calls.
        sec: Seconds, without the operators that it calls.
        share: Share of the time of all operators and of the gaps between them.
        flops: FLOPs that really run; None if unknown.
        bytes: Bytes of the tensors that it reads and writes; None if unknown.
        roofline: The rate that it reaches over the best of its kind: that of a matmul of its shape class and dtype, or
            of the device's copies, above 1 where caches hold the tensors; None if unknown.
    """

    name: str
    kind: str
    phase: str
    calls: float
    sec: float
    share: float
    flops: float | None
    bytes: float | None
    roofline: float | None


def operator_figures(
    times: Times, known: Known, best_sec: Callable[[Calls], float | None]
) -> tuple[OperatorFigures, ...]:
    """The figures of each operator in each phase and of the time in which none ran, the longest first.

    Those of a phase sum to its time.

    Args:
        times: The times of some steps.
        known: What calls of operators compute and move (`OperatorCalls.known`).
        best_sec: Seconds that a call would take at the best rate of its kind; None if unknown.
    """
    gaps = {phase: sec - _ran_sec(times, phase) for phase, sec in times.phases_sec.items()}
    whole = sum(took.seconds for took in times.operators.values()) + sum(max(sec, 0.0) for sec in gaps.values())
    groups: dict[tuple[str, str], list[Operator]] = {}
    for operator in times.operators:
        groups.setdefault((operator.name, operator.phase), []).append(operator)
    figures = [_figures(times, known, best_sec, group, whole) for group in groups.values()]
    figures += [_gap(phase, sec / times.steps, sec / whole) for phase, sec in gaps.items() if sec > 0]
    return tuple(sorted((one for one in figures if one.sec > 0), key=lambda one: -one.sec))


def _figures(
    times: Times, known: Known, best_sec: Callable[[Calls], float | None], group: list[Operator], whole: float
) -> OperatorFigures:
    took = [times.operators[operator] for operator in group]
    seen = [known.get((operator.name, operator.shapes)) for operator in group]
    sec, calls = sum(one.seconds for one in took), sum(one.calls for one in took)
    pairs = list(zip(took, seen, strict=True))
    flops = [None if one is None or one.flops is None else of.calls * one.flops / one.calls for of, one in pairs]
    moved = [None if one is None else of.calls * one.bytes / one.calls for of, one in pairs]
    best = [(of.seconds, of.calls * limit) for of, one in pairs if one is not None and (limit := best_sec(one))]
    best_took = sum(took for took, _ in best)
    kind = next((one.kind for one in seen if one is not None), kind_of_name(group[0].name))
    roofline = sum(limit for _, limit in best) / best_took if best_took > 0 else None
    if roofline is not None and kind in (MATMUL, ATTENTION):  # what the run has reached, the best matmul reaches too
        roofline = min(roofline, 1.0)
    return OperatorFigures(
        name=group[0].name,
        kind=kind,
        phase=group[0].phase,
        calls=calls / times.steps,
        sec=sec / times.steps,
        share=sec / whole if whole else 0.0,
        flops=_times(1 / times.steps, _sum(flops)),
        bytes=_times(1 / times.steps, _sum(moved)),
        roofline=roofline,
    )


def _ran_sec(times: Times, phase: str) -> float:
    return sum(took.seconds for operator, took in times.operators.items() if operator.phase == phase)


def _gap(phase: str, sec: float, share: float) -> OperatorFigures:
    return OperatorFigures(
        name=NO_OPERATOR,
        kind="gap",
        phase=phase,
        calls=0.0,
        sec=sec,
        share=share,
        flops=None,
        bytes=None,
        roofline=None,
    )


def kernels_split(
    times: Times, known: Known, kernels: float, achievable_sec: Callable[[Calls], float]
) -> dict[str, float] | None:
    """What the part "kernels" of the waterfall consists of; None if its operators are not known.

    Args:
        times: The times of some steps.
        known: What calls of operators compute and move.
        kernels: The part, a fraction of the machine.
        achievable_sec: Seconds that the FLOPs of one call would take at the achievable peak.

    Returns:
        ``matmuls`` and ``attention`` beyond the best matmul, ``memory`` (operators that compute no product, which
        perfect fusion would save at most), ``transfers`` between devices, and ``gaps``, in which no operator ran. They
        sum to the part.
    """
    lost = dict.fromkeys((*KERNEL_KINDS.values(), GAPS), 0.0)
    ran = 0.0
    for operator, took in times.operators.items():
        one = known.get((operator.name, operator.shapes))
        kind = kind_of_name(operator.name) if one is None else one.kind
        if operator.phase not in (FORWARD, BACKWARD) or kind not in KERNEL_KINDS:
            continue
        ran += took.seconds
        if kind not in (MATMUL, ATTENTION):
            lost[KERNEL_KINDS[kind]] += took.seconds
        elif one is not None and one.flops is not None:  # otherwise how much of it is a loss is not known
            lost[KERNEL_KINDS[kind]] += took.seconds - took.calls * achievable_sec(one)
    lost[GAPS] = times.phases_sec.get(FORWARD, 0.0) + times.phases_sec.get(BACKWARD, 0.0) - ran
    lost = {kind: max(seconds, 0.0) for kind, seconds in lost.items()}
    whole = sum(lost.values())
    return {kind: kernels * seconds / whole for kind, seconds in lost.items()} if known and ran and whole else None


def _sum(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None


def _times(number: float, value: float | None) -> float | None:
    return None if value is None else number * value
