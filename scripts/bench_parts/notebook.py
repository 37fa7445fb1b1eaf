"""Runs the replaced notebook's three benchmarks on one size, beside ours: `notebook.py REQUEST`.

REQUEST is a JSON object with the precision, batch and context of our own run. Writes JSON lines to standard output: its
progress, and after each benchmark the figures so far. The notebook's ways are kept as they were (`docs/benchmark.md`
says what is wrong with each): the first step of a fresh process is the one that it times.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from gpt import GPT, SIZES, GPTModule, RandomTokens
from mfu_callback import find_batch_size
from mfu_callback.finder.limits.limit import MemoryLimit, limit_for
from mfu_callback.finder.limits.out_of_memory import is_out_of_memory
from scripts.bench_parts.first_steps import forget
from scripts.bench_parts.needs import state_bytes
from scripts.bench_parts.process import end_with_parent, events_to_stdout
from scripts.bench_parts.replaced import BATCH_SIZE, CONTEXT_LENGTH, complete_flops
from scripts.bench_parts.row import Request
from scripts.bench_parts.trainers import make_module, make_trainer

ROUNDS = 5  # of each kind of step, once it is warm
STEPS_SHARE = 0.3  # of the time, for the steps; the rest is for the two searches
SEARCH_SHARE = 0.4  # of what is then left, for ours; its last trial may take as long again
AFTER_SEC = 5.0  # before the end, after which no size is tried
ROOM_BYTES = 2**29  # on a CPU, beside the state of training: more takes longer and shows nothing else


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What the notebook's benchmarks say of one size, beside ours. None is not measured, for want of time.

    Attributes:
        flops_by_thop: Forward FLOPs of a batch of 2 x 1024 tokens, twice thop's MACs: the notebook's count.
        flops: All of them.
        cold_sec: Seconds of the first forward and backward pass of the process, with the sum of the outputs as the
            loss: the notebook's step.
        sum_sec: The median of later ones.
        loss_sec: The median with the cross-entropy as the loss.
        optimizer_sec: The median of that with a step of the optimizer.
        rounds: Number of steps behind each median.
        budget_bytes: Memory that both searches for the batch may use, the model included; None for what is free.
        largest_training: The largest batch that trains.
        training_is_limit: Whether a larger one was tried and did not fit. If not, time was up.
        largest_forward: The largest batch whose forward pass alone fits: the notebook's way.
        forward_is_limit: As above.
    """

    flops_by_thop: int
    flops: int
    cold_sec: float | None = None
    sum_sec: float | None = None
    loss_sec: float | None = None
    optimizer_sec: float | None = None
    rounds: int | None = None
    budget_bytes: int | None = None
    largest_training: int | None = None
    training_is_limit: bool | None = None
    largest_forward: int | None = None
    forward_is_limit: bool | None = None


def main() -> None:
    """Run the benchmarks of the request that the command line gives."""
    request = Request(**json.loads(sys.argv[1]))
    torch.manual_seed(0)
    report(doing="the notebook's count")
    figures = counts(request.size)
    report(notebook=asdict(figures), doing="the notebook's step")
    module = make_module(request)
    trainer = make_trainer(request, [], max_steps=1)
    end_at = time.time() + STEPS_SHARE * (request.end_at - time.time())
    figures = replace(figures, **times_of_steps(request, module, trainer, end_at))
    report(notebook=asdict(figures), doing="our search")
    figures = replace(figures, budget_bytes=budget_of(request))
    figures = replace(figures, **largest_training(request, module, trainer, figures.budget_bytes))
    report(notebook=asdict(figures), doing="the notebook's search")
    end_at = request.end_at - AFTER_SEC
    figures = replace(figures, **largest_forward(request, module, trainer, figures.budget_bytes, end_at))
    report(notebook=asdict(figures))


def counts(size: str) -> Figures:
    """Returns the notebook's count and ours. thop leaves buffers on the model, so that it gets one of its own.

    The notebook's figures have no LayerNorms, of which thop would count 4 for each number: 0.06 % of gpt-small.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # thop imports distutils
        import thop
        from thop.vision.basic_hooks import zero_ops
    with torch.device("meta"):
        model = GPT(SIZES[size])
        tokens = torch.zeros(BATCH_SIZE, CONTEXT_LENGTH, dtype=torch.long)
    macs, _ = thop.profile(model, inputs=(tokens,), custom_ops={torch.nn.LayerNorm: zero_ops}, verbose=False)
    return Figures(flops_by_thop=round(2 * macs), flops=complete_flops(size))


def times_of_steps(request: Request, module: GPTModule, trainer: Trainer, end_at: float) -> dict[str, Any]:
    """Returns the seconds of the notebook's step, and of those on the way from it to ours, in turns until it is late.

    Args:
        request: The request.
        module: The module, in which nothing has run yet.
        trainer: Says in what precision to compute.
        end_at: When to stop, in seconds since 1970.
    """
    tokens = random_tokens(request, module, request.batch_size or 1)
    steps = steps_between(module, tokens, trainer.precision_plugin.forward_context)
    cold_sec = seconds_of(steps["sum_sec"], module)
    seconds_of(steps["optimizer_sec"], module)  # makes the optimizer's state
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(ROUNDS):
        if turn and time.time() > end_at:
            break
        for name, step in steps.items():
            taken[name].append(seconds_of(step, module))
    medians = {name: statistics.median(seconds) for name, seconds in taken.items()}
    return medians | {"cold_sec": cold_sec, "rounds": len(taken["sum_sec"])}


def steps_between(
    module: GPTModule, tokens: Tensor, computing: Callable[[], AbstractContextManager[None]]
) -> dict[str, Callable[[], None]]:
    """Returns the notebook's step, and two that each add one thing, by the field of `Figures` for their time.

    Args:
        module: The module.
        tokens: (B, T) token ids.
        computing: Returns the context of a forward pass.
    """
    optimizer = module.configure_optimizers()

    def summed() -> None:
        with computing():
            loss = module.model(tokens).sum()
        loss.backward()

    def cross_entropy() -> None:
        with computing():
            loss = module.model.loss(tokens, tokens)
        loss.backward()

    def with_optimizer() -> None:
        cross_entropy()
        optimizer.step()

    return {"sum_sec": summed, "loss_sec": cross_entropy, "optimizer_sec": with_optimizer}


def random_tokens(request: Request, module: GPTModule, batch_size: int) -> Tensor:
    """Returns (B, T) token ids on the module's device."""
    device = next(module.parameters()).device
    return torch.randint(module.config.vocab_size, (batch_size, request.context_length or 1), device=device)


def seconds_of(step: Callable[[], None], module: GPTModule) -> float:
    """Returns the seconds of a step, without those of freeing the gradients of the one before."""
    module.zero_grad(set_to_none=True)
    synchronize(module)
    start = time.perf_counter()
    step()
    synchronize(module)
    return time.perf_counter() - start


def synchronize(module: GPTModule) -> None:
    """Wait for the device."""
    if next(module.parameters()).device.type != "cpu":
        torch.accelerator.synchronize()


def budget_of(request: Request) -> int | None:
    """Returns the memory of both searches: what was given, or all of a GPU's; of a CPU what a small search needs."""
    if request.budget is not None or request.accelerator != "cpu":
        return request.budget
    return round(state_bytes(request.size, request.precision, request)) + ROOM_BYTES


def largest_training(request: Request, module: GPTModule, trainer: Trainer, budget: int | None) -> dict[str, Any]:
    """Returns the largest batch of which a whole training step fits, as `BatchSizeFinder` finds it."""
    module.zero_grad(set_to_none=True)
    data = RandomTokens(context_length=request.context_length or CONTEXT_LENGTH, vocab_size=module.config.vocab_size)
    seconds = max(SEARCH_SHARE * (request.end_at - time.time()), 1.0)
    found = find_batch_size(trainer, module, datamodule=data, budget=budget, margin=0.0, max_seconds=seconds)
    forget(module, trainer)
    is_limit = not all(trial.fits for trial in found.trials)
    return {"largest_training": found.batch_size, "training_is_limit": is_limit}


def largest_forward(
    request: Request, module: GPTModule, trainer: Trainer, budget: int | None, end_at: float
) -> dict[str, Any]:
    """Returns the largest batch whose forward pass alone fits, found by running out of memory, as the notebook did."""
    device = next(module.parameters()).device
    limit = limit_for(device, budget=budget, margin=0.0)
    own = sum(parameter.nbytes for parameter in module.parameters()) if device.type == "cpu" else 0
    limit.calibrate(own_bytes=own, held_bytes=0)
    try:

        def fits(size: int) -> bool:
            return runs(module, random_tokens(request, module, size), limit, trainer.precision_plugin.forward_context())

        largest, is_limit = bisected(fits, end_at)
    finally:
        limit.close()
    return {"largest_forward": largest, "forward_is_limit": is_limit}


def runs(module: GPTModule, tokens: Tensor, limit: MemoryLimit, computing: AbstractContextManager[None]) -> bool:
    """Whether a forward pass fits. What it took is freed once its error, and the frames that this holds, are gone."""
    try:
        with limit.enforced(), torch.no_grad(), computing:
            module.model(tokens)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return False
    finally:
        limit.free()
    return True


def bisected(fits: Callable[[int], bool], end_at: float, now: Callable[[], float] = time.time) -> tuple[int, bool]:
    """Returns the largest size that fits, by doubling and then halving the gap, and whether it is the limit.

    Args:
        fits: Whether a size fits.
        end_at: When to stop, in seconds since 1970; a size that would take longer is not tried.
        now: The time of day.
    """
    low, high, per_size = 0, None, 0.0
    while high is None or high - low > 1:
        size = (2 * low or 1) if high is None else (low + high) // 2
        started = now()
        if low and started + per_size * size > end_at:
            return low, False
        if fits(size):
            low, per_size = size, (now() - started) / size
        else:
            high = size
    return low, True


def report(**event: Any) -> None:
    """Write one JSON line for the process that started this one."""
    print(json.dumps(event), file=TELL, flush=True)


if __name__ == "__main__":
    TELL = events_to_stdout()  # everything else that is printed goes to the log
    end_with_parent()
    main()
