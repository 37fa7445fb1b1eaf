"""Train our GPT, nanoGPT, Hugging Face's GPT-2 and a plain GPT-2 in turns, and compare speed, memory and losses.

    python scripts/comparisons/gpts.py --nanogpt DIR               # steps in turns: tokens/s, ratios, MFU
    python scripts/comparisons/gpts.py --nanogpt DIR --memory      # the peak memory of a step of each
    python scripts/comparisons/gpts.py --nanogpt DIR --text FILE   # the losses on a real text, byte by byte
    python scripts/comparisons/gpts.py --tricks                    # what each trick of ours gains

All have the same weights (those of ours), the same batches, the same dtype (weights and activations), no dropout, and
AdamW with the same hyperparameters and groups, each as it ships: ours is fused; nanoGPT's configure_optimizers fuses on
CUDA alone; Hugging Face's Trainer uses torch's AdamW as it is (`adamw_torch`), and so does the plain one. A step is
forward, backward, AdamW and zero_grad. Each is in a process of its own; they take turns of two steps, the second timed,
with matmuls (measure_peak) in each round: a ratio and an MFU are the medians of those of the rounds. --keep-memory
gives ours the setting of docs/gpt.md for the C library's allocator, --keep-memory-all gives it to all.
"""

from __future__ import annotations

import argparse
import platform
import shlex
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from gpt import GPT, SIZES, GPTConfig, get_config
from mfu_callback import count_flops
from mfu_callback.finder.limits.available import available_bytes
from mfu_callback.peaks import rates_in_training
from mfu_callback.peaks.this_machine import device_name
from scripts.comparisons.gpt_parts.contestants import CONTESTANTS, KEEPING, TRICKS
from scripts.comparisons.gpt_parts.worker import MATMULS, Job, Worker

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
OURS = "ours"
MEMORY_SHAPE, MEMORY_STEPS = (8, 512), 2  # the optimizer's state is there from the second step on
KEEP_MEMORY = (
    ("MALLOC_MMAP_THRESHOLD_", str(1 << 30)),
    ("MALLOC_TRIM_THRESHOLD_", str(1 << 34)),
    ("MALLOC_TOP_PAD_", str(1 << 26)),
)
Times = dict[str, np.ndarray]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    options = parser().parse_args(arguments)
    options.dtype = DTYPES[options.precision] if options.precision != "auto" else fast_dtype()
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(shlex.join(["python", *sys.argv]), soft_wrap=True, highlight=False)
    console.print(f"{device_name(torch.device('cpu'))}, torch {torch.__version__}, ", end="")
    console.print(f"Python {platform.python_version()}, {str(options.dtype).removeprefix('torch.')}")
    for size in options.sizes:
        config = size_of(options, size)
        if options.memory:
            console.print(memory_table(size, config, options))
            continue
        for shape in options.shapes:
            compare(size, config, shape, options, console)
    return 0


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["gpt-small"], help="which GPTs")
    parser.add_argument("--layers", type=int, help="layers instead of the size's")
    parser.add_argument(
        "--shapes",
        nargs="+",
        type=shape_of,
        default=[(1, 1024), (2, 512), (8, 128)],
        help="sequences x tokens of a batch",
    )
    parser.add_argument(
        "--precision", choices=("auto", *DTYPES), default="auto", help="auto: the fastest here, measured"
    )
    parser.add_argument("--rounds", type=int, default=7, help="rounds that are timed")
    parser.add_argument("--warmup", type=int, default=1, help="rounds before that")
    parser.add_argument(
        "--steps",
        type=int,
        default=2,
        help="steps in a turn; the last is timed, after those that find their caches cold",
    )
    parser.add_argument(
        "--contestants", nargs="+", choices=CONTESTANTS, help="those to compare; default: all there are"
    )
    parser.add_argument("--tricks", action="store_true", help="ours beside ours without each of its tricks")
    parser.add_argument("--nanogpt", metavar="DIR", help="a checkout of nanoGPT, to compare with it too")
    parser.add_argument("--text", metavar="FILE", help="a file whose bytes are the tokens; default: random tokens")
    parser.add_argument("--memory", action="store_true", help="measure peak memory at 8 x 512 instead of speed")
    parser.add_argument("--keep-memory", action="store_true", help="ours keeps freed memory")
    parser.add_argument("--keep-memory-all", action="store_true", help="all keep freed memory")
    return parser


def shape_of(text: str) -> tuple[int, int]:
    """Sequences and tokens of "2x512".

    Raises:
        argparse.ArgumentTypeError: It is not of that form.
    """
    numbers = text.split("x")
    if len(numbers) != 2 or not all(number.isdigit() and int(number) for number in numbers):
        raise argparse.ArgumentTypeError(f"{text!r} is no shape: give sequences x tokens, such as 2x512")
    return int(numbers[0]), int(numbers[1])


def fast_dtype() -> torch.dtype:
    """The dtype in which this CPU multiplies fastest in training."""
    rates = rates_in_training(torch.device("cpu"))
    return max(rates, key=lambda dtype: rates[dtype].in_training)


def size_of(options: argparse.Namespace, size: str) -> GPTConfig:
    """The config of a size, with the layers of the command line."""
    config = get_config(size)
    return config if options.layers is None else replace(config, n_layer=options.layers)


def names_of(options: argparse.Namespace) -> list[str]:
    """The contestants, ours first."""
    if options.tricks:
        return [OURS, *TRICKS]
    names = [OURS, *(name for name in CONTESTANTS if name != OURS)]
    if options.nanogpt is None:
        names.remove("nanoGPT")
    return [name for name in names if options.contestants is None or name in options.contestants or name == OURS]


def job_of(name: str, config: GPTConfig, shape: tuple[int, int], options: argparse.Namespace) -> Job:
    """What the process of a contestant is to do."""
    keeps = options.keep_memory_all or (options.keep_memory and name == OURS) or name == KEEPING
    return Job(
        contestant=name,
        config=config,
        batch_size=shape[0],
        length=shape[1],
        dtype=options.dtype,
        nanogpt=options.nanogpt,
        text=options.text,
        environment=KEEP_MEMORY if keeps else (),
    )


def groups_of(names: list[str], needed: int, available: int) -> list[list[str]]:
    """All contestants together if their memory suffices for it, else ours with each of the others that fit.

    Args:
        names: The contestants, ours first.
        needed: Bytes that each needs.
        available: Bytes that there are.
    """
    if needed * len(names) <= available:
        return [names]
    return [[names[0], name] for name in names[1:]] if 2 * needed <= available else []


def bytes_needed(config: GPTConfig, shape: tuple[int, int], dtype: torch.dtype) -> int:
    """About what a plain training step keeps: weights, gradients, two moments, activations, logits three times."""
    with torch.device("meta"):
        parameters = sum(weight.numel() for weight in GPT(config).parameters())
    of_token = config.n_layer * 17 * config.n_embd + 3 * config.vocab_size
    return int((4 * parameters + shape[0] * shape[1] * of_token) * dtype.itemsize + (600 << 20))


def compare(
    size: str, config: GPTConfig, shape: tuple[int, int], options: argparse.Namespace, console: Console
) -> None:
    """Train in turns, and print the table."""
    title = f"{size}, {shape[0]} x {shape[1]} tokens"
    needed = bytes_needed(config, shape, options.dtype)
    groups = groups_of(names_of(options), needed, available_bytes())
    if not groups:
        console.print(f"{title}: two of about {needed / 2**30:.1f} GiB do not fit into the memory, so none is timed.")
    for group in groups:
        jobs = [job_of(name, config, shape, options) for name in group]
        answers = take_turns(jobs, warmup=options.warmup, rounds=options.rounds, steps=options.steps)
        console.print(table_of(title, answers, tokens=shape[0] * shape[1], flops=step_flops(config, shape)))


def step_flops(config: GPTConfig, shape: tuple[int, int]) -> int:
    """Model FLOPs of a training step."""
    with torch.device("meta"):
        return 3 * count_flops(GPT(config), torch.zeros(shape, dtype=torch.long)).forward


def take_turns(jobs: list[Job], *, warmup: int, rounds: int, steps: int) -> dict[str, list[dict[str, float]]]:
    """What each process answered in each round that counts; every other round goes the other way.

    Args:
        jobs: Those of the contestants; one that multiplies matrices joins them.
        warmup: Rounds that do not count, except for the losses.
        rounds: Rounds that count.
        steps: Steps in a turn, of which the last counts; of matmuls one is enough.
    """
    jobs = [*jobs, replace(jobs[0], contestant=MATMULS, environment=())]
    answers: dict[str, list[dict[str, float]]] = {job.contestant: [] for job in jobs}
    with ExitStack() as stack:
        workers = {job.contestant: Worker(job) for job in jobs}
        for worker in workers.values():
            stack.callback(worker.close)
        for turn in track(range(warmup + rounds), description="rounds", console=Console(stderr=True), transient=True):
            for name in sorted(workers, reverse=bool(turn % 2)):
                for _ in range(1 if name == MATMULS else steps):
                    answer = workers[name].step()
                answers[name].append({**answer, "counts": turn >= warmup})
    return answers


def table_of(title: str, answers: dict[str, list[dict[str, float]]], *, tokens: int, flops: int) -> Table:
    """The table of one comparison.

    Args:
        title: Its title.
        answers: Of :func:`take_turns`.
        tokens: In a step.
        flops: Model FLOPs of a step.
    """
    seconds = {name: column(rows, "seconds") for name, rows in answers.items() if name != MATMULS}
    peak = column(answers[MATMULS], "flops_per_sec")
    first, losses = seconds[OURS], [row["loss"] for row in answers[OURS]]
    table = Table(title=f"{title}; best matmul {np.median(peak) / 1e9:.0f} GFLOP/s", title_justify="left")
    table.add_column("model")
    for head in (
        "tokens/s",
        "step s",
        "ours is faster by",
        "quartiles",
        "MFU of\nthe matmul",
        "largest difference\nof the loss",
    ):
        table.add_column(head, justify="right")
    for name, values in seconds.items():
        low, middle, high = np.quantile(values / first, [0.25, 0.5, 0.75])
        apart = max(abs(row["loss"] - loss) for row, loss in zip(answers[name], losses, strict=True))
        table.add_row(
            name,
            f"{tokens / np.median(values):,.0f}",
            f"{np.median(values):.3f}",
            *(
                (
                    "",
                    "",
                )
                if name == OURS
                else (f"{middle:.3f}", f"{low:.3f} to {high:.3f}")
            ),
            f"{np.median(flops / values / peak):.3f}",
            "" if name == OURS else f"{apart:.2e}",
        )
    return table


def column(rows: list[dict[str, float]], key: str) -> np.ndarray:
    """One figure of the rounds that count."""
    return np.array([row[key] for row in rows if row["counts"]])


def memory_table(size: str, config: GPTConfig, options: argparse.Namespace) -> Table:
    """Peak memory of training steps, less that before the model, each contestant alone in a process of its own."""
    peaks = {}
    for name in names_of(options):
        worker = Worker(job_of(name, config, MEMORY_SHAPE, options))
        peaks[name] = [worker.step() for _ in range(MEMORY_STEPS)][-1]["peak_bytes"]
        worker.close()
    title = f"{size}, {MEMORY_SHAPE[0]} x {MEMORY_SHAPE[1]} tokens: peak of resident memory"
    table = Table(title=title, title_justify="left")
    for head in ("model", "GiB", "ours over it"):
        table.add_column(head, justify="left" if head == "model" else "right")
    for name, peak in peaks.items():
        table.add_row(name, f"{peak / 2**30:.2f}", f"{peaks[OURS] / peak:.3f}")
    return table


if __name__ == "__main__":
    sys.exit(main())
