"""The request that starts the run of one size, the row of its results, and the table of all rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the process of one size must run. None is left to the plan.

    Attributes:
        size: A name in `gpt.SIZES`.
        precision: Precision of Lightning's Trainer.
        batch_size: Sequences in a batch.
        find_batch_size: Whether to search for the largest batch that fits instead.
        budget: Bytes that the model and the batch may use in that search. None is the free memory.
        context_length: Tokens in a sequence.
        max_steps: Number of optimizer steps, including warm-up.
        most_tokens: Tokens of the largest batch that is expected to fit into the memory.
        flops_per_sec: The rate of the device's matmuls in this precision; None if unknown.
        end_at: When the process must be over, in seconds since 1970.
        accelerator: Accelerator of Lightning's Trainer.
        devices: Number of devices of Lightning's Trainer.
        strategy: Strategy of Lightning's Trainer.
        compile: Whether `torch.compile` compiles the model.
        peaks: The peak that MFU is relative to, "dense" or "vector".
        output: The directory of the results.
    """

    size: str
    precision: str
    batch_size: int | None
    find_batch_size: bool
    budget: int | None
    context_length: int | None
    max_steps: int | None
    most_tokens: float
    flops_per_sec: float | None
    end_at: float
    accelerator: str
    devices: int
    strategy: str
    compile: bool
    peaks: str
    output: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The result of one size, with the units in the names.

    None is unknown, or not measured because of ``error`` or ``reason``.

    Attributes:
        steps: Measured optimizer steps.
        mfu_fastest: MFU of the peak of the device's fastest dtype, where that is another one.
        kernels: What the waterfall's part "kernels" consists of, where enough steps were trained to profile one.
        reason: Why the size was not run as asked, or not in the fastest precision, and the option that would do it.
        error: Why its run failed.
    """

    size: str
    parameters: int | None = None
    precision: str | None = None
    batch_size: int | None = None
    context_length: int | None = None
    steps: int | None = None
    device: str | None = None
    forward_flops_thop: int | None = None
    forward_flops: int | None = None
    tokens_per_sec: float | None = None
    step_time_sec: float | None = None
    mfu: float | None = None
    mfu_achievable: float | None = None
    mfu_fastest: float | None = None
    kernels: dict[str, float] | None = None
    peak_memory_bytes: int | None = None
    peak_flops_per_sec: float | None = None
    peak_source: str | None = None
    reason: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of the table: its heading, the row's field, and the format of its cells."""

    head: str
    field: str
    form: str | Callable[[float], str] = "{}"

    def cell(self, row: Row) -> str:
        """Returns the row's value as text, or a dash if it is None."""
        value = getattr(row, self.field)
        if value is None:
            return "-"
        return self.form(value) if callable(self.form) else self.form.format(value)


COLUMNS: tuple[Column, ...] = (
    Column(head="size", field="size"),
    Column(head="parameters", field="parameters", form=lambda n: f"{n / 1e6:,.0f}M"),
    Column(head="precision", field="precision"),
    Column(head="batch", field="batch_size"),
    Column(head="context", field="context_length"),
    Column(head="steps", field="steps"),
    Column(head="fwd FLOPs\nby thop", field="forward_flops_thop", form="{:.1e}"),
    Column(head="fwd FLOPs\ncomplete", field="forward_flops", form="{:.4e}"),
    Column(head="tokens/s", field="tokens_per_sec", form=lambda rate: rate_text(rate)),
    Column(head="step s", field="step_time_sec", form="{:.3f}"),
    Column(head="MFU", field="mfu", form="{:.3f}"),
    Column(head="MFU of\nachievable", field="mfu_achievable", form="{:.3f}"),
    Column(head="of fastest\ndtype", field="mfu_fastest", form="{:.3g}"),
    Column(head="peak\nmemory", field="peak_memory_bytes", form=lambda n: f"{n / 2**30:.2f} GiB"),
)
_TEXT = ("size", "precision")
_LABELS = {"memory": "memory-bound"}
_WORTH_TELLING = 0.005  # of the machine


def rate_text(tokens_per_sec: float) -> str:
    """Returns tokens per second as text."""
    return f"{tokens_per_sec:,.1f}" if tokens_per_sec >= 10 else f"{tokens_per_sec:.3g}"


def table_of(rows: Sequence[Row], title: str) -> Table:
    """Returns the benchmark's table without empty columns; `notes_of` are for below it."""
    columns = [column for column in COLUMNS if any(getattr(row, column.field) is not None for row in rows)]
    if all(row.mfu_achievable == row.mfu for row in rows):  # as where the peak is the measured one
        columns = [column for column in columns if column.field != "mfu_achievable"]
    if any(row.tokens_per_sec is not None for row in rows):  # the table is wide
        columns = [column for column in columns if column.field != "forward_flops_thop"]
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column.head, justify="left" if column.field in _TEXT else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(column.cell(row) for column in columns))
    return table


def losses_of(rows: Sequence[Row]) -> list[str]:
    """Returns what the forward and backward pass of each size lost below the best matmul, the largest loss first."""
    return [f"{row.size} kernels: {_losses(row.kernels)}" for row in rows if row.kernels]


def _losses(kernels: Mapping[str, float]) -> str:
    shown = [(part, share) for part, share in kernels.items() if share >= _WORTH_TELLING]
    return ", ".join(f"{_LABELS.get(part, part)} {share:.0%}" for part, share in sorted(shown, key=lambda one: -one[1]))


def notes_of(rows: Sequence[Row]) -> list[str]:
    """Returns the reasons and errors of the rows."""
    return [f"{row.size}: {row.error or row.reason}" for row in rows if row.error or row.reason]
