"""The configuration of a GPT, and the four sizes of GPT-2."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True, kw_only=True)  # without slots: torch.compile of torch 2.4 refers to it weakly
class GPTConfig:
    """The shape of a GPT.

    Args:
        n_layer: Number of transformer blocks.
        n_head: Number of attention heads; divides ``n_embd``.
        n_embd: Width of the residual stream, in channels.
        vocab_size: Number of token ids.
        context_length: The longest sequence the model accepts, in tokens.
        dropout: Probability of dropping an activation while training, in [0, 1).
        bias: Whether the blocks' projections and all LayerNorms have biases.
        tie_head: Whether the output head uses the token embedding's matrix.

    Raises:
        ValueError: A field is out of range.
    """

    n_layer: int
    n_head: int
    n_embd: int
    vocab_size: int = 50257
    context_length: int = 1024
    dropout: float = 0.0
    bias: bool = True
    tie_head: bool = True

    def __post_init__(self) -> None:
        for field in ("n_layer", "n_head", "n_embd", "vocab_size", "context_length"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} is {getattr(self, field)}: give 1 or more.")
        if self.n_embd % self.n_head:
            raise ValueError(
                f"n_embd is {self.n_embd}, which {self.n_head} heads cannot share equally: "
                "give an n_embd that is a multiple of n_head."
            )
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout is {self.dropout}: give a probability of at least 0 and below 1.")


# Layers and widths: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", table 2,
# https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf
# Every head is 64 channels wide. The parameter counts below are counted; those of the table differ from the models'.
SIZES: Mapping[str, GPTConfig] = MappingProxyType(
    {
        "gpt-small": GPTConfig(n_embd=768, n_layer=12, n_head=12),  # 124,439,808 parameters
        "gpt-medium": GPTConfig(n_embd=1024, n_layer=24, n_head=16),  # 354,823,168
        "gpt-large": GPTConfig(n_embd=1280, n_layer=36, n_head=20),  # 774,030,080
        "gpt-xl": GPTConfig(n_embd=1600, n_layer=48, n_head=25),  # 1,557,611,200
    }
)


def get_config(size: str, **changes: Any) -> GPTConfig:
    """Returns the config of a size, with some of its fields changed.

    Args:
        size: A key of ``SIZES``.
        changes: Fields of ``GPTConfig`` to replace, such as ``context_length=256``.

    Raises:
        ValueError: There is no such size or field, or a field is out of range.

    Example:
        >>> get_config("gpt-small", context_length=256).context_length
        256
    """
    if size not in SIZES:
        raise ValueError(f"No GPT is called {size!r}: give one of {', '.join(SIZES)}.")
    known = [field.name for field in fields(GPTConfig)]
    if unknown := [name for name in changes if name not in known]:
        raise ValueError(f"GPTConfig has no {', '.join(unknown)}: its fields are {', '.join(known)}.")
    return replace(SIZES[size], **changes)
