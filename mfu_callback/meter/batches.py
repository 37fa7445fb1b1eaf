"""What is known of a batch before it runs: tokens, samples, shape, and FLOPs if they are given."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from mfu_callback.flops.lookups import Integers
from mfu_callback.flops.per_shape import UNKNOWN, BatchShape, form_of, shape_of
from mfu_callback.flops.repeated_counts import TrainingFlops
from mfu_callback.meter.conventions import FlopsArgument
from mfu_callback.meter.loss_tokens import Getter, count_loss_tokens, find_labels
from mfu_callback.meter.samples import count_samples
from mfu_callback.meter.token_finder import TokenFinder, integers_in
from mfu_callback.meter.user_functions import UserFunctions

_MOST_FORMS = 1_000

TokensArgument = int | Callable[[Any], int] | None


@dataclass(slots=True, eq=False)
class Batch:
    """What batches of the same names, shapes and dtypes have in common; unknown numbers are NaN.

    Attributes:
        tokens: Tokens, with padding.
        samples: Samples.
        has_mask: Whether an attention mask marks the padding.
        labels: How to get the labels of its tokens out of it; None without labels.
        shape: The shape under which FLOPs are counted; None if they are given.
        flops: FLOPs of the forward and backward pass; None until they are counted.
    """

    tokens: float = math.nan
    samples: float = math.nan
    has_mask: bool = False
    labels: tuple[Getter, ...] | None = None
    shape: BatchShape | None = None
    flops: TrainingFlops | None = UNKNOWN


@dataclass(slots=True, eq=False)
class LossTokens:
    """The number of tokens of a micro-batch that the loss is taken over, on the device."""

    number: torch.Tensor


class Batches:
    """Looks at batches, and caches the result by names, shapes and dtypes, since finding it is slow.

    Args:
        flops: A counter of `FlopCounter`, training FLOPs per token, or a callable from a batch to its training FLOPs.
        tokens: Tokens of every batch, a callable from a batch to its tokens, or None to count them.
        note: Called for each micro-batch with its tokens without padding, a number on the device; None without a mask.
            Then with its `LossTokens`, if it has labels.

    Attributes:
        in_hand: What is known of the micro-batch in hand: the one that was looked at last.
        of_loaders: Returns the batches of several loaders that arrive as one; a single one otherwise.
    """

    def __init__(
        self, flops: FlopsArgument, tokens: TokensArgument, note: Callable[[torch.Tensor | LossTokens | None], None]
    ) -> None:
        self.in_hand = Batch()
        self.of_loaders: Callable[[Any], Sequence[Any]] = lambda batch: (batch,)
        self._note = note
        self._flops = flops
        self._tokens = tokens
        self._functions = UserFunctions()
        self._known: dict[Hashable, Batch] = {}
        self._finder = TokenFinder()
        self._due: Any = None  # the batch in hand, while it is to be counted

    def look_at(self, batch: Any) -> None:
        """Look at the micro-batch that runs next; no reference to it is kept, unless it is to be counted."""
        try:
            form = form_of(batch)
            self.in_hand = found = self._known.get(form) or self._find(batch, form)
            self._due = batch if found.flops is None else None
            real_tokens = self._real_tokens_of(batch) if found.has_mask else None
            loss_tokens = None if found.labels is None else LossTokens(count_loss_tokens(batch, found.labels))
        except Exception as error:  # reading a user's own object may raise anything
            self._functions.warn_once(
                "batch",
                f"The batch could not be read ({type(error).__name__}: {error}), so samples are left out, and tokens"
                " and FLOPs unless they are given. Pass tokens= and flops= as functions of the batch.",
            )
            self.in_hand, real_tokens, loss_tokens = self._as_given(batch), None, None
        self._note(real_tokens)
        if loss_tokens is not None:
            self._note(loss_tokens)

    def learn_tokens(self, lookups: Sequence[Integers]) -> str | None:
        """Learn which integers of the batch in hand, which was counted, are tokens; returns what is to be said of it.

        Args:
            lookups: What the model's embeddings have looked up.
        """
        batch, self._due = self._due, None
        if batch is None or self._tokens is not None:
            return None
        finder, batches = self._finder, self.of_loaders(batch)
        before = finder.has_learned, finder.source
        finder.learn([found for one in batches for found in integers_in(one)], lookups)
        if before == (True, finder.source):
            return None
        self._known.clear()
        tokens = self._tokens_of(batch)
        self.in_hand.tokens = math.nan if tokens is None else tokens
        self.in_hand.has_mask = self._has_masks(batch)
        said = [said for one in batches if (said := finder.said_of(one)) is not None]
        return said[0] if said and (finder.source is not None or not before[0]) else None

    @property
    def size(self) -> int | None:
        """Samples of the micro-batch in hand; None if it has no tensor."""
        return None if math.isnan(self.in_hand.samples) else round(self.in_hand.samples)

    def forget_counted_flops(self) -> None:
        """Forget all counted FLOPs: the model has changed, so they hold for the batches before alone."""
        self._known.clear()
        if self.in_hand.shape is not None:
            self.in_hand = replace(self.in_hand, flops=None)

    def _find(self, batch: Any, form: Hashable) -> Batch:
        tokens, samples = self._tokens_of(batch), _sum_of_known(map(count_samples, self.of_loaders(batch)))
        is_counted = isinstance(self._flops, str)
        found = Batch(
            tokens=math.nan if tokens is None else tokens,
            samples=math.nan if samples is None else samples,
            has_mask=self._has_masks(batch),
            labels=find_labels(batch),
            shape=shape_of(batch) if is_counted else None,
            flops=None if is_counted else self._given_flops(batch, tokens),
        )
        if not callable(self._tokens) and not callable(self._flops):
            if len(self._known) >= _MOST_FORMS:
                self._known.clear()
            self._known[form] = found
        return found

    def _as_given(self, batch: Any) -> Batch:
        """What the user's arguments say about a batch that cannot be read; never raises."""
        tokens = self._functions.ask("tokens=", self._tokens, batch) if callable(self._tokens) else self._tokens
        flops = UNKNOWN if isinstance(self._flops, str) else self._given_flops(batch, tokens)
        return Batch(tokens=math.nan if tokens is None else tokens, flops=flops)

    def _tokens_of(self, batch: Any) -> int | None:
        if callable(self._tokens):
            tokens = self._functions.ask("tokens=", self._tokens, batch)
            return None if tokens is None else int(tokens)
        return _sum_of_known(map(self._finder.count, self.of_loaders(batch))) if self._tokens is None else self._tokens

    def _has_masks(self, batch: Any) -> bool:
        """Whether all tokens of a batch have a mask."""
        with_tokens = [one for one in self.of_loaders(batch) if self._finder.count(one) is not None]
        return bool(with_tokens) and all(self._finder.count_real(one) is not None for one in with_tokens)

    def _real_tokens_of(self, batch: Any) -> torch.Tensor:
        """Tokens without padding of a batch whose tokens have masks."""
        counts = [self._finder.count_real(one) for one in self.of_loaders(batch)]
        return functools.reduce(torch.add, [count for count in counts if count is not None])

    def _given_flops(self, batch: Any, tokens: float | None) -> TrainingFlops:
        if callable(self._flops):
            flops = self._functions.ask("flops=", self._flops, batch)
            return UNKNOWN if flops is None else TrainingFlops(flops)
        return UNKNOWN if tokens is None else TrainingFlops(float(self._flops) * tokens)


def _sum_of_known(numbers: Iterable[int | None]) -> int | None:
    known = [number for number in numbers if number is not None]
    return sum(known) if known else None
