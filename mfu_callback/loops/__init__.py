"""The same measurement for loops without Lightning's Trainer: a loop of one's own, Fabric, Hugging Face's Trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mfu_callback.loops.hugging_face import MFUTrainerCallback

__all__ = ["MFUTrainerCallback"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mfu_callback.loops.hugging_face import MFUTrainerCallback  # imports transformers, which is not required

    return MFUTrainerCallback
