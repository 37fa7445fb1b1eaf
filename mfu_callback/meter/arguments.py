"""The arguments of MFUCallback and their checks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any, Literal

from mfu_callback.flops import ATTENTIONS, COUNTERS, Attention
from mfu_callback.meter.batches import TokensArgument
from mfu_callback.meter.conventions import BackwardFactor, FlopsArgument
from mfu_callback.meter.ledger import SYNCS, Sync
from mfu_callback.meter.prometheus import check_address
from mfu_callback.peaks import Peak, PeakArgument

SummaryStyle = Literal["auto", "table", "line"] | None
SUMMARIES = ("auto", "table", "line", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    """The arguments of `MFUCallback`, which describes them.

    Raises:
        ValueError: If an argument has a value that is not allowed; the message names it and the allowed values.
    """

    flops: FlopsArgument = "thop"
    backward_factor: BackwardFactor = 2.0
    attention: Attention = "full"
    peak: PeakArgument = None
    tokens: TokensArgument = None
    ranks_per_batch: int | None = None
    sync: Sync = "events"
    warmup_steps: int = 3
    modules: bool = False
    operators: bool = False
    board: bool = True
    summary: SummaryStyle = "auto"
    prometheus_port: int | None = None
    prometheus_host: str = "127.0.0.1"

    @classmethod
    def of(cls, owner: str, given: Mapping[str, Any]) -> Arguments:
        """The arguments from the keywords of something else than `MFUCallback`.

        Args:
            owner: What was given them, which an error names.
            given: The keywords.

        Raises:
            TypeError: If one is not known.
            ValueError: As above.
        """
        known = [field.name for field in fields(cls)]
        for name in given:
            if name not in known:
                raise TypeError(
                    f"{owner} has no argument {name!r}. Of those of MFUCallback it takes {', '.join(known)}."
                )
        return cls(**given)

    def __post_init__(self) -> None:
        self._check_counting()
        self._check_peak()
        check_address(self.prometheus_port, self.prometheus_host)
        if isinstance(self.tokens, int) and self.tokens < 1:
            raise ValueError(f"tokens={self.tokens!r} must be at least 1. It is the number of tokens in every batch.")
        if self.ranks_per_batch is not None and self.ranks_per_batch < 1:
            raise ValueError(
                f"ranks_per_batch={self.ranks_per_batch!r} must be at least 1. It is the number of ranks that are"
                " handed the same batch."
            )
        if self.sync not in SYNCS:
            raise ValueError(f"sync={self.sync!r} is not known. Use one of {SYNCS}.")
        if self.summary not in SUMMARIES:
            raise ValueError(f"summary={self.summary!r} is not known. Use one of {SUMMARIES}.")
        if self.warmup_steps < 0:
            raise ValueError(
                f"warmup_steps={self.warmup_steps!r} must not be negative. 0 leaves out only the counting step."
            )

    def _check_counting(self) -> None:
        flops, factor = self.flops, self.backward_factor
        if isinstance(flops, str) and flops not in COUNTERS:
            raise ValueError(f"flops={flops!r} is not known. Use one of {COUNTERS}, FLOPs per token, or a callable.")
        if isinstance(flops, int | float) and flops <= 0:
            raise ValueError(f"flops={flops!r} must be above 0: model FLOPs of forward and backward per token.")
        if factor != "measured" and (isinstance(factor, str) or factor < 0):
            raise ValueError(f"backward_factor={factor!r} must be 'measured' or at least 0; 2.0 is the usual value.")
        if self.attention not in ATTENTIONS:
            raise ValueError(f"attention={self.attention!r} is not known. Use one of {ATTENTIONS}.")

    def _check_peak(self) -> None:
        peak = self.peak
        if peak is not None and peak != "measured" and (isinstance(peak, bool) or not isinstance(peak, Real | Peak)):
            raise ValueError(f"peak={peak!r} is not known. Use None, 'measured', a Peak, or FLOP/s as a number.")
        if isinstance(peak, Real) and not 0 < peak < math.inf:
            raise ValueError(f"peak={peak!r} must be above 0 and finite: FLOP/s of one device, for example 312e12.")
