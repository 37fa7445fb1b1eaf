"""Finds the token ids of a run's batches: by names and shapes, until the model has shown which ids it looks up."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch

from mfu_callback.flops.lookups import Integers, integers_of
from mfu_callback.meter.tokens import MASK_KEY, TOKEN_KEYS, count_tokens, ids_with_masks
from mfu_callback.tools.nested import parts_of

_MISSED = (
    "no embedding of the model looks up the integers in the batch, so they are not taken for tokens; pass tokens= if"
    " they are"
)

Way = tuple[str, ...]  # the names on the way to a tensor in a batch


class Source(NamedTuple):
    """Where the token ids are.

    Attributes:
        way: The names on the way to them in a batch.
        fewer: How many ids of each sequence are not looked up, as where the last one is a target only.
    """

    way: Way
    fewer: int = 0

    @property
    def name(self) -> str:
        """Where they are, as Python writes it."""
        keys = "".join(f"[{int(key)}]" if key.isdigit() else f"[{key!r}]" for key in self.way)
        return f"batch{keys}"


class TokenFinder:
    """Counts the tokens of batches.

    Attributes:
        source: Where the model has looked up the ids; None as long as it has not.
        has_learned: Whether the model was watched. Integers that it did not look up are then no tokens, unless their
            name says that they are.
    """

    def __init__(self) -> None:
        self.source: Source | None = None
        self.has_learned = False

    def count(self, batch: Any) -> int | None:
        """The tokens of a batch, with padding; None if it has none."""
        if self.source is not None and (ids := _at(batch, self.source.way)) is not None:
            found = integers_of(ids)
            return None if found is None else tokens_of(found.shape, self.source.fewer)
        return count_tokens(batch, named_only=self.has_learned)

    def count_real(self, batch: Any) -> torch.Tensor | None:
        """The tokens of a batch without padding, on the device; None if a tensor of ids has no mask of its shape."""
        if self.source is not None and (ids := _at(batch, self.source.way)) is not None:
            found = [(ids, _at(batch, (*self.source.way[:-1], MASK_KEY)))]
        else:
            found = list(ids_with_masks(batch, named_only=self.has_learned))
        if not found or any(getattr(mask, "shape", None) != ids.shape for ids, mask in found):
            return None
        with torch.no_grad():
            return torch.stack([mask.count_nonzero() for _, mask in found if mask is not None]).sum()

    def learn(self, integers: Sequence[tuple[Way, Integers]], lookups: Sequence[Integers]) -> None:
        """Learn from a batch that the model has run on.

        Args:
            integers: The tensors of integers in the batch, and the ways to them.
            lookups: What the model's embeddings have looked up.
        """
        self.has_learned = True
        self.source = self.source or _source(integers, lookups)

    def said_of(self, batch: Any) -> str | None:
        """What is taken for the tokens of a batch, as a sentence; None if it has no integers that could be tokens."""
        number = self.count(batch)
        if number is None:
            is_missed = self.has_learned and count_tokens(batch) is not None
            return _MISSED if is_missed else None
        if self.source is None:
            return f"{number:,} tokens in a batch, by their name in it"
        but = f" without the last {self.source.fewer} of each sequence" if self.source.fewer else ""
        return f"{number:,} tokens in a batch: those in {self.source.name}, which the model looks up{but}"


def tokens_of(shape: Sequence[int], fewer: int) -> int:
    """The number of ids in a tensor of which some in each sequence, the last dimension, are not looked up."""
    return math.prod(shape[:-1]) * max(shape[-1] - fewer, 0) if shape else 1


def integers_in(batch: Any, way: Way = ()) -> Iterator[tuple[Way, Integers]]:
    """The tensors of integers in a batch, each with the names on the way to it."""
    if isinstance(batch, torch.Tensor):
        found = integers_of(batch)
        if found is not None:
            yield way, found
        return
    for name, part in parts_of(batch) or ():
        yield from integers_in(part, (*way, name))


def _at(batch: Any, way: Way) -> torch.Tensor | None:
    for name in way:
        batch = dict(parts_of(batch) or ()).get(name)
    return batch if isinstance(batch, torch.Tensor) else None


def _source(integers: Sequence[tuple[Way, Integers]], lookups: Sequence[Integers]) -> Source | None:
    """Those whose name tells it, or else the largest that were looked up."""
    found = [
        ((_is_named(way), one.storage == lookup.storage != 0, math.prod(lookup.shape)), Source(way, fewer))
        for lookup in lookups
        for way, one in integers
        if (fewer := _not_looked_up(way, one, lookup)) is not None
    ]
    return max(found, key=lambda row: row[0])[1] if found else None


def _not_looked_up(way: Way, integers: Integers, lookup: Integers) -> int | None:
    """How many of each sequence of integers a look-up has left out; None if they are no sequences, or not its own.

    A single integer for each sample is a class, unless it is the model's input, the first of a batch: a rank's part of
    a sequence may be that short. Columns that are looked up one by one are categories.
    """
    shape, seen = integers.shape, lookup.shape
    is_input = all(name == "0" for name in way)
    if len(shape) < 2 or (shape[-1] < 2 and not is_input):
        return 0 if _is_named(way) and shape == seen else None
    if math.prod(shape) == math.prod(seen):  # perhaps flat, or turned
        return 0
    if len(shape) != len(seen):
        return None
    fewer, is_view = shape[-1] - seen[-1], integers.storage == lookup.storage != 0
    if is_view:  # perhaps of a few of the sequences, as a loop over micro-batches takes them
        return fewer if 0 <= fewer < seen[-1] else None
    return fewer if fewer == 1 and shape[:-1] == seen[:-1] else None


def _is_named(way: Way) -> bool:
    return bool(way) and way[-1] in TOKEN_KEYS
