"""Which writers of event files can write for a plugin of TensorBoard's."""

from __future__ import annotations

from typing import Any


def is_of_tensorboard(writer: Any) -> bool:
    """Whether a writer needs TensorBoard; that of tensorboardX, which Lightning takes too, is not enough."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return False
    return isinstance(writer, SummaryWriter)
