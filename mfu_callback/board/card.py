"""The card: the run, its figures and how they are measured, as text for TensorBoard."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict

from mfu_callback.board.facts import FoundBatchSize, RunFacts
from mfu_callback.flops import FlopCount
from mfu_callback.flops.table import grouped_by_module, rules_by_group
from mfu_callback.meter.summary import Summary
from mfu_callback.report.devices import memory_text, slowest_text


def card(facts: RunFacts, summary: Summary, found: FoundBatchSize | None) -> str:
    """The card as Markdown.

    Args:
        facts: The facts of the run.
        summary: Its figures; a summary without steps while the run goes on.
        found: The result of a BatchSizeFinder that ran before it.
    """
    parts = [
        _table(("", ""), _run(facts, summary)),
        None if summary.flops is None else f"### FLOPs of a forward pass\n\n{_flops(summary.flops)}",
        None if found is None else f"### Batch size\n\n{found.markdown()}",
        f"### Versions\n\n{_table(('package', 'version'), facts.versions.items())}",
    ]
    return "\n\n".join(part for part in parts if part is not None)


def _run(facts: RunFacts, summary: Summary) -> list[tuple[str, str]]:
    pace = None if summary.pace is None else asdict(summary.pace)
    rows: list[tuple[str, str | None]] = [
        ("MFU", None if summary.mfu is None else f"{summary.mfu:.4f} over {summary.steps:,} steps"),
        ("MFU of the fastest dtype", _mfu_fastest(summary)),
        ("tokens/s", None if summary.tokens_per_sec is None else f"{summary.tokens_per_sec:,.1f}"),
        ("slowest device", slowest_text(pace)),
        ("advice", summary.advice),
        ("model", f"{facts.model}, {facts.parameters:,} parameters"),
        ("device", f"{facts.devices} x {facts.device}, {facts.strategy}"),
        ("precision", facts.precision),
        ("batch", _batch(facts)),
        ("peak", None if summary.peak is None else summary.peak.description),
        ("achievable peak", None if summary.achievable is None else summary.achievable.description),
        ("memory", memory_text(summary.memory)),
        ("counter", facts.counter),
        ("conventions", summary.conventions),
    ]
    return [(name, value) for name, value in rows if value is not None]


def _mfu_fastest(summary: Summary) -> str | None:
    if summary.mfu_fastest is None or summary.fastest is None:
        return None
    return f"{summary.mfu_fastest:.3g} of {summary.fastest.description}"


def _batch(facts: RunFacts) -> str | None:
    if facts.batch_size is None:
        return None
    micro_batches = facts.accumulate_grad_batches
    accumulated = f", {micro_batches} of them in a step" if micro_batches > 1 else ""
    return f"{facts.batch_size:,} samples on each device{accumulated}"


def _flops(count: FlopCount) -> str:
    groups, rules = grouped_by_module(count.per_module).items(), rules_by_group(count.rules_of)
    rows = [
        (
            name or "(itself)",
            f"{modules:,}",
            f"{flops:.4e}",
            f"{flops / count.forward:.2%}",
            ", ".join(rules.get(name, ())),
        )
        for name, (modules, flops) in groups
        if count.forward
    ]
    lines = [
        f"{count.forward:.4e} for one batch: {count.thop:.4e} by thop's rules, {count.functional:.4e} outside of them;"
        f" attention counted as {count.attention}.",
        "Every compute operation was counted."
        if count.complete
        else f"**Not counted**: {_text(', '.join(count.left_out))}.",
        *(_text(note) for note in count.notes),
    ]
    return "\n\n".join([_table(("module", "modules", "FLOPs", "share", "counted by"), rows), *lines])


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_text, line))} |" for line in lines)


def _text(value: str) -> str:
    """The value on one line, with the characters escaped that Markdown would interpret."""
    for character, shown in (("&", "&amp;"), ("<", "&lt;"), ("|", "&#124;"), ("*", "&#42;"), ("`", "&#96;")):
        value = value.replace(character, shown)
    return " ".join(value.replace("[", "&#91;").replace("_", "&#95;").split())
