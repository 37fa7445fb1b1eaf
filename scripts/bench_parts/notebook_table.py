"""The tables of `--as-notebook`: the replaced notebook's benchmarks beside ours, and its own results put right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mfu_callback import model_flops_utilization
from scripts.bench_parts.replaced import (
    BATCH_SIZE,
    CONTEXT_LENGTH,
    RESULTS,
    complete_flops,
    recomputed,
    true_peak,
    vector_peak,
)
from scripts.bench_parts.row import Row
from scripts.bench_parts.table import Grid, rate_text

_TEXTS = frozenset({"size", "what"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """One step from the notebook's MFU to ours.

    Attributes:
        what: What has changed since the rung before.
        step_sec: Seconds of a step.
        forward_flops: Forward FLOPs of its batch.
        peak_flops_per_sec: The peak.
    """

    what: str
    step_sec: float
    forward_flops: float
    peak_flops_per_sec: float

    @property
    def mfu(self) -> float:
        """The MFU of these three, with a backward pass of twice the forward's FLOPs."""
        return model_flops_utilization(1 / self.step_sec, 3 * self.forward_flops, self.peak_flops_per_sec)


def rungs(row: Row) -> list[Rung]:
    """Returns the way from the notebook's MFU to ours, of which each rung changes one thing; empty without figures.

    Args:
        row: Our row, with the notebook's figures.
    """
    book = row.notebook or {}
    if book.get("optimizer_sec") is None or not (row.tokens_per_sec and row.forward_flops and row.peak_flops_per_sec):
        return []
    tokens = row.batch_size * row.context_length
    mean_sec, ours, peak = tokens / row.tokens_per_sec, row.forward_flops, row.peak_flops_per_sec
    thop = book["flops_by_thop"] * tokens / (BATCH_SIZE * CONTEXT_LENGTH)  # no attention: each token takes the same
    vector = vector_peak_of(row)
    first_peak = vector or peak
    of_peak = "the datasheet's dense peak, not the vector units' rate"
    if vector is None:
        of_peak = "the same peak: the notebook's table has none for this device"
    changes = [
        ("the notebook: first step, sum of the outputs, no optimizer", book["cold_sec"], thop, first_peak),
        (f"median of {book['rounds']} steps after it", book["sum_sec"], thop, first_peak),
        ("cross-entropy as the loss", book["loss_sec"], thop, first_peak),
        ("with AdamW's step", book["optimizer_sec"], thop, first_peak),
        (f"median of {row.steps} steps of Lightning's Trainer", row.step_time_sec, thop, first_peak),
        ("their mean, with the slow ones among them", mean_sec, thop, first_peak),
        ("the complete count, with attention", mean_sec, ours, first_peak),
        (of_peak, mean_sec, ours, peak),
    ]
    return [
        Rung(what=what, step_sec=sec, forward_flops=flops, peak_flops_per_sec=of) for what, sec, flops, of in changes
    ]


def vector_peak_of(row: Row) -> int | None:
    """Returns the notebook's peak of the row's device, or None if its table has no row for it."""
    dtype = {"bf16": torch.bfloat16, "16": torch.float16, "32": torch.float32}[(row.precision or "").split("-")[0]]
    return vector_peak(row.device or "", dtype)


def tables(rows: Sequence[Row]) -> list[Grid]:
    """Returns the tables of the rows that have the notebook's figures, and that of its own results."""
    with_book = [row for row in rows if row.notebook and "flops" in row.notebook]
    shown = [counts(with_book), largest(with_book)] if with_book else []
    return [*shown, *(ladder(row) for row in with_book if rungs(row)), results([row.size for row in rows])]


def counts(rows: Sequence[Row]) -> Grid:
    """Returns the first benchmark: forward FLOPs of 2 x 1024 tokens."""
    books = [(row.size, row.notebook or {}) for row in rows]
    return Grid(
        title=f"Notebook 1: forward FLOPs of {BATCH_SIZE} x {CONTEXT_LENGTH} tokens; thop sees no attention",
        heads=["size", "notebook: thop x 2", "ours: complete", "notebook / ours"],
        rows=[
            [
                size,
                f"{book['flops_by_thop']:.4e}",
                f"{book['flops']:.4e}",
                f"{book['flops_by_thop'] / book['flops']:.3f}",
            ]
            for size, book in books
        ],
        texts=_TEXTS,
    )


def largest(rows: Sequence[Row]) -> Grid:
    """Returns the second benchmark: the largest batch."""
    return Grid(
        title="Notebook 2: largest batch; a forward pass alone keeps no activations, gradients, optimizer state",
        heads=["size", "context", "memory", "notebook: forward only", "ours: a training step"],
        rows=[_largest(row) for row in rows],
        texts=_TEXTS,
    )


def _largest(row: Row) -> list[str]:
    book = row.notebook or {}
    budget, sizes = book.get("budget_bytes"), [_size(book, "forward"), _size(book, "training")]
    memory = f"{budget / 2**30:.1f} GiB" if budget is not None else "free" if sizes != ["-", "-"] else "-"
    return [row.size, str(row.context_length), memory, *sizes]


def _size(book: Mapping[str, Any], of: str) -> str:
    """The largest batch of one of the searches as text; "at least" where its time ended before its memory."""
    found = book.get(f"largest_{of}")
    return "-" if found is None else f"{'' if book.get(f'{of}_is_limit') else 'at least '}{found}"


def ladder(row: Row) -> Grid:
    """Returns the third benchmark of a size: from the notebook's MFU to ours, one change after the other."""
    steps = rungs(row)
    before = [None, *steps[:-1]]
    batch = (row.batch_size or 0) * (row.context_length or 0)
    return Grid(
        title=f"Notebook 3: {row.size}, {row.precision}, {row.batch_size} x {row.context_length} tokens",
        heads=["what", "step s", "tokens/s", "fwd FLOPs", "peak", "MFU", "x"],
        rows=[
            [
                rung.what,
                f"{rung.step_sec:.3f}",
                rate_text(batch / rung.step_sec),
                f"{rung.forward_flops:.4e}",
                f"{rung.peak_flops_per_sec / 1e12:.4g}",
                f"{rung.mfu:.4f}",
                "" if last is None else f"{rung.mfu / last.mfu:.3f}",
            ]
            for last, rung in zip(before, steps, strict=True)
        ],
        texts=_TEXTS,
    )


def results(sizes: Sequence[str]) -> Grid:
    """Returns the notebook's own best results on an A100, with the true peak and the complete count: arithmetic."""
    peak = true_peak()
    mended = [(one, recomputed(one, complete_flops(one.size), peak)) for one in RESULTS if one.size in sizes]
    return Grid(
        title=f"The notebook's A100 results, recomputed from its tokens/s: {peak / 1e12:.0f} TFLOP/s dense in bf16",
        heads=["size", "batch", "tokens/s", "MFU it printed", "of the true peak", "and complete FLOPs"],
        rows=[
            [
                one.size,
                str(one.batch_size),
                f"{one.tokens_per_sec:,.2f}",
                f"{one.mfu:.4f}",
                f"{right.mfu_of_peak:.4f}",
                f"{right.mfu:.4f}",
            ]
            for one, right in mended
        ],
        texts=_TEXTS,
    )
