"""Runs one size of the benchmark in its own process: `worker.py REQUEST`, where REQUEST is a JSON object.

Writes JSON lines to standard output: its progress, its plan, and the row as the last line.
"""

from __future__ import annotations

import gc
import json
import math
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader

from gpt import GPTModule, RandomTokens
from mfu_callback import BatchSizeFinder, MFUCallback, measure_peak
from mfu_callback.peaks.this_machine import device_name
from scripts.bench_parts.needs import flops_of_step
from scripts.bench_parts.plan import CONTEXTS, FEWEST_STEPS, MOST_STEPS, Plan, Wish, line_through, plan_of
from scripts.bench_parts.process import end_with_parent, events_to_stdout
from scripts.bench_parts.replaced import vector_peak
from scripts.bench_parts.row import Request, Row

DTYPES = {"bf16": torch.bfloat16, "16": torch.float16, "32": torch.float32}
FIRST_CONTEXTS = (8, 8, 64, 256)  # of the first short steps, a sequence each
# Of the time that is left: after a step longer than that no other is tried; the first allocates the memory.
QUICK_SHARE, LONG_SHARE = 0.05, 0.45
MEMORY_AGAIN = 0.6  # of the seconds in which the first of them allocates the memory, which the next fit does again
AFTER_SEC = 7.5  # for what follows the steps: a peak that is measured once more, the roofs of operators, the files
EFFICIENCY = 0.3  # of the device's matmuls, where a step cannot be tried before the plan is made


class Progress(Callback):
    """Reports finished steps, and ends training before its time is up.

    Args:
        end_at: When training must be over, in seconds since 1970.
    """

    def __init__(self, end_at: float) -> None:
        self._end_at = end_at
        self._before = time.time()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Training starts."""
        self._before = time.time()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Report the number of finished steps."""
        now = time.time()
        took, self._before = now - self._before, now
        # The first step is slower than the others, and without a second one nothing is measured.
        is_late = now + took > self._end_at and trainer.global_step >= FEWEST_STEPS
        if trainer.strategy.broadcast(is_late):  # of the first process; all must stop at the same step
            trainer.should_stop = True
        if trainer.is_global_zero:
            report(step=trainer.global_step)


class FirstSteps(Callback):
    """Times short steps of growing length, until one is long.

    Args:
        left_sec: The seconds that are left.

    Attributes:
        seconds: Those of each step.
    """

    def __init__(self, left_sec: float) -> None:
        self.seconds: list[float] = []
        self._left_sec = left_sec
        self._before = 0.0

    def on_train_start(self, *_: Any) -> None:
        """Training starts."""
        self._before = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """A step is over."""
        if trainer.strategy.root_device.type != "cpu":
            torch.accelerator.synchronize()
        now = time.perf_counter()
        self.seconds.append(now - self._before)
        self._before = now
        share = LONG_SHARE if len(self.seconds) == 1 else QUICK_SHARE
        trainer.should_stop = self.seconds[-1] > share * self._left_sec

    def of_context(self) -> dict[int, float]:
        """The seconds of the quickest step of each context that was tried."""
        tried: dict[int, float] = {}
        for context, seconds in zip(FIRST_CONTEXTS, self.seconds, strict=False):
            tried[context] = min(seconds, tried.get(context, math.inf))
        return tried


def main() -> None:
    """Run the request that the command line gives."""
    request = Request(**json.loads(sys.argv[1]))
    try:
        row = run(request)
    except Exception as error:
        message = str(error).strip().splitlines()
        row = Row(size=request.size, error=f"{type(error).__name__}: {message[0] if message else ''}")
    if row is not None:
        report(row=asdict(row))


def run(request: Request) -> Row | None:
    """Train and return the row, or None on every rank but the first."""
    started = time.time()
    torch.manual_seed(0)
    report(doing="building the model")
    with make_trainer(request, [], max_steps=1).init_module():
        module = GPTModule(request.size)
    if request.compile:
        module.model.compile()
    report(doing="first short steps")
    step_sec, first_sec = time_of_a_step(request, module)
    left = request.end_at - AFTER_SEC - first_sec - time.time()
    plan = make_plan(request, step_sec, left)
    if plan is None:
        return Row(size=request.size, precision=request.precision, reason=too_slow(request, step_sec, started))
    report(plan=asdict(plan), doing="finding the batch size" if request.find_batch_size else "training")
    return train(request, module, plan)


def time_of_a_step(request: Request, module: GPTModule) -> tuple[Callable[[int, int], float], float]:
    """Returns a function from batch size and context to the seconds of a step, and what the first takes beyond.

    Measured with short steps, whose matmuls are less efficient than those of long ones, so it rather says too much.
    Where first steps would be unlike those that follow, it is computed from the rate of the device's matmuls.
    """
    if request.compile or request.devices > 1 or request.find_batch_size:
        rate = (request.flops_per_sec or math.inf) * EFFICIENCY  # unknown: as many steps as there is time for
        return lambda batch, context: flops_of_step(request.size, batch, context) / rate, 0.0
    times = FirstSteps(request.end_at - time.time())
    trainer = make_trainer(request, [times], max_steps=len(FIRST_CONTEXTS))
    vocabulary = module.config.vocab_size
    tokens = [torch.randint(vocabulary, (1, context)) for context in FIRST_CONTEXTS]
    trainer.fit(module, DataLoader([(inputs, inputs) for inputs in tokens], batch_size=None))
    forget(module, trainer)
    points = [(flops_of_step(request.size, 1, context), sec) for context, sec in times.of_context().items()]
    beyond = MEMORY_AGAIN * (times.seconds[0] - min(times.seconds[:2]))
    return lambda batch, context: line_through(points, flops_of_step(request.size, batch, context)), beyond


def forget(module: GPTModule, trainer: Trainer) -> None:
    """Free the gradients and the optimizer's state of a fit, which the next one would need room beside."""
    module.zero_grad(set_to_none=True)
    module.trainer = None
    trainer.strategy.teardown()
    trainer.strategy.optimizers = []
    gc.collect()


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
    callback = MFUCallback(warmup_steps=plan.warmup_steps, peak=vector_peak_of(request, dtype), operators=True)
    finder = [BatchSizeFinder(budget=request.budget)] if request.find_batch_size else []
    trainer = make_trainer(
        request,
        [*finder, callback, Progress(request.end_at - AFTER_SEC)],
        max_steps=plan.max_steps,
        logger=TensorBoardLogger(request.output, name="tensorboard", version=request.size),
    )
    trainer.fit(module, datamodule=data)
    return make_row(request, trainer, data, callback, dtype) if trainer.is_global_zero else None


def make_trainer(request: Request, callbacks: list[Callback], *, max_steps: int, logger: Any = False) -> Trainer:
    """Returns a Trainer that logs every step and has all other output off."""
    return Trainer(
        accelerator=request.accelerator,
        devices=request.devices,
        strategy=request.strategy,
        precision=request.precision,
        max_steps=max_steps,
        callbacks=callbacks,
        logger=logger,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def vector_peak_of(request: Request, dtype: torch.dtype) -> float | None:
    """Returns the replaced benchmark's peak of this machine's GPU if the request asks for it, else None."""
    return vector_peak(torch.cuda.get_device_name(), dtype) if request.peaks == "vector" else None


def make_row(request: Request, trainer: Trainer, data: RandomTokens, callback: MFUCallback, dtype: torch.dtype) -> Row:
    """Returns the row of a finished run."""
    summary, device = callback.summary, trainer.strategy.root_device
    known = {"size": request.size, "precision": request.precision, "batch_size": data.batch_size}
    known["context_length"] = data.dataset.context_length
    if summary is None or not summary.steps:
        return Row(**known, reason=f"no step was measured in its time: --sizes {request.size} with more --minutes")
    if summary.mfu is None or summary.peak is None or summary.flops is None:
        return Row(**known, error=f"MFU is unknown; see {request.output}/logs/{request.size}.log")
    achievable = summary.achievable or measure_peak(device, dtype)
    scale = summary.peak.flops_per_sec / achievable.flops_per_sec
    return Row(
        **known,
        steps=summary.steps,
        device=device_name(device),
        forward_flops_thop=summary.flops.thop,
        forward_flops=summary.flops.forward,
        tokens_per_sec=summary.tokens_per_sec,
        step_time_sec=summary.step_time_sec,
        mfu=summary.mfu,
        mfu_achievable=min(summary.mfu * scale, 1.0) if summary.achievable is None else summary.mfu_achievable,
        mfu_fastest=summary.mfu_fastest,
        kernels=summary.kernels,
        peak_memory_bytes=peak_memory_bytes(device),
        peak_flops_per_sec=summary.peak.flops_per_sec,
        peak_source=summary.peak.source,
        reason=cut_short(request, trainer),
    )


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
