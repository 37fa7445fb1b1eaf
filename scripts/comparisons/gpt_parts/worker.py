"""A process that trains one contestant, step by step as it is told, or multiplies matrices."""

from __future__ import annotations

import multiprocessing
import os
import warnings
from dataclasses import dataclass
from multiprocessing.connection import Connection
from time import perf_counter
from typing import Any

import psutil
import torch

from gpt import GPTConfig, TextFile
from gpt.data import RandomTokenDataset
from mfu_callback import measure_peak
from mfu_callback.tools.host_memory import status_bytes
from scripts.comparisons.gpt_parts.contestants import CONTESTANTS, TRICKS

MATMULS = "matmul"
_MATMUL_SEC = 0.4


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a process is to do.

    Attributes:
        contestant: A key of CONTESTANTS or TRICKS, or MATMULS.
        config: Of the model.
        batch_size: Sequences in a batch.
        length: Tokens in a sequence.
        dtype: Of weights and activations.
        nanogpt: Directory of a checkout of nanoGPT.
        text: A file whose bytes are the tokens; random ones without it.
        environment: Variables of the process.
    """

    contestant: str
    config: GPTConfig
    batch_size: int
    length: int
    dtype: torch.dtype
    nanogpt: str | None = None
    text: str | None = None
    environment: tuple[tuple[str, str], ...] = ()


class Worker:
    """A process with a job; it computes only while it is asked.

    Args:
        job: The job.
    """

    def __init__(self, job: Job) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, job), daemon=True)
        before = dict(os.environ)
        os.environ.update(job.environment)  # which a process that is spawned takes over
        try:
            self._process.start()
        finally:
            os.environ.clear()
            os.environ.update(before)
        theirs.close()

    def step(self) -> dict[str, float]:
        """One training step, or some matmuls: ``seconds`` and ``loss``, or ``flops_per_sec``; ``peak_bytes`` so far.

        Raises:
            RuntimeError: The process failed.
        """
        self._connection.send("step")
        try:
            answer: dict[str, float] | str = self._connection.recv()
        except EOFError:
            raise RuntimeError(f"a process ended with {self._process.exitcode}: is there enough memory?") from None
        if isinstance(answer, str):
            raise RuntimeError(answer)
        return answer

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.join(10)
        self._process.kill()


def _serve(connection: Connection, job: Job) -> None:
    warnings.simplefilter("ignore")
    try:
        step = _matmuls(job) if job.contestant == MATMULS else _training(job)
        while connection.recv():
            connection.send(step())
    except EOFError:  # nobody asks any longer
        return
    except Exception as error:
        connection.send(f"{job.contestant}: {type(error).__name__}: {error}")


def _matmuls(job: Job) -> Any:
    def step() -> dict[str, float]:
        peak = measure_peak("cpu", job.dtype, time_limit_sec=_MATMUL_SEC, use_cache=False)
        return {"flops_per_sec": peak.flops_per_sec}

    return step


def _training(job: Job) -> Any:
    before = psutil.Process().memory_info().rss
    torch.manual_seed(0)  # every contestant draws the weights of ours first
    torch.set_default_dtype(job.dtype)
    training = {**CONTESTANTS, **TRICKS}[job.contestant](job.config, job.nanogpt)
    training.model.train()
    examples, taken = _examples(job), 0

    def step() -> dict[str, float]:
        nonlocal taken
        rows = [examples[(taken + row) % len(examples)] for row in range(job.batch_size)]
        tokens, targets = (torch.stack(part) for part in zip(*rows, strict=True))
        taken += job.batch_size
        start = perf_counter()
        loss = training.loss(tokens, targets)
        loss.backward()
        training.optimizer.step()
        training.optimizer.zero_grad()
        seconds = perf_counter() - start
        return {"seconds": seconds, "loss": float(loss), "peak_bytes": status_bytes("VmHWM") - before}

    return step


def _examples(job: Job) -> Any:
    if job.text is not None:
        return TextFile(job.text, context_length=job.length, validation_fraction=0.0).train_data
    return RandomTokenDataset(length=10_000, context_length=job.length, vocab_size=job.config.vocab_size)
