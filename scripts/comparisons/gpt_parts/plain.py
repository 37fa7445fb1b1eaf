"""A GPT-2 as one writes it first: the same model as ours, with torch's own operators and nothing thought of."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt import GPTConfig


class PlainBlock(nn.Module):
    """A transformer block, (B, T, C) -> (B, T, C); its modules have the names of ours."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        width = config.n_embd
        self.heads = config.n_head
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "project": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"expand": nn.Linear(width, 4 * width), "project": nn.Linear(4 * width, width)})

    def forward(self, x: Tensor) -> Tensor:
        """Attention, then the MLP."""
        batch, length, width = x.shape
        qkv = self.attention["qkv"](self.attention_norm(x)).view(batch, length, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, T, D)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attention["project"](y.transpose(1, 2).reshape(batch, length, width))
        hidden: Tensor = self.mlp["expand"](self.mlp_norm(x))
        out: Tensor = x + self.mlp["project"](F.gelu(hidden, approximate="tanh"))
        return out


class PlainGPT(nn.Module):
    """Token ids (B, T) and targets (B, T) to the loss; its weights have the names of ours."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.n_embd)
        self.position_embedding = nn.Embedding(config.context_length, config.n_embd)
        self.blocks = nn.ModuleList(PlainBlock(config) for _ in range(config.n_layer))
        self.norm = nn.LayerNorm(config.n_embd)
        self.head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.head.weight = self.token_embedding.weight

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy, in nats per token."""
        x = self.token_embedding(tokens) + self.position_embedding(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())
