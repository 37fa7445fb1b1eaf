"""The request that starts the run of one size, and the row of its results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the process of one size must run. None is left to the plan.

    Attributes:
        size: A name in `gpt.SIZES`.
        turn: Number of the run among the runs of this size, from 1.
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
        strategy: "auto", "ddp" or "fsdp2".
        compile: The mode in which `torch.compile` compiles the model; None does not.
        checkpoint_activations: Whether each block is computed a second time in the backward pass.
        accumulate_grad_batches: Batches in an optimizer step.
        tf32: Whether CUDA multiplies float32 matrices in TF32.
        as_notebook: Whether to run the replaced notebook's benchmarks beside ours.
        output: The directory of the results.
    """

    size: str
    turn: int = 1
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
    compile: str | None
    checkpoint_activations: bool
    accumulate_grad_batches: int
    tf32: bool
    as_notebook: bool
    output: str

    @property
    def name(self) -> str:
        """The name of the run, for its log and its curves."""
        return run_name(self.size, self.turn)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The result of one size, with the units in the names.

    None is unknown, or not measured because of ``error`` or ``reason``.

    Attributes:
        batch_size: Sequences in a batch of one device; a step has ``accumulate_grad_batches`` of them.
        steps: Measured optimizer steps.
        forward_flops: Of one batch of one device.
        tokens_per_sec: Of all devices.
        hfu: MFU with the FLOPs that really ran a second time.
        mfu_fastest: MFU of the peak of the device's fastest dtype, where that is another one.
        waterfall: The share of the machine that each part used or lost; sums to 1.
        kernels: What the waterfall's part "kernels" consists of, where enough steps were trained to profile one.
        operators: The figures of each operator in each phase of a batch (`mfu_callback.meter.per_operator`).
        bandwidth_bytes_per_sec: How fast the device copies, bytes read and written.
        notebook: What the replaced notebook's benchmarks say of this size, beside ours; of ``--as-notebook``.
        runs: The rows of all runs of this size, of which this is the one in the middle; of ``--repeat``.
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
    devices: int | None = None
    strategy: str | None = None
    compile: str | None = None
    checkpoint_activations: bool | None = None
    accumulate_grad_batches: int | None = None
    tf32: bool | None = None
    torch: str | None = None
    forward_flops_thop: int | None = None
    forward_flops: int | None = None
    tokens_per_sec: float | None = None
    step_time_sec: float | None = None
    mfu: float | None = None
    hfu: float | None = None
    mfu_achievable: float | None = None
    mfu_fastest: float | None = None
    waterfall: dict[str, float] | None = None
    kernels: dict[str, float] | None = None
    operators: list[dict[str, Any]] | None = None
    bandwidth_bytes_per_sec: float | None = None
    peak_memory_bytes: int | None = None
    peak_flops_per_sec: float | None = None
    peak_source: str | None = None
    notebook: dict[str, Any] | None = None
    runs: list[dict[str, Any]] | None = None
    reason: str | None = None
    error: str | None = None

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Row:
        """The row of plain data, as bench.json has it: what it lacks is unknown, and what is unknown here is left out.

        Raises:
            TypeError: If it has no size.
        """
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in plain.items() if name in known})

    def range_of(self, field: str) -> tuple[float, float] | None:
        """The smallest and the largest value of a field among several runs; None where there are not two with one."""
        values = [run[field] for run in self.runs or () if run.get(field) is not None]
        return (min(values), max(values)) if len(values) > 1 else None


def run_name(size: str, turn: int) -> str:
    """Returns the name of a run of a size; the first has the size's own."""
    return size if turn == 1 else f"{size}-{turn}"


def middle_of(runs: Sequence[Row]) -> Row:
    """Returns the row of a size that ran several times: the run with the median tokens/s, with all of them in it.

    One run is kept whole, so that its parts belong together; of an even number it is the slower of the middle two. Runs
    that failed are named.

    Args:
        runs: The rows of the runs, at least one, in their order.
    """
    if len(runs) == 1:
        return runs[0]
    measured = sorted((row for row in runs if row.tokens_per_sec is not None), key=_speed)
    middle = measured[(len(measured) - 1) // 2] if measured else runs[0]
    plain = asdict(middle)
    for field in ("reason", "error"):
        plain[field] = _first_of(runs, field) if measured else getattr(middle, field)
    return Row(**plain | {"runs": [asdict(row) for row in runs]})


def _speed(row: Row) -> float:
    return row.tokens_per_sec or 0.0


def _first_of(runs: Sequence[Row], field: str) -> str | None:
    said = [(turn, text) for turn, row in enumerate(runs, 1) if (text := getattr(row, field)) is not None]
    if not said:
        return None
    turn, text = said[0]
    return text if len(said) == len(runs) else f"run {turn} of {len(runs)}: {text}"
