"""Runs one size of the benchmark in its own process: `worker.py REQUEST`, where REQUEST is a JSON object.

Writes JSON lines to standard output: its progress, its plan, and the row as the last line.
"""

from __future__ import annotations

import json
import math
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from gpt import GPTModule, RandomTokens
from mfu_callback import BatchSizeFinder, MFUCallback, measure_peak
from mfu_callback.meter.summary import Summary
from mfu_callback.peaks.bandwidth import measure_bandwidth
from mfu_callback.peaks.this_machine import cores, device_name
from scripts.bench_parts.first_steps import time_of_a_step
from scripts.bench_parts.plan import CONTEXTS, FEWEST_STEPS, MOST_STEPS, Plan, Wish, plan_of
from scripts.bench_parts.process import end_with_parent, events_to_stdout
from scripts.bench_parts.row import Request, Row
from scripts.bench_parts.trainers import make_module, make_trainer, set_precision_of_float32

DTYPES = {"bf16": torch.bfloat16, "16": torch.float16, "32": torch.float32}
AFTER_SEC = 7.5  # for what follows the steps: a peak that is measured once more, the roofs of operators, the files


class Progress(Callback):
    """Reports finished steps, and ends training before its time is up.

    Args:
        end_at: When training must be over, in seconds since 1970.
    """

    def __init__(self, end_at: float) -> None:
        self._end_at = end_at
        self._before = time.time()
        self._steps = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Training starts."""
        self._before = time.time()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Report the number of finished steps."""
        if trainer.global_step == self._steps:  # a batch in the middle of a step
            return
        self._steps = trainer.global_step
        now = time.time()
        took, self._before = now - self._before, now
        # The first step is slower than the others, and without a second one nothing is measured.
        is_late = now + took > self._end_at and trainer.global_step >= FEWEST_STEPS
        if trainer.strategy.broadcast(is_late):  # of the first process; all must stop at the same step
            trainer.should_stop = True
        if trainer.is_global_zero:
            report(step=trainer.global_step)


def main() -> None:
    """Run the request that the command line gives."""
    request = Request(**json.loads(sys.argv[1]))
    try:
        row = run(request)
    except Exception as error:
        row = Row(size=request.size, error=f"{type(error).__name__}: {first_line(str(error))}")
        traceback.print_exc()
    if row is not None:
        report(row=asdict(row))


def first_line(message: str) -> str:
    """Returns the first line of an error's message, with the next if it ends in a colon."""
    first, *others = [line.strip() for line in message.strip().splitlines() if line.strip()] or [""]
    return f"{first} {others[0]}" if first.endswith(":") and others else first


def run(request: Request) -> Row | None:
    """Train and return the row, or None on every rank but the first."""
    started = time.time()
    torch.manual_seed(0)
    set_precision_of_float32(request)
    share_cores(request)
    report(doing="building the model")
    module = make_module(request)
    report(doing="first short steps")
    step_sec, first_sec = time_of_a_step(request, module)
    left = request.end_at - AFTER_SEC - first_sec - time.time()
    plan = make_plan(request, step_sec, left)
    if plan is None:
        return Row(size=request.size, precision=request.precision, reason=too_slow(request, step_sec, started))
    report(plan=asdict(plan), doing="finding the batch size" if request.find_batch_size else "training")
    return train(request, module, plan)


def share_cores(request: Request) -> None:
    """Give each of several processes on a CPU its share of the cores; Lightning does so for the first of them alone."""
    if request.accelerator == "cpu" and request.devices > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, cores() // request.devices))


def make_plan(request: Request, step_sec: Callable[[int, int], float], left_sec: float) -> Plan | None:
    """Returns the plan for the time that is left; None if not even two of the smallest steps fit into it."""
    if request.find_batch_size:  # its size is known only once it is found; training stops in time
        context = request.context_length or CONTEXTS[0]
        steps = request.max_steps or MOST_STEPS
        return Plan(batch_size=1, context_length=context, max_steps=steps, warmup_steps=2, seconds=left_sec / 2)
    wish = Wish(batch_size=request.batch_size, context_length=request.context_length, max_steps=request.max_steps)
    return plan_of(wish, step_sec, seconds=left_sec, most_tokens=request.most_tokens)


def too_slow(request: Request, step_sec: Callable[[int, int], float], started: float) -> str:
    """Returns the reason of a row without a measured step, with the option that would get one."""
    batch, context = request.batch_size or 1, request.context_length or CONTEXTS[-1]
    each = step_sec(batch, context)
    needed = time.time() - started + AFTER_SEC + (FEWEST_STEPS + 1) * each
    return (
        f"a step of {batch} x {context} tokens takes about {each:.0f} s in {request.precision}, and"
        f" {max(request.end_at - time.time(), 0):.0f} s were left: --sizes {request.size}"
        f" --minutes {math.ceil(needed / 60) + 1}"
    )


def train(request: Request, module: GPTModule, plan: Plan) -> Row | None:
    """Train as planned and return the row, or None on every rank but the first."""
    dtype = DTYPES[request.precision.split("-")[0]]
    data = RandomTokens(batch_size=plan.batch_size, context_length=plan.context_length)
    callback = MFUCallback(warmup_steps=plan.warmup_steps, operators=True)
    finder = [BatchSizeFinder(budget=request.budget)] if request.find_batch_size else []
    trainer = make_trainer(
        request,
        [*finder, callback, Progress(request.end_at - AFTER_SEC)],
        max_steps=plan.max_steps,
        logger=TensorBoardLogger(request.output, name="tensorboard", version=request.name),
    )
    trainer.fit(module, datamodule=data)
    return make_row(request, trainer, data, callback.summary, dtype) if trainer.is_global_zero else None


def make_row(
    request: Request, trainer: Trainer, data: RandomTokens, summary: Summary | None, dtype: torch.dtype
) -> Row:
    """Returns the row of a finished run."""
    device = trainer.strategy.root_device
    known = settings_of(request, device) | {
        "batch_size": data.batch_size,
        "context_length": data.dataset.context_length,
    }
    if summary is None or not summary.steps:
        return Row(**known, reason=f"no step was measured in its time: --sizes {request.size} with more --minutes")
    if summary.mfu is None or summary.peak is None or summary.flops is None:
        return Row(**known, error=f"MFU is unknown; see {request.output}/logs/{request.name}.log")
    achievable = summary.achievable or measure_peak(device, dtype)
    scale = summary.peak.flops_per_sec / achievable.flops_per_sec
    same = ("steps", "tokens_per_sec", "step_time_sec", "mfu", "hfu", "mfu_fastest", "waterfall", "kernels")
    return Row(
        **known,
        **{name: getattr(summary, name) for name in same},
        forward_flops_thop=summary.flops.thop,
        forward_flops=summary.flops.forward,
        mfu_achievable=min(summary.mfu * scale, 1.0) if summary.achievable is None else summary.mfu_achievable,
        operators=None if summary.operators is None else [asdict(one) for one in summary.operators],
        bandwidth_bytes_per_sec=bandwidth_of(device),
        peak_memory_bytes=peak_memory_bytes(device),
        peak_flops_per_sec=peak_of(summary, request, known),
        peak_source=summary.peak.source,
        reason=cut_short(request, trainer),
    )


def settings_of(request: Request, device: torch.device) -> dict[str, Any]:
    """Returns the fields of a row that say what ran on what."""
    same = ("size", "precision", "devices", "strategy", "compile", "checkpoint_activations")
    same = (*same, "accumulate_grad_batches", "tf32")
    return {name: getattr(request, name) for name in same} | {
        "device": device_name(device),
        "torch": torch.__version__,
    }


def peak_of(summary: Summary, request: Request, known: dict[str, Any]) -> float:
    """Returns the peak of one device that MFU is relative to, in FLOP/s; of several devices it is their mean."""
    if request.devices == 1:
        return summary.peak.flops_per_sec
    flops_per_token = 3 * summary.flops.forward / (known["batch_size"] * known["context_length"])
    return flops_per_token * summary.tokens_per_sec / request.devices / summary.mfu


def bandwidth_of(device: torch.device) -> float | None:
    """Returns how fast the device copies, in bytes per second; None where it has no room for that."""
    with suppress(RuntimeError):
        return measure_bandwidth(device)
    return None


def cut_short(request: Request, trainer: Trainer) -> str | None:
    """Returns why fewer steps were trained than the command line asked for; None if all were."""
    if request.max_steps is None or trainer.global_step >= request.max_steps:
        return None
    return f"{trainer.global_step} of {request.max_steps} steps were trained in its time: give more --minutes"


def peak_memory_bytes(device: torch.device) -> int:
    """Returns the peak memory of this run: of the GPU's allocator, or else the resident memory of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    kibibytes_or_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kibibytes_or_bytes * (1 if sys.platform == "darwin" else 1024)


def report(**event: Any) -> None:
    """Write one JSON line for the process that started this one."""
    print(json.dumps(event), file=TELL, flush=True)


if __name__ == "__main__":
    TELL = events_to_stdout()  # everything else that is printed goes to the log
    end_with_parent()
    Path(Request(**json.loads(sys.argv[1])).output).mkdir(parents=True, exist_ok=True)
    main()
