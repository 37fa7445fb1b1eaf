"""The request that starts the run of one size, the row of its results, and the table of all rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.table import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the process of one size must run.

    Attributes:
        size: A name in `gpt.SIZES`.
        batch_size: Sequences in a batch. None searches for the largest batch that fits.
        budget: Bytes that the model and the batch may use in that search. None is the free memory.
        context_length: Tokens in a sequence.
        precision: Precision of Lightning's Trainer.
        max_steps: Number of optimizer steps, including warm-up.
        warmup_steps: Number of the first steps, which are not measured.
        accelerator: Accelerator of Lightning's Trainer.
        devices: Number of devices of Lightning's Trainer.
        strategy: Strategy of Lightning's Trainer.
        compile: Whether `torch.compile` compiles the model.
        peaks: The peak that MFU is relative to, "dense" or "vector".
        output: The directory of the results.
    """

    size: str
    batch_size: int | None
    budget: int | None
    context_length: int
    precision: str
    max_steps: int
    warmup_steps: int
    accelerator: str
    devices: int
    strategy: str
    compile: bool
    peaks: str
    output: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The result of one size, with the units in the names.

    None is unknown, or not measured because of ``error``.
    """

    size: str
    parameters: int | None = None
    batch_size: int | None = None
    context_length: int | None = None
    precision: str | None = None
    device: str | None = None
    forward_flops_thop: int | None = None
    forward_flops: int | None = None
    tokens_per_sec: float | None = None
    step_time_sec: float | None = None
    mfu: float | None = None
    mfu_achievable: float | None = None
    peak_memory_bytes: int | None = None
    peak_flops_per_sec: float | None = None
    peak_source: str | None = None
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
    Column(head="batch", field="batch_size"),
    Column(head="context", field="context_length"),
    Column(head="fwd FLOPs\nby thop", field="forward_flops_thop", form="{:.1e}"),
    Column(head="fwd FLOPs\ncomplete", field="forward_flops", form="{:.4e}"),
    Column(head="tokens/s", field="tokens_per_sec", form="{:,.1f}"),
    Column(head="step s", field="step_time_sec", form="{:.3f}"),
    Column(head="MFU", field="mfu", form="{:.4f}"),
    Column(head="MFU of\nachievable", field="mfu_achievable", form="{:.4f}"),
    Column(head="peak\nmemory", field="peak_memory_bytes", form=lambda n: f"{n / 2**30:.2f} GiB"),
)


def table_of(rows: Sequence[Row], title: str) -> Table:
    """Returns the benchmark's table without empty columns; the errors are listed below it."""
    columns = [column for column in COLUMNS if any(getattr(row, column.field) is not None for row in rows)]
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column.head, justify="left" if column.field == "size" else "right")
    for row in rows:
        table.add_row(*(column.cell(row) for column in columns))
    table.caption = "\n".join(f"{row.size}: {row.error}" for row in rows if row.error) or None
    return table
