"""Runs one size after the other, or counts their FLOPs, and yields the rows as they come."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from rich.console import Console

from gpt import GPT, get_config
from mfu_callback import count_flops
from scripts.bench_parts.needs import parameters_of
from scripts.bench_parts.plan import Choice, share_of
from scripts.bench_parts.progress import Bar, Expected
from scripts.bench_parts.row import Row, middle_of, run_name
from scripts.bench_parts.run import (
    Machine,
    choice_of,
    expected_sec,
    request_of,
    run_again,
    run_notebook,
    run_size,
    survey,
)
from scripts.bench_parts.table import rate_text


def counted(arguments: argparse.Namespace) -> Iterator[list[Row]]:
    """Yields the rows so far, with the forward FLOPs of one batch of each size."""
    rows: list[Row] = []
    for size in arguments.sizes:
        rows.append(count(size, arguments))
        yield rows


def count(size: str, arguments: argparse.Namespace) -> Row:
    """Returns a row with the forward FLOPs of one batch, counted on the meta device, which needs no memory."""
    with torch.device("meta"):
        model = GPT(get_config(size))
        tokens = torch.zeros(arguments.batch_size, arguments.context_length, dtype=torch.long)
    flops = count_flops(model, tokens)
    return Row(
        size=size,
        parameters=parameters_of(size),
        batch_size=arguments.batch_size,
        context_length=arguments.context_length,
        forward_flops_thop=flops.thop,
        forward_flops=flops.forward,
    )


def measured(arguments: argparse.Namespace, console: Console) -> Iterator[list[Row]]:
    """Run each size in its own process, as often as asked for and in turns; yields the rows so far after each run."""
    machine = survey(arguments)
    choices = {size: choice_of(size, arguments, machine) for size in arguments.sizes}
    first = next((choice.precision for choice in choices.values() if choice.precision), "no size fits")
    console.print(f"{machine.text}: {first}", highlight=False)
    turns = [(turn, size) for turn in range(1, arguments.repeat + 1) for size in arguments.sizes]
    expected = Expected(
        {run_name(size, turn): expected_sec(size, choices[size], arguments, machine) for turn, size in turns}
    )
    console.print(expectation(expected, arguments), highlight=False)
    with Bar(expected, console) as bar:
        runs = Runs(arguments=arguments, machine=machine, choices=choices, bar=bar)
        for turn, size in turns:
            if choices[size].precision is None and turn > 1:  # said once
                continue
            row = runs.run(size, turn)
            console.print(line_of(row, turn), highlight=False, soft_wrap=True)
            yield runs.rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """The runs of all sizes.

    Attributes:
        arguments: The command line.
        machine: What the survey has found.
        choices: The precision of each size.
        bar: Shows the progress.
        done: The rows of the runs of each size.
    """

    arguments: argparse.Namespace
    machine: Machine
    choices: dict[str, Choice]
    bar: Bar
    done: dict[str, list[Row]] = field(default_factory=dict)

    @property
    def rows(self) -> list[Row]:
        """A row for each size that has run."""
        return [middle_of(runs) for runs in self.done.values()]

    def run(self, size: str, turn: int) -> Row:
        """Run a size once more and return the row of this run."""
        before, choice = self.done.setdefault(size, []), self.choices[size]
        row = Row(size=size, reason=choice.reason) if choice.precision is None else self._trained(size, turn, choice)
        row = replace(row, reason=row.reason or choice.reason, parameters=parameters_of(size))
        before.append(row)
        return row

    def _trained(self, size: str, turn: int, choice: Choice) -> Row:
        self.bar.begin(run_name(size, turn))
        request = request_of(size, choice.precision, self.arguments, self.machine, self._end_at())
        if turn > 1:
            request = run_again(request, self.done[size][0], turn)
        row = run_size(request, self.bar.listen)
        if request.as_notebook and row.tokens_per_sec is not None:
            again = replace(run_again(request, row, turn), end_at=self._end_at(taken=1))
            row = replace(row, notebook=run_notebook(again, self.bar.listen))
        self.bar.end()
        return row

    def _end_at(self, taken: int = 0) -> float:
        """When the next process must be over, in seconds since 1970: each is given its share of what is left."""
        fitting = sum(choice.precision is not None for choice in self.choices.values())
        trained = sum(len(runs) for size, runs in self.done.items() if self.choices[size].precision is not None)
        of_each = 2 if self.arguments.as_notebook else 1
        left = of_each * (self.arguments.repeat * fitting - trained) - taken
        return time.time() + share_of(self.arguments.end_at - time.time(), left)


def expectation(expected: Expected, arguments: argparse.Namespace) -> str:
    """Returns how long it will take, as text."""
    said = f"{arguments.minutes:g} minute{'' if arguments.minutes == 1 else 's'} at most"
    number = len(arguments.sizes)
    sizes = f"{number} size{'' if number == 1 else 's'}"
    runs = f", {arguments.repeat} runs of each" if arguments.repeat > 1 else ""
    return f"about {minutes_text(expected.whole)} for {sizes}{runs}, {said}"


def minutes_text(seconds: float) -> str:
    """Returns seconds as minutes, or as seconds below two minutes."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"


def line_of(row: Row, turn: int = 1) -> str:
    """Returns a row as one line, to print while the other sizes still run."""
    name = row.size if turn == 1 else f"{row.size}, run {turn}"
    if row.mfu is None:
        return f"{name}: {row.error or row.reason}"
    ran = f"{row.precision}, {row.batch_size} x {row.context_length}"
    figures = f"{rate_text(row.tokens_per_sec)} tokens/s, {row.step_time_sec:.3f} s a step, MFU {row.mfu:.3f}"
    return f"{name}: {figures} ({ran}, {row.steps} step{'' if row.steps == 1 else 's'})"
