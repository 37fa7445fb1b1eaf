"""The tables of the benchmark, for the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from scripts.bench_parts.row import Row


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A table as text.

    Attributes:
        title: Its title.
        heads: The heading of each column; a line break in it is for the terminal alone.
        rows: The cells.
        texts: The headings of the columns that are text, and not numbers.
    """

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: frozenset[str] = frozenset()

    def show(self, console: Console) -> None:
        """Print it; the title is not broken at the table's width."""
        console.print(self.title, style="italic", highlight=False, soft_wrap=True)
        table = Table()
        for head in self.heads:
            table.add_column(head, justify="left" if head in self.texts else "right", no_wrap=True)
        for row in self.rows:
            table.add_row(*row)
        console.print(table)

    def markdown(self) -> str:
        """The table for a page."""
        rules = [":--" if head in self.texts else "--:" for head in self.heads]
        lines = [[head.replace("\n", " ") for head in self.heads], rules, *self.rows]
        table = "\n".join(f"| {' | '.join(_escaped(cell) for cell in line)} |" for line in lines)
        return f"**{_escaped(self.title)}**\n\n{table}\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of the table: its heading, the row's field, the format of its cells, whether it shows their range."""

    head: str
    field: str
    form: str | Callable[[float], str] = "{}"
    has_range: bool = False

    def cell(self, row: Row) -> str:
        """Returns the row's value as text with the range of its runs, or a dash if it is None."""
        value = getattr(row, self.field)
        if value is None:
            return "-"
        between = row.range_of(self.field) if self.has_range else None
        return self._text(value) + (f" ({self._text(between[0])} to {self._text(between[1])})" if between else "")

    def _text(self, value: float) -> str:
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
    Column(head="tokens/s", field="tokens_per_sec", form=lambda rate: rate_text(rate), has_range=True),
    Column(head="step s", field="step_time_sec", form="{:.3f}"),
    Column(head="MFU", field="mfu", form="{:.3f}", has_range=True),
    Column(head="HFU", field="hfu", form="{:.3f}"),
    Column(head="MFU of\nachievable", field="mfu_achievable", form="{:.3f}"),
    Column(head="of fastest\ndtype", field="mfu_fastest", form="{:.3g}"),
    Column(head="peak\nmemory", field="peak_memory_bytes", form=lambda n: f"{n / 2**30:.2f} GiB"),
)
_TEXTS = frozenset({"size", "precision"})
_LABELS = {"memory": "memory-bound"}
_WORTH_TELLING = 0.005  # of the machine


def rate_text(tokens_per_sec: float) -> str:
    """Returns tokens per second as text."""
    return f"{tokens_per_sec:,.1f}" if tokens_per_sec >= 10 else f"{tokens_per_sec:.3g}"


def table_of(rows: Sequence[Row], title: str) -> Grid:
    """Returns the benchmark's table without empty columns; `notes_of` are for below it."""
    columns = [column for column in COLUMNS if any(getattr(row, column.field) is not None for row in rows)]
    if all(row.mfu_achievable == row.mfu for row in rows):  # as where the peak is the measured one
        columns = [column for column in columns if column.field != "mfu_achievable"]
    if any(row.tokens_per_sec is not None for row in rows):  # the table is wide
        columns = [column for column in columns if column.field != "forward_flops_thop"]
    cells = [[column.cell(row) for column in columns] for row in rows]
    return Grid(title=title, heads=[column.head for column in columns], rows=cells, texts=_TEXTS)


def options_text(row: Row) -> str:
    """Returns what was switched on, as text; empty if nothing was."""
    micro_batches = row.accumulate_grad_batches or 1
    said = {
        f"strategy {row.strategy}": row.strategy not in (None, "auto"),
        f"compiled ({row.compile})": row.compile is not None,
        "checkpointed activations": row.checkpoint_activations,
        f"{micro_batches} batches a step": micro_batches > 1,
        "TF32": row.tf32,
    }
    return ", ".join(text for text, is_on in said.items() if is_on)


def losses_of(rows: Sequence[Row]) -> list[str]:
    """Returns what the forward and backward pass of each size lost below the best matmul, the largest loss first."""
    return [f"{row.size} kernels: {_losses(row.kernels)}" for row in rows if row.kernels]


def _losses(kernels: Mapping[str, float]) -> str:
    shown = [(part, share) for part, share in kernels.items() if share >= _WORTH_TELLING]
    return ", ".join(f"{_LABELS.get(part, part)} {share:.0%}" for part, share in sorted(shown, key=lambda one: -one[1]))


def notes_of(rows: Sequence[Row]) -> list[str]:
    """Returns the reasons and errors of the rows."""
    return [f"{row.size}: {row.error or row.reason}" for row in rows if row.error or row.reason]


def _escaped(cell: str) -> str:
    return cell.replace("|", r"\|")
