"""GPT-2 in plain torch, to be read top to bottom.

Shapes: B sequences, T tokens each, C channels (``n_embd``), H heads of D channels, V token ids.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gpt.config import GPTConfig
from gpt.fused import causal_attention, head_loss
from gpt.hugging_face import config_of, from_hf
from gpt.initialization import fill_normal

WEIGHT_STD = 0.02


class Attention(nn.Module):
    """Causal self-attention of all heads at once, (B, T, C) -> (B, T, C)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.dropout = config.dropout
        self.qkv = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)
        self.project = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Attend from every token to itself and to the tokens before it."""
        heads = (self.n_head, x.shape[-1] // self.n_head)
        q, k, v = (part.unflatten(-1, heads).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))  # (B, H, T, D)
        dropout = self.dropout if self.training else 0.0
        y = causal_attention(q, k, v, dropout=dropout)  # (B, H, T, D)
        out: Tensor = self.project(y.transpose(1, 2).flatten(-2))  # (B, T, C)
        return out


class MLP(nn.Module):
    """Two projections with a GELU between them, (B, T, C) -> (B, T, C)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.expand = nn.Linear(config.n_embd, 4 * config.n_embd, bias=config.bias)
        self.project = nn.Linear(4 * config.n_embd, config.n_embd, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Transform every token on its own."""
        hidden = F.gelu(self.expand(x), approximate="tanh")  # (B, T, 4C)
        out: Tensor = self.project(hidden)  # (B, T, C)
        return out


class Block(nn.Module):
    """A pre-norm transformer block, (B, T, C) -> (B, T, C)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.attention = Attention(config)
        self.mlp_norm = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.mlp = MLP(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Add the output of the attention, then that of the MLP, to the residual stream."""
        x = x + self.dropout(self.attention(self.attention_norm(x)))  # (B, T, C)
        x = x + self.dropout(self.mlp(self.mlp_norm(x)))  # (B, T, C)
        return x


class GPT(nn.Module):
    """GPT-2: token ids (B, T) to next-token logits (B, T, V).

    The weights are made on the default device in the default dtype, so ``with torch.device("meta")`` builds any
    size at no cost. After ``to_empty`` on such a model, call ``init_weights``.

    Args:
        config: The model's shape.
        checkpoint_activations: Whether training keeps each block's input alone and computes the block a second time in
            the backward pass: the same loss and gradients, a third more time, and far less memory.
    """

    def __init__(self, config: GPTConfig, *, checkpoint_activations: bool = False) -> None:
        super().__init__()
        self.config = config
        self.checkpoint_activations = checkpoint_activations
        device = torch.empty(0).device  # get_default_device does not know of a `with torch.device` in every torch
        # A module fills its weights when it is made. On the meta device that is free; init_weights fills each once.
        with torch.device("meta"):
            self.token_embedding = nn.Embedding(config.vocab_size, config.n_embd)
            self.position_embedding = nn.Embedding(config.context_length, config.n_embd)
            self.dropout = nn.Dropout(config.dropout)
            self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
            self.norm = nn.LayerNorm(config.n_embd, bias=config.bias)
            self.head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.to_empty(device=device)
        self.init_weights()

    def forward(self, tokens: Tensor, targets: Tensor | None = None) -> Tensor:
        """Predict the token after each one, or tell how well the targets are predicted.

        Args:
            tokens: (B, T) token ids, T at most ``config.context_length``.
            targets: (B, T) token ids that should follow, for the loss.

        Returns:
            (B, T, V) logits; with targets their mean cross-entropy, (), in nats per token.

        Raises:
            ValueError: The sequences are longer than the model's context.
        """
        length = tokens.shape[1]
        if length > self.config.context_length:
            raise ValueError(
                f"The sequences are {length} tokens long and the model's context is {self.config.context_length}: "
                "shorten them, or build the model with a larger context_length."
            )
        positions = torch.arange(length, device=tokens.device)  # (T,)
        x = self.dropout(self.token_embedding(tokens) + self.position_embedding(positions))  # (B, T, C)
        recompute = self.checkpoint_activations and self.training
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if recompute else block(x)  # (B, T, C)
        x = self.norm(x)
        if targets is not None and not torch.compiler.is_compiling():
            return head_loss(x.flatten(0, 1), self.head, targets.flatten())
        logits: Tensor = self.head(x)  # (B, T, V)
        return logits if targets is None else next_token_loss(logits, targets)

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy, (), in nats per token, of inputs (B, T) and targets (B, T)."""
        loss: Tensor = self(tokens, targets)  # through the call, for the sake of hooks and of compiled models
        return loss

    @classmethod
    def from_hf(cls, state_dict: Mapping[str, Tensor], *, n_head: int | None = None) -> GPT:
        """A GPT with the weights of Hugging Face's GPT-2, of their dtype.

        Args:
            state_dict: Of GPT2LMHeadModel or GPT2Model.
            n_head: Attention heads, which no weight tells; None stands for heads of 64 channels, as in every GPT-2.

        Raises:
            ValueError: Weights are missing, are not GPT-2's, or have other shapes.
        """
        with torch.device("meta"):
            model = cls(config_of(state_dict, n_head=n_head))
        weights = from_hf(state_dict, model.state_dict())
        model.load_state_dict({name: weight.clone() for name, weight in weights.items()}, assign=True)
        if model.config.tie_head:
            model.head.weight = model.token_embedding.weight
        return model

    @torch.no_grad()
    def init_weights(self) -> None:
        """Tie the head and draw every weight anew, as GPT-2 does (Radford et al. 2019, section 2.3).

        Matrices are drawn from a normal distribution with a standard deviation of 0.02. The two matrices of each block
        that write to the residual stream have 0.02 / sqrt(2 n_layer) instead, so that the stream's variance does not
        grow with depth. Biases are 0.
        """
        if self.config.tie_head:
            self.head.weight = self.token_embedding.weight
        residual_std = WEIGHT_STD / math.sqrt(2 * self.config.n_layer)
        for name, weight in self.named_parameters():
            if weight.ndim > 1:
                fill_normal(weight, residual_std if name.endswith("project.weight") else WEIGHT_STD)
            else:
                weight.fill_(0.0 if name.endswith("bias") else 1.0)


def next_token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy, in nats per token.

    Half-precision logits are not converted: `cross_entropy` computes the softmax in fp32 internally and rounds the
    result, and the mean is taken in fp32. An fp32 copy of the logits would be the largest tensor of a step. Without it,
    each element of the gradient is off by up to 3 %. Under autocast (bf16-mixed), autocast makes that copy.

    Args:
        logits: (B, T, V).
        targets: (B, T) token ids.
    """
    losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")  # (B * T,)
    return losses.float().mean()
