"""One row of the benchmark, how its table shows it, and how a run of one size is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.table import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What one size's process is to run.

    Attributes:
        size: A name in `gpt.SIZES`.
        batch_size: Sequences in a batch; None has it found.
        budget: Bytes that the batch to be found may take with the model; None is what is free.
        context_length: Tokens in a sequence.
        precision: Of Lightning's Trainer.
        max_steps: Optimizer steps, warm-up included.
        warmup_steps: Those of them that are not measured.
        accelerator: Of Lightning's Trainer, as the next two.
        devices: How many.
        strategy: How they work together.
        compile: Whether `torch.compile` compiles the model.
        peaks: "dense" or "vector".
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
    """What came of one size; None is unknown, or not measured because of ``error``. The units are in the names."""

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
    """One column of the table: its head, the row's field, and how it is written."""

    head: str
    field: str
    form: str | Callable[[float], str] = "{}"

    def cell(self, row: Row) -> str:
        """The row's value as text; a dash where there is none."""
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
    """The benchmark's table; columns that no row fills are left out, errors stand below their rows."""
    columns = [column for column in COLUMNS if any(getattr(row, column.field) is not None for row in rows)]
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column.head, justify="left" if column.field == "size" else "right")
    for row in rows:
        table.add_row(*(column.cell(row) for column in columns))
    table.caption = "\n".join(f"{row.size}: {row.error}" for row in rows if row.error) or None
    return table
