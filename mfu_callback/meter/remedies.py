"""The remedies that advice ends with: the option, and a value that follows from what is known of the run."""

from __future__ import annotations

import math
from collections.abc import Callable

from mfu_callback.meter.circumstances import Circumstances
from mfu_callback.meter.facts import Facts
from mfu_callback.meter.loop_settings import LOOP_SETTINGS, LoopSettings

Remedy = Callable[[Facts], str]

_ACCELERATORS = ("cuda", "xpu")  # those to which pinned memory is copied faster
_USUAL_LOGGING = 50  # steps, as Lightning's log_every_n_steps
_MOST_NAMES = 3
# What holds a clock down, by words of `mfu_callback.meter.gpu_state.REASONS`.
_OF_REASONS = (
    ("power cap", "a higher power limit, if it is below the board's own (nvidia-smi -q -d POWER)"),
    ("thermal", "better cooling"),
    ("power brake", "check its power supply"),
    ("slowdown", "check its cooling and its power supply"),
)

EVEN_BATCHES = "batches of even length on all devices (sort by length), or look what else runs on their machines"


def for_data(facts: Facts) -> str:
    """More workers, as many as load a batch in the time that the rest of a step takes; pinned memory."""
    known = facts.circumstances
    if known.num_workers is None:
        return "more workers (num_workers), or pin_memory"
    pinned = ["pin_memory=True"] if needs_pinning(known) else []
    workers = workers_needed(facts)
    more = [f"num_workers={workers}"] if workers > known.num_workers else []
    if not more and not pinned:
        return "cheaper transforms, data that is prepared before the run, or a faster disk"
    return f"DataLoader({', '.join(more + pinned)})"


def needs_pinning(known: Circumstances) -> bool:
    """Whether data is copied to the device from memory that is not pinned."""
    return known.pin_memory is False and known.device in _ACCELERATORS


def workers_needed(facts: Facts) -> int:
    """Workers with which nothing would wait for data, as far as there are cores for them."""
    waiting, workers = facts.seconds("data"), facts.circumstances.num_workers or 0
    rest = max(facts.step_sec - waiting, 1e-3)
    # A batch is loaded while the step waits for it; by several workers, in the time of as many steps.
    loading = waiting if not workers else workers * facts.step_sec
    return min(math.ceil(loading / rest) + 1, max(facts.circumstances.cores or 4, 1))


def for_optimizer(facts: Facts) -> str:
    """Fused optimizers; fewer steps where there are none, or they are fused."""
    unfused = facts.circumstances.unfused
    if unfused is None:
        return "fused=True, or larger batches"
    if unfused:
        return " and ".join(f"{name}(..., fused=True)" for name in unfused)
    return f"larger batches, or {_settings(facts).accumulate}, so that it steps less often"


def for_callbacks(facts: Facts) -> str:
    """Log less often, and the callbacks by name."""
    every, names = facts.circumstances.log_every_n_steps, (facts.circumstances.callbacks or ())[:_MOST_NAMES]
    look = f"look at {', '.join(names)}" if names else "look at the callbacks"
    if every is None or every >= _USUAL_LOGGING:
        return look if names else "log less often, or look at the callbacks"
    return f"{_settings(facts).log_less}, or {look}"


def for_slow_device(facts: Facts) -> str:
    """The device itself if it is slow all the time; otherwise what it is given to do."""
    if facts.pace is not None and facts.pace.is_constant:
        return "check that device (clocks, temperature, other processes), and whether its batches are larger"
    return EVEN_BATCHES


def for_allocator(facts: Facts) -> str:
    """Less memory, or less fragmentation of it."""
    return "PYTORCH_ALLOC_CONF=expandable_segments:True, or smaller batches with accumulate_grad_batches"


def for_swap(facts: Facts) -> str:
    """Less memory."""
    return "smaller batches with accumulate_grad_batches, fewer workers, or a machine with more memory"


def for_gaps(facts: Facts) -> str:
    """Fewer and larger kernels."""
    if not facts.circumstances.is_compiled:
        return "torch.compile, or larger batches"
    is_cuda = facts.circumstances.device == "cuda"
    return 'torch.compile(mode="reduce-overhead"), or larger batches' if is_cuda else "larger batches"


def for_memory_bound(facts: Facts) -> str:
    """Fusion."""
    if facts.circumstances.is_compiled:
        return "fused norms and losses, or bfloat16 activations"
    return "torch.compile, which fuses them"


def for_attention(facts: Facts) -> str:
    """Fused attention."""
    return "torch.nn.functional.scaled_dot_product_attention, or flex_attention for masks of your own"


def for_transfers(facts: Facts) -> str:
    """Fewer copies."""
    return "no .item(), .cpu() or print of a tensor in each step, and DataLoader(pin_memory=True)"


def for_matmuls(facts: Facts) -> str:
    """Larger matmuls."""
    return "larger batches, and sizes that are multiples of 64"


def for_no_matmuls(facts: Facts) -> str:
    """Find out what it is."""
    return f"look at what else the step does; {_naming_of_operators(facts)}"


def for_unfilled(facts: Facts) -> str:
    """Larger batches."""
    return f"larger batches{_settings(facts).largest_batch}"


def for_kernels(facts: Facts) -> str:
    """All that makes kernels faster and is not in use."""
    if facts.circumstances.is_compiled:
        return f"larger batches, or fused attention; {_naming_of_operators(facts)}"
    return "larger batches, torch.compile, or fused attention"


def for_communication(facts: Facts) -> str:
    """Less to send, or less often."""
    settings = _settings(facts)
    return (
        f"larger batches, {settings.accumulate}, other buckets ({settings.buckets}),"
        " gradients compressed by a ddp_comm_hook, or a faster network"
    )


def for_unreachable(facts: Facts) -> str:
    """What holds the clock down, if it is known."""
    reasons = (facts.gpu or {}).get("throttle_reasons") or {}
    most = max(reasons, key=lambda reason: reasons[reason], default="")
    return next((remedy for words, remedy in _OF_REASONS if words in most), "check its power limit, clocks and cooling")


def _naming_of_operators(facts: Facts) -> str:
    return f"{_settings(facts).measured_by}(operators=True) names the operators"


def _settings(facts: Facts) -> LoopSettings:
    return LOOP_SETTINGS[facts.circumstances.loop]
