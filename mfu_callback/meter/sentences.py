"""The facts that advice begins with, as text: what is lost, in seconds of a step, and what is known of the cause."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from mfu_callback.meter.facts import Facts
from mfu_callback.meter.gpu_state import clock_fact

if TYPE_CHECKING:
    from mfu_callback.meter.devices import PaceSetter

Evidence = Callable[[Facts], str]  # empty, or what follows the fact


def of_step(facts: Facts, seconds: float) -> str:
    """Seconds beside those of the whole step: "41 ms of 100 ms a step"."""
    return f"{time(seconds)} of {time(facts.step_sec)} a step"


def time(seconds: float) -> str:
    """A time as text: "41 ms", "4.1 ms", "1.04 s", "less than 0.01 ms"."""
    if 0 < seconds < 1e-5:
        return "less than 0.01 ms"
    if seconds >= 1:
        return f"{seconds:.3g} s"
    return f"{1000 * seconds:.0f} ms" if seconds >= 0.01 else f"{1000 * seconds:.2g} ms"


def device_of(pace: PaceSetter) -> str:
    """The name of a device: "rank 1 on node7"."""
    return f"rank {pace.rank} on {pace.host}" if pace.host else f"rank {pace.rank}"


def of_data(facts: Facts, seconds: float) -> str:
    """Waiting for data, where it is loaded, and which device waits."""
    workers = facts.circumstances.num_workers
    known = {None: "", 0: ", which the training process loads itself (num_workers=0)", 1: " from 1 worker"}
    data = f"for data{known.get(workers, f' from {workers} workers')}"
    return _of_part(facts, seconds, "data", f"are waiting {data}", f"waits {{}} {data}")


def of_optimizer(facts: Facts, seconds: float) -> str:
    """Time in the optimizer, and whether it is fused."""
    unfused = facts.circumstances.unfused
    where = f"in the optimizer ({', '.join(unfused)} without fused=True)" if unfused else "in the optimizer"
    return _of_part(facts, seconds, "optimizer", f"are spent {where}", f"spends {{}} {where}")


def of_callbacks(facts: Facts, seconds: float) -> str:
    """Time in callbacks and logging, that of the loop itself included."""
    where = "in callbacks and logging"
    return _of_part(facts, facts.seconds("other"), "other", f"are spent {where}", f"spends {{}} {where}")


def _of_part(facts: Facts, seconds: float, phase: str, several: str, one: str) -> str:
    """The fact of a part, or of the device whose part it is if the others wait for it."""
    pace = facts.pace
    if pace is None or pace.phase != phase:
        return f"{of_step(facts, seconds)} {several}"
    waiting = f"the others wait {time(pace.behind_sec)} for it{_how_often(pace)}"
    return f"R{device_of(pace)[1:]} {one.format(of_step(facts, seconds))}; {waiting}"


def of_slow_device(facts: Facts, seconds: float) -> str:
    """A device whose forward or backward pass is slower than that of the others."""
    pace = facts.pace
    if pace is None:
        return ""
    waiting = f"The others wait {of_step(facts, seconds)} for {device_of(pace)}{_how_often(pace)}"
    return f"{waiting}, whose {pace.phase} pass takes longer"


def _how_often(pace: PaceSetter) -> str:
    return "" if pace.is_constant else f" (in {pace.late_share:.0%} of the steps)"


def of_padding(facts: Facts, seconds: float) -> str:
    """The share of the tokens that is padding, and what it takes."""
    return f"{facts.padding:.0%} of the tokens are padding, which takes {of_step(facts, seconds)}"


def of_kernels(facts: Facts, seconds: float) -> str:
    """Time in which the forward and backward pass are slower than matmuls."""
    return f"{of_step(facts, seconds)} are lost since forward and backward run below the rate of the best matmuls"


def retries(facts: Facts) -> str:
    """How often the allocator emptied its cache."""
    return f", and the allocator ran out of memory and emptied its cache {facts.retries:.2g} times a step"


def swapped(facts: Facts) -> str:
    """How much of the process is swapped out."""
    size = f"{facts.swapped_bytes / 2**30:.1f} GiB"
    return f", and {facts.swapped_share:.0%} of this process's memory ({size}) is swapped out"


def small_modules(facts: Facts) -> str:
    """How little one module computes, beside what starting it takes."""
    lost = facts.seconds("kernels") / (facts.circumstances.modules or 1)
    ideal = facts.ideal_sec_of_module or 0.0
    each = f"{1e6 * lost:.0f} us for each of its {facts.circumstances.modules} modules"
    return f": {each}, whose matmuls would take {1e6 * ideal:.2g} us"


def no_matmuls(facts: Facts) -> str:
    """How little the matmuls take."""
    return f"; its matmuls would take {time(facts.seconds('mfu', 'unreachable'))}, so something else takes the time"


def unfilled(facts: Facts) -> str:
    """How much of the memory a batch takes."""
    return (
        f"; with batches of {facts.circumstances.batch_size}, {facts.memory_share or 0.0:.0%} of the memory is in use"
    )


def of_unreachable(facts: Facts, seconds: float) -> str:
    """Time that even the best matmul of this device needs beyond what its peak promises, and its clock if known."""
    clock = clock_fact(facts.gpu)
    fact = f"{of_step(facts, seconds)} are out of reach, since the best matmul of this device stays below its peak"
    return fact if clock is None else f"{fact}, and {clock}"
