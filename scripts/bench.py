"""Train GPTs of four sizes and print their tokens/s, MFU and memory.

Without arguments, all four sizes run, with defaults that suit this machine. Each size runs in its own process: if one
fails, its row shows the error, and the other sizes still run.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from gpt import GPT, SIZES, get_config
from mfu_callback import count_flops
from mfu_callback.finder.prediction.predict import bytes_of
from scripts.bench_parts.plot import draw
from scripts.bench_parts.replaced import VECTOR_PEAKS, vector_peak
from scripts.bench_parts.row import Request, Row, table_of

CONTEXT_LIMIT = 1024
WARMUP_STEPS = 2  # FLOPs are counted in the first of them
PRECISIONS = ("bf16-true", "bf16-mixed", "16-true", "16-mixed", "32-true")


def main() -> None:
    """Run what the command line asks for."""
    parser = make_parser()
    arguments = parser.parse_args()
    check(parser, arguments)
    console = Console(width=None if sys.stdout.isatty() else 140)  # a file or a pipe has no width
    output = Path(arguments.output)
    output.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for row in counted(arguments) if arguments.flops_only else measure(arguments, console):
        rows.append(row)
        (output / "bench.json").write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    console.print(table_of(rows, title_of(rows, arguments)))
    if arguments.flops_only:
        print(f"rows in {output / 'bench.json'}")
        return
    draw(rows, output / "bench.png")
    print(f"rows in {output / 'bench.json'}, picture in {output / 'bench.png'}; open the curves with:")
    print(f"{tensorboard_command()} --logdir {output / 'tensorboard'}")
    if any(row.error for row in rows):
        sys.exit(1)


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    accelerated = torch.accelerator.is_available()
    add("--sizes", nargs="+", choices=SIZES, default=list(SIZES), metavar="SIZE", help=f"some of {', '.join(SIZES)}")
    add(
        "--batch-size",
        type=batch_size,
        help="sequences in a batch, or auto for the largest that fits"
        " (default: auto on CUDA, else 1; with --flops-only 2)",
        default=argparse.SUPPRESS,
    )
    add(
        "--budget",
        type=budget,
        help="memory for --batch-size auto, model included, such as 8GiB (default: free memory; on a CPU 80 %% of it)",
        default=argparse.SUPPRESS,
    )
    add(
        "--context-length",
        type=int,
        help="tokens in a sequence (default: 1024; on a CPU 256)",
        default=argparse.SUPPRESS,
    )
    add("--precision", choices=PRECISIONS, default="bf16-true", help="precision of Lightning's Trainer")
    add("--max-steps", type=int, default=30 if accelerated else 5, help="optimizer steps, including 2 warm-up steps")
    add("--accelerator", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="where to train")
    add("--devices", type=int, default=1, help="number of devices")
    add("--strategy", default="auto", help="strategy of Lightning's Trainer, such as ddp")
    add("--compile", action="store_true", help="compile the model with torch.compile")
    add("--output", default=time.strftime("bench-results/%Y-%m-%d_%H-%M-%S"), help="directory of the results")
    add(
        "--peaks",
        choices=("dense", "vector"),
        default="dense",
        help="the peak that MFU is relative to: the dense"
        " tensor-core rate, or the vector units' rate that the replaced benchmark used",
    )
    add("--flops-only", action="store_true", help="count forward FLOPs and stop, without memory for the models")
    return parser


def batch_size(text: str) -> int | None:
    """Parses --batch-size: a number, or None for "auto"."""
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of at least 1 nor auto")
    return int(text)


def budget(text: str) -> int:
    """Parses --budget into bytes."""
    try:
        return bytes_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; give bytes, or text such as 8GiB") from error


def check(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Fill in the defaults that depend on the machine, and refuse options that cannot work."""
    arguments.accelerator = accelerator_of(parser, arguments.accelerator)
    on_cpu = arguments.accelerator == "cpu"
    arguments.budget = getattr(arguments, "budget", None)
    if not hasattr(arguments, "context_length"):
        arguments.context_length = 256 if on_cpu and not arguments.flops_only else CONTEXT_LIMIT
    if not hasattr(arguments, "batch_size"):
        arguments.batch_size = 2 if arguments.flops_only else None if arguments.accelerator == "cuda" else 1
    if not 1 <= arguments.context_length <= CONTEXT_LIMIT:
        parser.error(f"--context-length {arguments.context_length}: give 1 to {CONTEXT_LIMIT}, the models' context")
    if arguments.devices < 1:
        parser.error(f"--devices {arguments.devices}: give at least 1")
    if arguments.max_steps <= WARMUP_STEPS:
        parser.error(f"--max-steps {arguments.max_steps}: give at least {WARMUP_STEPS + 1}; the first are warm-up")
    if on_cpu and arguments.precision.startswith("16"):
        parser.error(
            f"--precision {arguments.precision}: fp16 is about 100 times slower than fp32 on a CPU; give"
            " bf16-true or 32-true"
        )
    if arguments.flops_only and arguments.batch_size is None:
        parser.error("--batch-size auto: --flops-only trains nothing; give a number")
    if arguments.batch_size is not None and arguments.budget is not None:
        parser.error(
            f"--budget: is for --batch-size auto, but the batch size is {arguments.batch_size}; give only one of them"
        )
    if arguments.peaks == "vector" and not arguments.flops_only and not has_vector_peak(arguments):
        names = ", ".join(" ".join(sorted(row.words, reverse=True)).upper() for row in VECTOR_PEAKS)
        parser.error(f"--peaks vector: the replaced benchmark has a peak for {names} only; give --peaks dense")
    if (Path(arguments.output) / "bench.json").exists():
        parser.error(f"--output {arguments.output}: holds the results of another run; give another directory")


def accelerator_of(parser: argparse.ArgumentParser, name: str) -> str:
    """Returns the accelerator to use, with "auto" resolved; refuses one that this machine does not have."""
    current = torch.accelerator.current_accelerator(check_available=True)
    available = "cpu" if current is None else current.type
    if name not in ("auto", "cpu", available):
        parser.error(f"--accelerator {name}: this machine has none; give cpu or auto")
    return available if name == "auto" else name


def has_vector_peak(arguments: argparse.Namespace) -> bool:
    """Whether the replaced benchmark knows this machine's GPU."""
    dtype = torch.float32 if arguments.precision.startswith("32") else torch.bfloat16
    return arguments.accelerator == "cuda" and vector_peak(torch.cuda.get_device_name(), dtype) is not None


def counted(arguments: argparse.Namespace) -> Iterator[Row]:
    """Yields a row for each size, with the forward FLOPs of one batch."""
    return (count(size, arguments) for size in arguments.sizes)


def count(size: str, arguments: argparse.Namespace) -> Row:
    """Returns a row with the forward FLOPs of one batch, counted on the meta device, which needs no memory."""
    with torch.device("meta"):
        model = GPT(get_config(size))
        tokens = torch.zeros(arguments.batch_size, arguments.context_length, dtype=torch.long)
    flops = count_flops(model, tokens)
    return Row(
        size=size,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        batch_size=arguments.batch_size,
        context_length=arguments.context_length,
        forward_flops_thop=flops.thop,
        forward_flops=flops.forward,
    )


def measure(arguments: argparse.Namespace, console: Console) -> Iterator[Row]:
    """Run one size after the other, each in its own process, and show the progress."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        for size in arguments.sizes:
            request = request_of(size, arguments)
            task = progress.add_task(f"{size}: starting", total=request.max_steps)
            row = run_in_process(request, lambda size=size, task=task, **event: show(progress, task, size, event))
            progress.remove_task(task)
            console.print(line_of(row), highlight=False)
            yield row


def show(progress: Progress, task: object, size: str, event: dict[str, object]) -> None:
    """Show one event of a size's process."""
    if "doing" in event:
        progress.update(task, description=f"{size}: {event['doing']}")
    if "step" in event:
        progress.update(task, description=f"{size}: training", completed=event["step"])


def request_of(size: str, arguments: argparse.Namespace) -> Request:
    """Returns the request for the process of one size."""
    fields = {name: value for name, value in vars(arguments).items() if name in Request.__dataclass_fields__}
    return Request(**fields, size=size, warmup_steps=WARMUP_STEPS)


def run_in_process(request: Request, listen) -> Row:
    """Run one size in its own process and return its row.

    The process logs to OUTPUT/logs/SIZE.log. If it dies, the row has the error.
    """
    log_path = Path(request.output) / "logs" / f"{request.size}.log"
    log_path.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(Path(__file__).with_name("bench_parts") / "worker.py"), json.dumps(asdict(request))]
    row = None
    with log_path.open("w") as log, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process:
        for line in process.stdout:
            event = json.loads(line)
            row = Row(**event["row"]) if "row" in event else row
            listen(**event)
    if row is None:
        row = Row(size=request.size, error=f"{how_it_ended(process.returncode)}; see {log_path}")
    return row


def how_it_ended(return_code: int) -> str:
    """Returns how a process ended, in words."""
    if return_code == -9:
        return "killed, most likely because memory ran out"
    return f"ended by signal {-return_code}" if return_code < 0 else f"ended with status {return_code}"


def line_of(row: Row) -> str:
    """Returns a row as one line, to print while the other sizes still run."""
    if row.error:
        return f"{row.size}: {row.error}"
    return f"{row.size}: {row.tokens_per_sec:,.1f} tokens/s, {row.step_time_sec:.3f} s a step, MFU {row.mfu:.4f}"


def title_of(rows: list[Row], arguments: argparse.Namespace) -> str:
    """Returns the title of the table."""
    if arguments.flops_only:
        return f"Forward FLOPs of a batch of {arguments.batch_size} x {arguments.context_length} tokens"
    device = next((row.device for row in rows if row.device), arguments.accelerator)
    return f"{device}, {arguments.precision}, {arguments.devices} device(s)"


def tensorboard_command() -> str:
    """Returns the command that starts TensorBoard: the one on the PATH, or else the one beside this Python."""
    beside = Path(sys.executable).with_name("tensorboard")
    if shutil.which("tensorboard") or not beside.exists():
        return "tensorboard"
    return str(beside.relative_to(Path.cwd()) if beside.is_relative_to(Path.cwd()) else beside)


if __name__ == "__main__":
    main()
