"""Compares two runs: the facts that differ, and the part of the time that explains the difference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from mfu_callback.logs.figures import step_time_sec
from mfu_callback.report.parts import MEANING, shown_parts
from mfu_callback.report.tables import rate_text

_SAME = 0.01  # smaller changes are not explained


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The difference between two runs.

    Attributes:
        unit: What the seconds are for: one "token", "sample" or "step".
        before: Seconds per unit in the first run, over all devices.
        after: Seconds per unit in the second run.
        parts: Seconds per unit in both runs by part of the waterfall, which sum to the whole. Empty if a run has no
            waterfall.
        facts: The facts that differ: name, value in the first run, value in the second.
    """

    unit: str
    before: float | None
    after: float | None
    parts: Mapping[str, tuple[float, float]]
    facts: tuple[tuple[str, str, str], ...]

    @property
    def explaining(self) -> str | None:
        """The part that changed most in the same direction as the whole; None if that hardly changed or is unknown."""
        if not self.before or self.after is None or abs(self.after / self.before - 1) < _SAME or not self.parts:
            return None
        sign = 1 if self.after > self.before else -1
        return max(self.parts, key=lambda part: sign * (self.parts[part][1] - self.parts[part][0]))

    def sentence(self) -> str:
        """The change and its explanation as a sentence."""
        if not self.before or self.after is None:
            return "The runs cannot be compared: one of them has not logged how long its steps take."
        change = f"A {self.unit} takes {self.after:.3e} s where it took {self.before:.3e} s"
        if abs(self.after / self.before - 1) < _SAME:
            return f"{change}: no real difference."
        said = f"{change}, {self.after / self.before:.3g} times as long."
        part = self.explaining
        if part is None:
            return said
        before, after = self.parts[part]
        share = (after - before) / (self.after - self.before)
        return f"{said} {share:.0%} of the difference is {MEANING[part]}: {before:.3e} s before, {after:.3e} s now."


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> Comparison:
    """Compare the figures of two runs.

    Each share of the waterfall times the seconds per token is the seconds of that part. These sum to the whole in both
    runs, so their differences sum to the whole difference.

    Args:
        before: Figures of the first run (`mfu_callback.logs.figures.figures_of`).
        after: Figures of the second run.
    """
    unit, seconds_before, seconds_after = _seconds(before, after)
    parts = {}
    if seconds_before and seconds_after and before.get("waterfall") and after.get("waterfall"):
        was, now = before["waterfall"], after["waterfall"]  # one of a single device, or an older one, lacks some parts
        parts = {
            part: (was.get(part, 0.0) * seconds_before, now.get(part, 0.0) * seconds_after)
            for part in shown_parts(was, now)
        }
    return Comparison(
        unit=unit, before=seconds_before, after=seconds_after, parts=parts, facts=tuple(_changed(before, after))
    )


def comparison_table(comparison: Comparison, names: tuple[str, str]) -> Table:
    """Seconds by part in both runs, and the facts that differ."""
    table = Table(title="What changed", title_justify="left")
    table.add_column("")
    for name in names:
        table.add_column(Text(name), justify="right")
    table.add_column("difference", justify="right")
    whole = f"seconds of a {comparison.unit}"
    for label, values in {whole: (comparison.before, comparison.after), **comparison.parts}.items():
        style = "bold" if label == comparison.explaining else None
        table.add_row(Text(label), *_cells(values), style=style)
    for name, before, after in comparison.facts:
        table.add_row(Text(name), Text(before), Text(after), "")
    return table


def _cells(values: tuple[float | None, float | None]) -> tuple[str, str, str]:
    before, after = values
    difference = None if before is None or after is None else after - before
    return _text(before, ".3e"), _text(after, ".3e"), _text(difference, "+.3e")


def _text(value: float | None, form: str) -> str:
    return "" if value is None else f"{value:{form}}"


def _seconds(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[str, float | None, float | None]:
    for unit, name in (("token", "tokens_per_sec"), ("sample", "samples_per_sec")):
        if before.get(name) and after.get(name):
            return unit, 1 / before[name], 1 / after[name]
    return "step", step_time_sec(before), step_time_sec(after)


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    rows = zip(_facts(before).items(), _facts(after).values(), strict=True)
    for (name, was), now in rows:
        if was != now:
            yield name, "unknown" if was is None else str(was), "unknown" if now is None else str(now)


def _facts(figures: Mapping[str, Any]) -> dict[str, Any]:
    run, peak, flops = (figures.get(name) or {} for name in ("run", "peak", "flops"))
    names = ("model", "parameters", "device", "devices", "precision", "strategy", "batch_size")
    facts = {name: run.get(name) for name in (*names, "accumulate_grad_batches")}
    facts |= {"peak": rate_text(peak), "source of the peak": peak.get("source")}
    facts |= {"forward FLOPs per batch": flops.get("forward"), "counter": run.get("counter")}
    facts |= {"conventions": figures.get("conventions")}
    versions = run.get("versions") or {}
    packages = ("python", "torch", "lightning", "pytorch-lightning", "mfu-callback")
    return facts | {package: versions.get(package) for package in packages}
