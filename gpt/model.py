"""GPT-2 in plain torch, to be read top to bottom.

Shapes: B sequences, T tokens each, C channels (``n_embd``), H heads of D channels, V token ids.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt.config import GPTConfig

WEIGHT_STD = 0.02
_CHUNK = 1 << 20  # weights drawn by one thread at a time


class Attention(nn.Module):
    """Causal self-attention of all heads at once, (B, T, C) -> (B, T, C)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.dropout = config.dropout
        self.qkv = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)
        self.project = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Let every token look at itself and at those before it."""
        heads = (self.n_head, x.shape[-1] // self.n_head)
        q, k, v = (part.unflatten(-1, heads).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))  # (B, H, T, D)
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)  # (B, H, T, D)
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
        """Add what the attention and then the MLP have to say."""
        x = x + self.dropout(self.attention(self.attention_norm(x)))  # (B, T, C)
        x = x + self.dropout(self.mlp(self.mlp_norm(x)))  # (B, T, C)
        return x


class GPT(nn.Module):
    """GPT-2: token ids (B, T) to next-token logits (B, T, V).

    The weights are made on the default device in the default dtype, so ``with torch.device("meta")`` builds any
    size at no cost. After ``to_empty`` on such a model, call ``init_weights``.

    Args:
        config: The model's shape.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        device = torch.get_default_device()
        # Modules fill their weights as they are made. On the meta device that is free; init_weights does it once.
        with torch.device("meta"):
            self.token_embedding = nn.Embedding(config.vocab_size, config.n_embd)
            self.position_embedding = nn.Embedding(config.context_length, config.n_embd)
            self.dropout = nn.Dropout(config.dropout)
            self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
            self.norm = nn.LayerNorm(config.n_embd, bias=config.bias)
            self.head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.to_empty(device=device)
        self.init_weights()

    def forward(self, tokens: Tensor) -> Tensor:
        """Predict the token after each one.

        Args:
            tokens: (B, T) token ids, T at most ``config.context_length``.

        Returns:
            (B, T, V) logits.

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
        for block in self.blocks:
            x = block(x)  # (B, T, C)
        logits: Tensor = self.head(self.norm(x))  # (B, T, V)
        return logits

    @torch.no_grad()
    def init_weights(self) -> None:
        """Tie the head and draw every weight anew, as GPT-2 does (Radford et al. 2019, section 2.3).

        Matrices are normal with a standard deviation of 0.02; those that write to the residual stream, two a block,
        of 0.02 / sqrt(2 n_layer), so that the stream's variance does not grow with depth. Biases are 0.
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

    Half-precision logits stay as they are: the softmax is computed in fp32 inside and rounded, and the mean is taken
    in fp32. An fp32 copy of the logits would be the largest tensor of a step; without it the elements of the gradient
    are off by up to 3 % each. Where autocast is on (bf16-mixed), it makes that copy.

    Args:
        logits: (B, T, V).
        targets: (B, T) token ids.
    """
    losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")  # (B * T,)
    return losses.float().mean()


def fill_normal(weight: Tensor, std: float) -> None:
    """Fill a weight with normal noise from the global generator, on the CPU with all of torch's threads.

    Each chunk has a generator of its own, so the numbers do not depend on how many threads there are.
    """
    # Only plain CPU memory can be filled by hand: fake and distributed tensors have a type of their own.
    if weight.device.type != "cpu" or type(weight) is not nn.Parameter:
        weight.normal_(0.0, std)
        return
    chunks: tuple[Tensor, ...] = weight.detach().view(-1).split(_CHUNK)  # type: ignore[no-untyped-call]
    first_seed = int(torch.randint(2**31, (), device="cpu"))  # of a generator's seed only 32 bits count
    seeds = range(first_seed, first_seed + len(chunks))

    def fill(chunk: Tensor, seed: int) -> None:
        chunk.normal_(0.0, std, generator=torch.Generator().manual_seed(seed))

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(fill, chunks, seeds))
