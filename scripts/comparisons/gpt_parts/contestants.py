"""The GPTs that are compared: each with the weights of ours, drawn first, and with the optimizer that it ships with."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

import gpt.model
from gpt import GPT, GPTConfig, GPTModule
from gpt.hugging_face import to_hf
from gpt.model import next_token_loss
from scripts.comparisons.gpt_parts.plain import PlainGPT

LEARNING_RATE, WEIGHT_DECAY, BETAS = 3e-4, 0.1, (0.9, 0.95)
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Training:
    """What a training step needs.

    Attributes:
        model: The model.
        loss: Of inputs (B, T) and targets (B, T).
        optimizer: Over its parameters.
    """

    model: nn.Module
    loss: Loss
    optimizer: torch.optim.Optimizer


def ours(config: GPTConfig, nanogpt: str | None) -> Training:
    """Our GPT, with the optimizer of GPTModule: AdamW, fused."""
    module = GPTModule(config, learning_rate=LEARNING_RATE, weight_decay=WEIGHT_DECAY, betas=BETAS)
    return Training(model=module.model, loss=module.model.loss, optimizer=module.configure_optimizers())


def without_attention(config: GPTConfig, nanogpt: str | None) -> Training:
    """Ours with torch's fused attention."""

    def fused(q: Tensor, k: Tensor, v: Tensor, *, dropout: float) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)

    gpt.model.causal_attention = fused  # type: ignore[attr-defined]  # for this process
    return ours(config, nanogpt)


def without_head_loss(config: GPTConfig, nanogpt: str | None) -> Training:
    """Ours with the cross-entropy of whole logits."""
    training = ours(config, nanogpt)
    model = training.model
    return replace(training, loss=lambda tokens, targets: next_token_loss(model(tokens), targets))


def without_fused_adamw(config: GPTConfig, nanogpt: str | None) -> Training:
    """Ours with torch's AdamW as it is."""
    training = ours(config, nanogpt)
    return replace(training, optimizer=adamw(training.model))


def plain(config: GPTConfig, nanogpt: str | None) -> Training:
    """The plain GPT with torch's AdamW as it is."""
    weights = GPT(config).state_dict()
    model = PlainGPT(config)
    model.load_state_dict(weights)
    return Training(model=model, loss=model, optimizer=adamw(model))


def hugging_face(config: GPTConfig, nanogpt: str | None) -> Training:
    """Hugging Face's GPT-2 with the AdamW of their Trainer (`adamw_torch`)."""
    sizes = {"n_layer": config.n_layer, "n_head": config.n_head, "n_embd": config.n_embd}
    sizes |= {"vocab_size": config.vocab_size, "n_positions": config.context_length}
    none = dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0)
    ends = dict.fromkeys(("bos_token_id", "eos_token_id"), config.vocab_size - 1)
    weights = to_hf(GPT(config).state_dict())
    settings = GPT2Config(**sizes, **none, **ends, use_cache=False, attn_implementation="sdpa")
    model = GPT2LMHeadModel(settings).to(torch.get_default_dtype())
    model.load_state_dict(weights)
    return Training(
        model=model,
        loss=lambda tokens, targets: model(tokens, labels=tokens, shift_labels=targets).loss,
        optimizer=adamw(model),
    )


def nano_gpt(config: GPTConfig, nanogpt: str | None) -> Training:
    """NanoGPT from a checkout, with its own configure_optimizers (fused AdamW on CUDA alone)."""
    theirs = _module_at(Path(str(nanogpt)) / "model.py")
    untransposed = {  # its names are Hugging Face's, its projections are nn.Linear
        name: weight.T if name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")) else weight
        for name, weight in to_hf(GPT(config).state_dict()).items()
    }
    sizes = {"n_layer": config.n_layer, "n_head": config.n_head, "n_embd": config.n_embd}
    sizes |= {"vocab_size": config.vocab_size, "block_size": config.context_length}
    with contextlib.redirect_stdout(sys.stderr):
        model = theirs.GPT(theirs.GPTConfig(**sizes, dropout=0.0, bias=True))
        optimizer = model.configure_optimizers(WEIGHT_DECAY, LEARNING_RATE, BETAS, "cpu")
    model.load_state_dict(untransposed)
    return Training(model=model, loss=lambda tokens, targets: model(tokens, targets)[1], optimizer=optimizer)


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    """Torch's AdamW with its defaults, which decays matrices alone."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=BETAS)


def _module_at(path: Path) -> Any:
    specification = importlib.util.spec_from_file_location("nanogpt_model", path)
    if specification is None or specification.loader is None or not path.is_file():
        raise FileNotFoundError(f"There is no {path}: give --nanogpt the directory of a checkout of nanoGPT.")
    module = importlib.util.module_from_spec(specification)
    sys.modules["nanogpt_model"] = module
    specification.loader.exec_module(module)
    return module


CONTESTANTS: dict[str, Callable[[GPTConfig, str | None], Training]] = {
    "ours": ours,
    "nanoGPT": nano_gpt,
    "Hugging Face": hugging_face,
    "plain": plain,
}
KEEPING = "ours, keeping memory"
TRICKS: dict[str, Callable[[GPTConfig, str | None], Training]] = {
    "torch's attention": without_attention,
    "whole logits": without_head_loss,
    "plain AdamW": without_fused_adamw,
    KEEPING: ours,
}
