"""Counts the tokens of a batch that the loss is taken over."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from operator import attrgetter, itemgetter
from typing import Any

import torch

from mfu_callback.meter.tokens import TOKEN_KEYS, is_integer

_LABELS_KEY = "labels"
_IGNORED = -100  # what torch's cross_entropy and Hugging Face's models leave out of the loss

Getter = Callable[[Any], Any]


def find_labels(batch: Any) -> tuple[Getter, ...] | None:
    """Find the labels in a batch: integers of the shape of the token ids that they belong to.

    Labels are the ``labels`` next to the token ids in a mapping or a dataclass. Of a sequence the first item is the
    model's input, as it is for `mfu_callback.count_tokens`, and only labels inside of it are found: the targets in a
    pair of tensors are rarely ignored, and to look for it in every step would cost more than all else that is measured.

    Args:
        batch: A batch as the dataloader yields it.

    Returns:
        A function for each tensor of labels that gets it out of a batch of the same form; None if a tensor of token ids
        has no labels.
    """
    found = list(_pairs(batch))
    return tuple(get for get, _ in found) if found and all(fits for _, fits in found) else None


def count_loss_tokens(batch: Any, labels: Sequence[Getter]) -> torch.Tensor:
    """Count the labels other than -100. A model that shifts them itself leaves out the first of each sequence, too.

    Args:
        batch: A batch as the dataloader yields it.
        labels: What `find_labels` has found in a batch of its form.

    Returns:
        The number, as a tensor on the device of the labels so that nothing waits for it.
    """
    counts = [get(batch).ne(_IGNORED).count_nonzero() for get in labels]
    return counts[0] if len(counts) == 1 else torch.stack(counts).sum()


def _pairs(batch: Any) -> Iterator[tuple[Getter, bool]]:
    """For all token ids in a batch: how to get their labels, and whether there are any of their shape."""
    parts = _parts(batch)
    key = next((key for key in TOKEN_KEYS if key in parts), None)
    if key is not None:
        get, labels = parts.get(_LABELS_KEY, (_nothing, None))
        yield get, _are_labels(labels, parts[key][1])
        return
    for get, part in parts.values():
        yield from ((_inside(get, inner), fits) for inner, fits in _pairs(part))


def _parts(batch: Any) -> dict[str, tuple[Getter, Any]]:
    """The parts of a batch in which there may be token ids: each by its name, with how to get it."""
    if isinstance(batch, Mapping):
        return {str(key): (itemgetter(key), part) for key, part in batch.items()}
    if is_dataclass(batch) and not isinstance(batch, type):
        return {field.name: (attrgetter(field.name), getattr(batch, field.name)) for field in fields(batch)}
    if isinstance(batch, Sequence) and not isinstance(batch, str | bytes) and len(batch):
        return {"0": (itemgetter(0), batch[0])}  # the model's input
    return {}


def _are_labels(labels: Any, ids: Any) -> bool:
    return is_integer(ids) and is_integer(labels) and labels.shape == ids.shape


def _inside(outer: Getter, inner: Getter) -> Getter:
    return lambda batch: inner(outer(batch))


def _nothing(batch: Any) -> None:
    return None
