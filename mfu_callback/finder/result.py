"""The result of a search, and how it is shown."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from mfu_callback.finder.sweep import SweepPoint
from mfu_callback.finder.trials.trial import Trial

BY_MEMORY = "memory"  # what stopped a search that ended at the limit
_MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSizeResult:
    """The result of a search.

    Attributes:
        batch_size: The size found, in samples of one process: the largest that ran, or with
            ``objective="throughput"`` the smallest that is within 2 % of the fastest.
        trials: All trials, in the order in which they ran.
        sweep: With ``objective="throughput"`` the measurements of each size of the sweep, by rising size; else empty.
        limit: The memory limit of the trials, in words.
        own_largest: The largest size that each process could run by itself, by rank: where devices differ, those with
            more memory could take more than ``batch_size``. Empty where processes wait for each other in every step.
        global_batch_size: The samples of an optimizer step of all processes, if they were given.
        accumulate_grad_batches: The micro-batches of an optimizer step that then were set on the Trainer.
        max_tokens: The largest number of tokens in a batch that was set, for ``batch_size`` samples of the longest
            length; None if the batch size was searched in samples.
        length: Tokens of the longest sample that was tried; None if the batch size was searched in samples.
        stopped_by: What kept the search from larger sizes, in words: "memory", or what allows none or ended the search
            before, such as "max_size=12" or "an epoch has 10 samples". Empty in states of before this was kept.
    """

    batch_size: int
    trials: tuple[Trial, ...]
    sweep: tuple[SweepPoint, ...] = ()
    limit: str = ""
    own_largest: tuple[int, ...] = ()
    global_batch_size: int | None = None
    accumulate_grad_batches: int | None = None
    max_tokens: int | None = None
    length: int | None = None
    stopped_by: str = ""

    @property
    def set_to(self) -> int:
        """The number that was set on the loaders: tokens if they fill their batches by tokens, else samples."""
        return self.batch_size if self.max_tokens is None else self.max_tokens

    def as_dict(self) -> dict[str, Any]:
        """The result as plain data, for JSON and checkpoints (`mfu_callback.finder.state`)."""
        return asdict(self)

    def markdown(self) -> str:
        """The trials and the sweep as Markdown, for the text card in TensorBoard."""
        rows = ["| batch | fits | seconds | peak | why |", "|---:|---|---:|---:|---|"]
        for trial in self.trials:
            peak, fits = _mebibytes(trial.peak_bytes), "yes" if trial.fits else "no"
            rows.append(f"| {trial.size} | {fits} | {trial.seconds:.2f} | {peak} | {_cell(trial.why)} |")
        text = f"{self._set_to_markdown()} within {self.limit}"
        if len(set(self.own_largest)) > 1:
            text += f"; the largest of each process: {', '.join(f'{size:,}' for size in self.own_largest)}"
        if self.stopped_by not in ("", BY_MEMORY):
            text += f"; no larger one was tried: {self.stopped_by}"
        text += "\n\n" + "\n".join(rows)
        return text if not self.sweep else f"{text}\n\n{self._sweep_markdown()}"

    def _set_to_markdown(self) -> str:
        text = f"**batch_size = {self.batch_size}**"
        if self.max_tokens is not None:
            text = f"**max_tokens = {self.max_tokens}** (samples of {self.length} tokens), {text}"
        if self.accumulate_grad_batches is not None:
            text += f", accumulate_grad_batches = {self.accumulate_grad_batches}"
        return text

    def sweep_table(self) -> Table:
        """The sweep as a table for the terminal."""
        table = Table(title=f"Throughput by batch size (chosen: {self.batch_size})", title_justify="left")
        for column in _SWEEP_COLUMNS:
            table.add_column(column, justify="right")
        for point in self.sweep:
            table.add_row(*_sweep_cells(point), style="bold" if point.size == self.batch_size else None)
        return table

    def _sweep_markdown(self) -> str:
        rows = [_SWEEP_COLUMNS, ("---:",) * len(_SWEEP_COLUMNS), *map(_sweep_cells, self.sweep)]
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)


_SWEEP_COLUMNS = ("batch", "step", "samples/s", "tokens/s", "MFU", "peak")


def _sweep_cells(point: SweepPoint) -> tuple[str, ...]:
    tokens = "" if point.tokens_per_sec is None else f"{point.tokens_per_sec:,.0f}"
    mfu = "" if point.mfu is None else f"{point.mfu:.4f}"
    step = f"{point.step_time_sec:.4f} s"
    return (str(point.size), step, f"{point.samples_per_sec:,.1f}", tokens, mfu, _mebibytes(point.peak_bytes))


def _mebibytes(size: int | None) -> str:
    return "" if size is None else f"{size / _MIB:,.1f} MiB"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
