"""Runs one size of the benchmark in its own process: `worker.py REQUEST`, where REQUEST is a JSON object.

Writes JSON lines to standard output: its progress, and the row as the last line.
"""

from __future__ import annotations

import json
import resource
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from gpt import GPTModule, RandomTokens
from mfu_callback import BatchSizeFinder, MFUCallback, measure_peak
from mfu_callback.peaks.this_machine import device_name
from scripts.bench_parts.replaced import vector_peak
from scripts.bench_parts.row import Request, Row

DTYPES = {"bf16": torch.bfloat16, "16": torch.float16, "32": torch.float32}


class Progress(Callback):
    """Reports the number of finished steps."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Report the number of finished steps."""
        if trainer.is_global_zero:
            report(step=trainer.global_step)


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
    torch.manual_seed(0)
    dtype = DTYPES[request.precision.split("-")[0]]
    data = RandomTokens(batch_size=request.batch_size or 1, context_length=request.context_length)
    callback = MFUCallback(warmup_steps=request.warmup_steps, peak=vector_peak_of(request, dtype))
    trainer = make_trainer(request, [callback, Progress()])
    report(doing="building the model")
    with trainer.init_module():
        module = GPTModule(request.size)
    if request.compile:
        module.model.compile()
    report(doing="finding the batch size" if request.batch_size is None else "training")
    trainer.fit(module, datamodule=data)
    if not trainer.is_global_zero:
        return None
    return make_row(request, trainer, module, data, callback, dtype)


def make_trainer(request: Request, callbacks: list[Callback]) -> Trainer:
    """Returns a Trainer that logs every step to TensorBoard, one run per size, and has all other output off."""
    finder = [BatchSizeFinder(budget=request.budget)] if request.batch_size is None else []
    return Trainer(
        accelerator=request.accelerator,
        devices=request.devices,
        strategy=request.strategy,
        precision=request.precision,
        max_steps=request.max_steps,
        callbacks=[*finder, *callbacks],
        logger=TensorBoardLogger(request.output, name="tensorboard", version=request.size),
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def vector_peak_of(request: Request, dtype: torch.dtype) -> float | None:
    """Returns the replaced benchmark's peak of this machine's GPU if the request asks for it, else None."""
    return vector_peak(torch.cuda.get_device_name(), dtype) if request.peaks == "vector" else None


def make_row(
    request: Request, trainer: Trainer, module: GPTModule, data: RandomTokens, callback: MFUCallback, dtype: torch.dtype
) -> Row:
    """Returns the row of a finished run."""
    summary, device = callback.summary, trainer.strategy.root_device
    assert summary is not None
    assert summary.peak is not None
    assert summary.flops is not None
    achievable = summary.achievable or measure_peak(device, dtype)
    scale = summary.peak.flops_per_sec / achievable.flops_per_sec
    return Row(
        size=request.size,
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        batch_size=data.batch_size,
        context_length=request.context_length,
        precision=request.precision,
        device=device_name(device),
        forward_flops_thop=summary.flops.thop,
        forward_flops=summary.flops.forward,
        tokens_per_sec=summary.tokens_per_sec,
        step_time_sec=summary.step_time_sec,
        mfu=summary.mfu,
        mfu_achievable=None if summary.mfu is None else summary.mfu * scale,
        peak_memory_bytes=peak_memory_bytes(device),
        peak_flops_per_sec=summary.peak.flops_per_sec,
        peak_source=summary.peak.source,
    )


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
    # Standard output carries only the events; everything else that is printed goes to the log.
    TELL, sys.stdout = sys.stdout, sys.stderr
    Path(Request(**json.loads(sys.argv[1])).output).mkdir(parents=True, exist_ok=True)
    main()
