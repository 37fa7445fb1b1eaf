"""What may be given to MFUCallback."""

from __future__ import annotations

import math
from numbers import Real

from mfu_callback.flops import ATTENTIONS, COUNTERS
from mfu_callback.meter.batches import FlopsArgument, TokensArgument
from mfu_callback.meter.ledger import SYNCS
from mfu_callback.peaks import Peak, PeakArgument


def check_arguments(
    flops: FlopsArgument,
    backward_factor: float | str,
    attention: str,
    peak: PeakArgument,
    tokens: TokensArgument,
    sync: str,
    warmup_steps: int,
) -> None:
    """Check the arguments of MFUCallback.

    Raises:
        ValueError: If one is not what it may be; it is named, with what may be given.
    """
    if isinstance(flops, str) and flops not in COUNTERS:
        raise ValueError(f"flops={flops!r} is not known. Use one of {COUNTERS}, FLOPs per token, or a callable.")
    if isinstance(flops, int | float) and flops <= 0:
        raise ValueError(f"flops={flops!r} must be above 0: the model FLOPs of forward and backward per token.")
    if backward_factor != "measured" and (isinstance(backward_factor, str) or backward_factor < 0):
        raise ValueError(f"backward_factor={backward_factor!r} must be 'measured' or at least 0; 2.0 is the usual one.")
    if attention not in ATTENTIONS:
        raise ValueError(f"attention={attention!r} is not known. Use one of {ATTENTIONS}.")
    if peak is not None and peak != "measured" and (isinstance(peak, bool) or not isinstance(peak, Real | Peak)):
        raise ValueError(f"peak={peak!r} is not known. Use None, 'measured', a Peak, or FLOP/s as a number.")
    if isinstance(peak, Real) and not 0 < peak < math.inf:
        raise ValueError(f"peak={peak!r} must be above 0, in FLOP/s of one device: 312e12, say.")
    if isinstance(tokens, int) and tokens < 1:
        raise ValueError(f"tokens={tokens!r} must be at least 1: the tokens of every batch.")
    if sync not in SYNCS:
        raise ValueError(f"sync={sync!r} is not known. Use one of {SYNCS}.")
    if warmup_steps < 0:
        raise ValueError(f"warmup_steps={warmup_steps!r} must not be negative; 0 leaves only the counting step out.")
