"""The conventions by which the FLOPs of a run are counted."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from mfu_callback.flops import CounterName, FlopCount, FlopCounter
from mfu_callback.flops.operator_calls import OperatorCalls
from mfu_callback.flops.repeated_counts import TrainingFlops

_SMALLEST_SHARE = 1e-3  # a dtype with less of the FLOPs (a router's, a norm's) counts as the others

FlopsArgument = CounterName | float | Callable[[Any], float]
BackwardFactor = float | Literal["measured"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Conventions:
    """How the FLOPs of a run are counted.

    Attributes:
        flops: A counter of `FlopCounter`, training FLOPs per token, or a callable from a batch to its training FLOPs.
        backward_factor: FLOPs of the backward pass over those of the forward pass, or "measured".
        attention: The convention for attention, "full" or "causal".
        ranks_per_batch: Number of ranks that are handed the same batch, and work on it together.
        tensor_parallel: Number of those whose work each of them counts; 1 where each counts what it computes itself.
        forward_only: Whether batches are evaluated, so that no backward pass is taken for granted. Gradients that a
            batch asks for, such as forces, count as they ran.
    """

    flops: FlopsArgument = "thop"
    backward_factor: float | str = 2.0
    attention: str = "full"
    ranks_per_batch: int = 1
    tensor_parallel: int = 1
    forward_only: bool = False

    @property
    def ranks_per_flops(self) -> int:
        """Number of ranks whose work the FLOPs of a batch are; given FLOPs are those of the whole batch."""
        return self.tensor_parallel if isinstance(self.flops, str) else self.ranks_per_batch

    @property
    def counts_own_part(self) -> bool:
        """Whether each rank counts only its own part of the work on a batch."""
        return self.ranks_per_batch > self.ranks_per_flops

    @property
    def counter_name(self) -> str:
        """The counter's name, or how the FLOPs are given."""
        if isinstance(self.flops, str):
            return self.flops
        return "given by a function of the batch" if callable(self.flops) else f"given: {self.flops:g} per token"

    def __str__(self) -> str:
        factor = self.backward_factor if isinstance(self.backward_factor, str) else f"{self.backward_factor:g} x"
        part = f", each of {self.ranks_per_batch} ranks its own part of a batch" if self.counts_own_part else ""
        passes = "forward alone" if self.forward_only else f"backward {factor}"
        return f"attention {self.attention}, {passes}{part}"

    @property
    def given_flops(self) -> FlopsArgument:
        """``flops`` for the passes that run.

        Given FLOPs are those of forward and backward, of which a forward pass alone is ``1 / (1 + backward_factor)``:
        NaN if that factor is "measured", since nothing is measured then.
        """
        flops = self.flops
        if not self.forward_only or isinstance(flops, str):
            return flops
        parts = math.nan if isinstance(self.backward_factor, str) else 1 + self.backward_factor
        if not callable(flops):
            return flops / parts

        def of_forward(batch: Any) -> Any:
            of_both = flops(batch)
            return None if of_both is None else of_both / parts

        return of_forward

    def counter(self, module: nn.Module, calls: OperatorCalls | None = None) -> FlopCounter:
        """A new counter of the module's forward and backward pass, to be used in a ``with`` block.

        Args:
            module: The model.
            calls: Receives every operator that runs.

        Raises:
            ValueError: If FLOPs are given, so that there is nothing to count.
        """
        if not isinstance(self.flops, str):
            raise ValueError("FLOPs are given by flops=, so there is nothing to count.")
        return FlopCounter(
            module,
            counter=self.flops,
            attention=self.attention,
            tensor_parallel=self.tensor_parallel,
            calls=calls,
        )

    def training_flops(self, count: FlopCount) -> TrainingFlops | None:
        """FLOPs of the passes of a batch; None if nothing, or no "measured" backward, was counted."""
        if not count.forward:
            return None
        recomputed = math.nan if count.recomputed is None else count.recomputed
        if self.forward_only:
            return self._training_flops(count, count.backward or 0, recomputed)
        if not isinstance(self.backward_factor, str):
            return self._training_flops(count, count.forward * self.backward_factor, recomputed)
        return None if not count.backward else self._training_flops(count, count.backward, recomputed)

    @staticmethod
    def _training_flops(count: FlopCount, backward: float, recomputed: float) -> TrainingFlops:
        """FLOPs in all and by dtype; those of the backward pass as they were seen to be divided among dtypes."""
        shares: Counter[str] = Counter()
        for flops, of_dtypes in (
            (count.forward, count.per_dtype),
            (backward, count.backward_per_dtype or count.per_dtype),
        ):
            seen = sum(of_dtypes.values())
            for dtype, part in of_dtypes.items():
                shares[dtype] += flops * part / seen  # type: ignore[assignment]
        whole = count.forward + backward
        worth_telling = {dtype: flops for dtype, flops in shares.items() if flops >= _SMALLEST_SHARE * whole}
        return TrainingFlops(whole, recomputed, worth_telling if len(worth_telling) > 1 else {})

    def factor_error(self, count: FlopCount) -> float | None:
        """Relative error of the training FLOPs that a constant backward factor causes; None if it is unknown."""
        if self.forward_only or isinstance(self.backward_factor, str) or not count.backward:
            return None
        return count.forward * (1 + self.backward_factor) / (count.forward + count.backward) - 1
