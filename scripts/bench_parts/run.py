"""Chooses the precision of each size, and runs it in a process of its own."""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from scripts.bench_parts.needs import bytes_per_token, memory_of_step, parameters_of, state_bytes, work_of_step
from scripts.bench_parts.plan import (
    CONTEXTS,
    FEWEST_STEPS,
    USABLE,
    Choice,
    Wish,
    by_speed,
    choose_precision,
    plan_of,
    share_of,
)
from scripts.bench_parts.process import EndedError, OutOfTimeError, run_script
from scripts.bench_parts.row import Request, Row

SURVEY_SEC = 60.0  # at most
# For the expectation before the first step: seconds until a process builds its model, parameters whose memory it fills
# in a second (weights, gradients, optimizer), and the share of its matmuls' rate that a step reaches.
START_SEC, PARAMETERS_PER_SEC, EFFICIENCY = 10.0, 2.5e7, 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What the survey has found.

    Attributes:
        rates: FLOP/s of the matmuls in training by precision.
        text: The same as text.
        memory_bytes: The available memory.
    """

    rates: dict[str, float]
    text: str
    memory_bytes: int


def survey(arguments: argparse.Namespace) -> Machine:
    """Measure what the device can do, in a process of its own; if that fails, any precision may be the fastest."""
    found: dict[str, Any] = {"rates": {}, "text": "the dtypes could not be compared", "memory_bytes": 2**63}
    with_reason = ""
    asked = json.dumps({"accelerator": arguments.accelerator, "tf32": arguments.tf32})
    try:
        log, end_at = Path(arguments.output) / "logs" / "survey.log", time.time() + SURVEY_SEC
        run_script("survey", asked, found.update, log=log, end_at=min(end_at, arguments.end_at))
    except EndedError as error:
        with_reason = f" ({error})"
    except OutOfTimeError:
        with_reason = " (it took too long)"
    return Machine(rates=found["rates"], text=f"{found['text']}{with_reason}", memory_bytes=found["memory_bytes"])


def choice_of(size: str, arguments: argparse.Namespace, machine: Machine) -> Choice:
    """Returns the precision of a size: the one that was asked for, or else the fastest that fits into the memory."""
    asked = [arguments.precision] if arguments.precision != "auto" else by_speed(machine.rates) or ["32-true"]
    context = arguments.context_length or CONTEXTS[-1]
    tokens = context * (arguments.batch_size if isinstance(arguments.batch_size, int) else 1)
    available = memory_of_one(arguments, machine)
    choice = choose_precision(asked, lambda one: memory_of_step(size, one, tokens, arguments), available)
    if choice.precision is None and arguments.precision not in ("auto", "bf16-true"):
        return replace(choice, reason=f"{choice.reason}: try --precision bf16-true --sizes {size}")
    return choice


def memory_of_one(arguments: argparse.Namespace, machine: Machine) -> float:
    """Returns the available memory of one process."""
    return machine.memory_bytes / processes_that_share(arguments)


def most_tokens(size: str, precision: str, arguments: argparse.Namespace, machine: Machine) -> float:
    """Returns about the tokens of the largest batch that fits into the memory of one process."""
    usable = USABLE * memory_of_one(arguments, machine) - state_bytes(size, precision, arguments)
    return usable / bytes_per_token(size, precision, arguments)


def expected_sec(size: str, choice: Choice, arguments: argparse.Namespace, machine: Machine) -> float:
    """Returns the seconds that a size is expected to take, from the rate of the matmuls alone."""
    if choice.precision is None:
        return 0.0
    rate = rate_of(choice.precision, arguments, machine)
    start = START_SEC + parameters_of(size) / PARAMETERS_PER_SEC
    share = share_of(arguments.end_at - time.time(), arguments.repeat * len(arguments.sizes))
    is_searched = arguments.batch_size == "auto"
    wish = Wish(
        batch_size=1 if is_searched else arguments.batch_size,
        context_length=arguments.context_length,
        max_steps=arguments.max_steps,
    )
    if rate is None or is_searched or arguments.as_notebook:
        return share
    seconds = lambda batch, context: work_of_step(size, batch, context, arguments) / (EFFICIENCY * rate)  # noqa: E731
    plan = plan_of(wish, seconds, seconds=share - start)
    return share if plan is None else start + plan.seconds


def rate_of(precision: str, arguments: argparse.Namespace, machine: Machine) -> float | None:
    """Returns the FLOP/s of one process's matmuls of a precision, those of its dtype; None if unknown."""
    same = (rate for name, rate in machine.rates.items() if name.split("-")[0] == precision.split("-")[0])
    rate = next(same, None)
    return None if rate is None else rate / processes_that_share(arguments)


def processes_that_share(arguments: argparse.Namespace) -> int:
    """Returns the number of processes that share a device's cores and memory: on a CPU all of them."""
    return arguments.devices if arguments.accelerator == "cpu" else 1


def least_sec(request: Request) -> float:
    """Returns about the seconds of the shortest run of a size, which fills its memory twice and trains a few steps."""
    rate = EFFICIENCY * (request.flops_per_sec or math.inf)
    step = work_of_step(request.size, request.batch_size or 1, request.context_length or CONTEXTS[-1], request)
    return START_SEC + 2 * parameters_of(request.size) / PARAMETERS_PER_SEC + 2 * FEWEST_STEPS * step / rate


def request_of(size: str, precision: str, arguments: argparse.Namespace, machine: Machine, end_at: float) -> Request:
    """Returns the request for the process of one size."""
    fields = {name: value for name, value in vars(arguments).items() if name in Request.__dataclass_fields__}
    is_searched = arguments.batch_size == "auto"
    own = {
        "size": size,
        "precision": precision,
        "batch_size": None if is_searched else arguments.batch_size,
        "find_batch_size": is_searched,
        "most_tokens": most_tokens(size, precision, arguments, machine),
        "flops_per_sec": rate_of(precision, arguments, machine),
        "end_at": end_at,
    }
    return Request(**fields | own)


def run_again(request: Request, first: Row, turn: int) -> Request:
    """Returns the request of a further run of a size: of the same precision, batch and context as the first.

    Args:
        request: The request of this turn.
        first: The row of the first run; the request stays as it is if that measured nothing.
        turn: The number of the run.
    """
    request = replace(request, turn=turn)
    if first.tokens_per_sec is None:
        return request
    shape = {"batch_size": first.batch_size, "context_length": first.context_length}
    return replace(request, find_batch_size=False, **shape)


def run_size(request: Request, listen: Callable[[dict[str, Any]], None]) -> Row:
    """Run one size in its own process and return its row. The process logs to OUTPUT/logs/SIZE.log."""
    log = Path(request.output) / "logs" / f"{request.name}.log"
    given = request.end_at - time.time()
    found: list[Row] = []

    def take(event: dict[str, Any]) -> None:
        if "row" in event:
            found.append(Row(**event["row"]))
        else:
            listen(event)

    try:
        run_script("worker", json.dumps(asdict(request)), take, log=log, end_at=request.end_at)
    except OutOfTimeError:
        needed = math.ceil(max(2 * given, least_sec(request)) / 60) + 1
        reason = f"not over in the {given:.0f} s left for it: --sizes {request.size} --minutes {needed}"
        return found[0] if found else Row(size=request.size, precision=request.precision, reason=reason)
    except EndedError as error:
        return found[0] if found else Row(size=request.size, precision=request.precision, error=str(error))
    if not found:
        return Row(size=request.size, precision=request.precision, error=f"ended without a row; see {log}")
    return found[0]


def run_notebook(request: Request, listen: Callable[[dict[str, Any]], None]) -> dict[str, Any] | None:
    """Run the replaced notebook's benchmarks on a size in their own process and return the figures that they reached.

    Those that they did not reach in their time, or before an error, are None; the process logs to
    OUTPUT/logs/SIZE-notebook.log.

    Args:
        request: The request of our own run, with its batch and context.
        listen: Called with each event that tells its progress.
    """
    log = Path(request.output) / "logs" / f"{request.name}-notebook.log"
    found: dict[str, Any] = {}

    def take(event: dict[str, Any]) -> None:
        found.update(event.get("notebook", {}))
        listen(event)

    try:
        run_script("notebook", json.dumps(asdict(request)), take, log=log, end_at=request.end_at)
    except OutOfTimeError:
        found["ended"] = "its time was up: give more --minutes"
    except EndedError as error:
        found["ended"] = str(error)
    return found or None
