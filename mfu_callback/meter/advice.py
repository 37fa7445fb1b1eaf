"""What to change in a run: rows of causes, each with its seconds of a step, its figure and its remedy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mfu_callback.meter import remedies, sentences
from mfu_callback.meter.facts import Facts

# A loop's own work for a step (hooks, metrics, progress bar) takes about a millisecond; the parts of a step that is not
# much longer say nothing about the model.
SHORTEST_STEP_SEC = 0.005
_LOOP_SEC = 0.001
# Before everything else.
ABOVE_ONE = (
    "MFU cannot exceed 1, so the peak, the FLOPs or the time is wrong: a warning in the log has the likely causes."
)
_MOST_SENTENCES = 2
_SECOND_SETTING = 0.10  # of the matmuls
_PADDED = 0.30  # of the tokens
_RETRIES = 0.05  # a step
_SWAPPED = 0.05  # of the process's memory
_UNFILLED = 0.30  # of the device's memory
_FULL_CLOCK = 0.95  # of the boost clock, at which there is nothing to set right
# Forward and backward of one module at the peak. Starting their three kernels or more takes about 20 us, on any device;
# kernels of less than a few 100 us keep no large device busy.
_SMALL_SEC, _UNFILLED_SEC = 20e-6, 1e-3
# A module whose forward and backward take longer, and compute next to nothing, is not merely slow to start.
_LONGEST_START_SEC = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One cause of a loss. It is silent where its cause is not known to be there.

    Attributes:
        name: Its name.
        about: The loss that it explains. Of the rules about one loss, the first that applies speaks for all.
        least: The share of a step from which it is worth saying.
        when: Whether the cause is there.
        gain: Seconds of a step that would go; the name of a part of the waterfall, or a function of the facts.
        fact: What is wrong, with its figure; receives the facts and the gain.
        remedy: What to try: the option and a value.
        needs_step: Whether it is silent for steps that are mostly the loop's own work.
    """

    name: str
    about: str
    least: float
    when: Callable[[Facts], bool]
    gain: str | Callable[[Facts], float]
    fact: Callable[[Facts, float], str]
    remedy: Callable[[Facts], str]
    needs_step: bool = True

    def gain_in(self, facts: Facts) -> float | None:
        """Seconds of a step that would go; None if the cause is not there, or not worth saying."""
        is_long = (facts.step_time_sec or 0.0) >= SHORTEST_STEP_SEC
        if (self.needs_step and not is_long) or not self.when(facts):
            return None
        gain = facts.seconds(self.gain) if isinstance(self.gain, str) else self.gain(facts)
        least = max(self.least * facts.step_sec, _LOOP_SEC if self.needs_step else 0.0)
        return gain if gain >= least else None


def _always(facts: Facts) -> bool:
    return True


def _setting(index: int) -> Rule:
    """The rule of one hint. Hints of settings are ready sentences, and each counts what those before it leave."""

    def when(facts: Facts) -> bool:
        is_known = index < len(facts.hints)
        leaves_enough = facts.hint_gain(index) >= _SECOND_SETTING * facts.matmul_sec if is_known and index else True
        return is_known and leaves_enough

    return Rule(
        name=f"setting {index + 1}",
        about=f"setting {index + 1}",
        least=0.0,
        when=when,
        gain=lambda facts: facts.hint_gain(index),
        fact=lambda facts, gain: facts.hints[index].rstrip(".").partition(": ")[0],
        remedy=lambda facts: facts.hints[index].rstrip(".").partition(": ")[2],
        needs_step=False,
    )


def _data(name: str, when: Callable[[Facts], bool]) -> Rule:
    fact, remedy = sentences.of_data, remedies.for_data
    return Rule(name=name, about="data", least=0.05, when=when, gain="data", fact=fact, remedy=remedy)


def _optimizer(name: str, when: Callable[[Facts], bool]) -> Rule:
    fact, remedy = sentences.of_optimizer, remedies.for_optimizer
    return Rule(name=name, about="optimizer", least=0.10, when=when, gain="optimizer", fact=fact, remedy=remedy)


def _kernels(name: str, when: Callable[[Facts], bool], evidence: sentences.Evidence, remedy: remedies.Remedy) -> Rule:
    return Rule(
        name=name,
        about="kernels",
        least=0.20,
        when=lambda facts: not facts.hints and when(facts),  # a faster setting changes the kernels
        gain="kernels",
        fact=lambda facts, gain: sentences.of_kernels(facts, gain) + evidence(facts),
        remedy=remedy,
    )


def _kind(kind: str, fact: str, remedy: remedies.Remedy) -> Rule:
    """The rule of one kind of operators, for runs whose operators were measured."""
    return Rule(
        name=f"kernels: {kind}",
        about="kernels",
        least=0.10,
        when=lambda facts: not facts.hints and bool(facts.kernels) and _largest(facts.kernels or {}) == kind,
        gain=lambda facts: facts.step_sec * (facts.kernels or {})[kind],
        fact=lambda facts, gain: f"{sentences.of_step(facts, gain)} {fact}",
        remedy=remedy,
    )


def _largest(shares: Mapping[str, float]) -> str:
    return max(shares, key=lambda kind: shares[kind])


def _is_small(facts: Facts, below_sec: float) -> bool:
    ideal = facts.ideal_sec_of_module
    return ideal is not None and 0 < ideal < below_sec


def _is_slow_to_start(facts: Facts) -> bool:
    return facts.seconds("kernels") < _LONGEST_START_SEC * (facts.circumstances.modules or 0)


def _is_unfilled(facts: Facts) -> bool:
    share, is_small = facts.memory_share, _is_small(facts, _UNFILLED_SEC)
    return share is not None and share < _UNFILLED and is_small and facts.circumstances.batch_size is not None


def _is_at_full_clock(facts: Facts) -> bool:
    return ((facts.gpu or {}).get("clock_share") or 0.0) >= _FULL_CLOCK


def _slow_pass(facts: Facts) -> bool:
    return facts.pace is not None and facts.pace.phase in ("forward", "backward")


RULES = (
    _setting(0),
    _setting(1),
    _data("no workers", lambda facts: facts.circumstances.num_workers == 0),
    _data("memory is not pinned", lambda facts: remedies.needs_pinning(facts.circumstances)),
    _data("few workers", lambda facts: facts.circumstances.num_workers is not None),
    _data("data", _always),
    _optimizer("not fused", lambda facts: bool(facts.circumstances.unfused)),
    _optimizer("optimizer", _always),
    Rule(
        name="callbacks",
        about="other",
        least=0.05,
        when=_always,
        gain=lambda facts: facts.seconds("other") - _LOOP_SEC,
        fact=sentences.of_callbacks,
        remedy=remedies.for_callbacks,
    ),
    Rule(
        name="padding",
        about="padding",
        least=0.05,
        when=lambda facts: facts.padding > _PADDED,
        gain=lambda facts: facts.padding * facts.compute_sec,
        fact=sentences.of_padding,
        remedy=lambda facts: "batches of like length (sort by length), or several sequences packed into one",
    ),
    Rule(
        name="slow device",
        about="kernels",
        least=0.10,
        when=_slow_pass,
        gain=lambda facts: 0.0 if facts.pace is None else facts.pace.behind_sec,
        fact=sentences.of_slow_device,
        remedy=remedies.for_slow_device,
    ),
    _kernels("allocator", lambda facts: facts.retries >= _RETRIES, sentences.retries, remedies.for_allocator),
    _kernels("swap", lambda facts: facts.swapped_share > _SWAPPED, sentences.swapped, remedies.for_swap),
    _kind("gaps", "run no operator, since Python is slower than what it starts", remedies.for_gaps),
    _kind("memory", "go to operators that only move memory (norms, activations, sums)", remedies.for_memory_bound),
    _kind("attention", "are lost in attention below the rate of the best matmul", remedies.for_attention),
    _kind("transfers", "are copies between the host and the device", remedies.for_transfers),
    _kind("matmuls", "are lost in matmuls below the rate of the best one", remedies.for_matmuls),
    _kernels(
        "small kernels",
        lambda facts: _is_small(facts, _SMALL_SEC) and _is_slow_to_start(facts),
        sentences.small_modules,
        remedies.for_gaps,
    ),
    _kernels(
        "no matmuls",
        lambda facts: _is_small(facts, _SMALL_SEC) and not _is_slow_to_start(facts),
        sentences.no_matmuls,
        remedies.for_no_matmuls,
    ),
    _kernels("small batch", _is_unfilled, sentences.unfilled, remedies.for_unfilled),
    _kernels("kernels", _always, lambda facts: "", remedies.for_kernels),
    Rule(
        name="communication",
        about="communication",
        least=0.10,
        when=_always,
        gain="communication",
        fact=lambda facts, gain: f"{sentences.of_step(facts, gain)} are collectives that nothing hides",
        remedy=remedies.for_communication,
    ),
    Rule(
        name="late in turn",
        about="waiting",
        least=0.10,
        when=_always,
        gain="waiting",
        fact=lambda facts, gain: f"{sentences.of_step(facts, gain)} are waiting for devices that are late in turn",
        remedy=lambda facts: remedies.EVEN_BATCHES,
    ),
    Rule(
        name="unreachable",
        about="unreachable",
        least=0.25,
        when=lambda facts: not facts.hints and not _is_at_full_clock(facts),
        gain="unreachable",
        fact=sentences.of_unreachable,
        remedy=remedies.for_unreachable,
    ),
)


def advice_of(facts: Facts) -> str | None:
    """The sentences that a run's figures call for, two at most, one a line; None if there are none.

    Args:
        facts: What is known of the run.
    """
    first = [ABOVE_ONE] if facts.mfu is not None and facts.mfu > 1 else []
    said = [
        f"{': '.join(filter(None, (rule.fact(facts, gain), rule.remedy(facts))))}." for rule, gain in applying(facts)
    ]
    return "\n".join((first + said)[:_MOST_SENTENCES]) or None


def applying(facts: Facts) -> list[tuple[Rule, float]]:
    """The rules that apply to a run, one for each loss, and the seconds of a step that each would save; largest first.

    Args:
        facts: What is known of the run.
    """
    of_losses: dict[str, tuple[Rule, float]] = {}
    for rule in RULES:
        gain = None if rule.about in of_losses else rule.gain_in(facts)
        if gain is not None:
            of_losses[rule.about] = rule, gain
    return sorted(of_losses.values(), key=lambda found: -found[1])


def advice_of_run(
    hints: Sequence[str], waterfall: Mapping[str, float] | None, step_time_sec: float | None
) -> str | None:
    """The advice on a run of which little is known, such as one that goes on.

    Args:
        hints: Sentences on settings of the run (`mfu_callback.peaks.hints`).
        waterfall: The share of each part; None if unknown.
        step_time_sec: Seconds of a step; None if unknown.
    """
    return advice_of(Facts(hints=hints, waterfall=waterfall, step_time_sec=step_time_sec))
