"""The arguments of MFUCallback and their checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from mfu_callback.flops import ATTENTIONS, COUNTERS, Attention
from mfu_callback.flops.rules.thop import check_thop
from mfu_callback.meter.batches import TokensArgument
from mfu_callback.meter.conventions import BackwardFactor, FlopsArgument
from mfu_callback.meter.ledger import SYNCS, Sync
from mfu_callback.meter.prometheus import LAST_PORT, LOCALHOST
from mfu_callback.peaks import Peak, PeakArgument
from mfu_callback.tools.options import (
    FLAG,
    Option,
    above,
    at_least,
    checked,
    instance_of,
    is_function,
    is_text,
    one_of,
    whole,
)

SummaryStyle = Literal["auto", "table", "line"] | None
SUMMARIES = ("auto", "table", "line", None)

# What each argument may be, and what an error says of it.
_OPTIONS: dict[str, Option] = {
    "flops": Option(
        f"is not known. Use one of {COUNTERS}, the FLOPs of forward and backward per token as a number above 0, or a"
        " function of the batch.",
        *(one_of(*COUNTERS), above(0), is_function),
    ),
    "backward_factor": Option(
        "must be 'measured' or a number of at least 0; 2.0 is the usual value.", one_of("measured"), at_least(0)
    ),
    "attention": Option(f"is not known. Use one of {ATTENTIONS}.", one_of(*ATTENTIONS)),
    "peak": Option(
        "is not known. Use None, 'measured', a Peak, or the FLOP/s of one device as a number above 0, for example"
        " 312e12.",
        *(one_of(None, "measured"), instance_of(Peak), above(0)),
    ),
    "tokens": Option(
        "must be the number of tokens in every batch, a whole one of at least 1; a function that returns those of a"
        " batch; or None, which finds them.",
        *(one_of(None), whole(1), is_function),
    ),
    "ranks_per_batch": Option(
        "must be the number of ranks that are handed the same batch, a whole one of at least 1; or None, which follows"
        " the strategy.",
        *(one_of(None), whole(1)),
    ),
    "sync": Option(f"is not known. Use one of {SYNCS}.", one_of(*SYNCS)),
    "warmup_steps": Option(
        "must be a whole number of at least 0. 0 leaves out only the steps that count FLOPs.", whole(0)
    ),
    "modules": FLAG,
    "operators": FLAG,
    "board": FLAG,
    "summary": Option(f"is not known. Use one of {SUMMARIES}.", one_of(*SUMMARIES)),
    "prometheus_port": Option(
        f"must be a port from 1 to {LAST_PORT}, 0 for any free one, or None.", one_of(None), whole(0, LAST_PORT)
    ),
    "prometheus_host": Option(
        f"must be an address: {LOCALHOST!r} is this machine alone, '0.0.0.0' all networks.", is_text
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    """The arguments of `MFUCallback`, which describes them.

    Raises:
        ValueError: If an argument has a value that is not allowed; the message names it and the allowed values. Or if
            ``flops="thop-modules"`` and thop cannot be imported.
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
        given = {name: getattr(self, name) for name in _OPTIONS}
        for name, value in checked(_OPTIONS, given).items():
            object.__setattr__(self, name, value)  # numbers of numpy as Python's
        if self.flops == "thop-modules":
            check_thop("flops")
