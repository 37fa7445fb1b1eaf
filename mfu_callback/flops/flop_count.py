"""What counting results in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class FlopCount:
    """Model FLOPs of one forward pass of one batch.

    Model FLOPs are the multiplications and additions of matmuls, convolutions and recurrent cells that the model's
    mathematics needs (PaLM, appendix B, https://arxiv.org/abs/2204.02311): no norms, activations, embedding look-ups
    and no recomputation. One multiply-accumulate is 2 FLOPs.

    Attributes:
        forward: All model FLOPs of the pass; ``thop + functional``.
        thop: The part that thop's module rules counted.
        functional: The part that ran outside those modules: attention, functional calls, and the modules for which
            thop's rule is wrong.
        uncounted: Names of compute operations that no rule covers; empty when the count is complete.
        backward_ratio: Measured backward FLOPs over forward FLOPs, or None where it was not measured.
        recomputed: FLOPs that ran a second time (activation checkpointing), or None where that was not measured.
    """

    forward: int
    thop: int
    functional: int
    uncounted: tuple[str, ...] = ()
    backward_ratio: float | None = None
    recomputed: int | None = None

    @property
    def complete(self) -> bool:
        """Whether every compute operation had a rule."""
        return not self.uncounted

    def __add__(self, other: FlopCount) -> FlopCount:
        """The count of two disjoint parts of one forward pass."""
        return FlopCount(
            forward=self.forward + other.forward,
            thop=self.thop + other.thop,
            functional=self.functional + other.functional,
            uncounted=tuple(sorted({*self.uncounted, *other.uncounted})),
        )
