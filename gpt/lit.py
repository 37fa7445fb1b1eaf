"""The GPT as a LightningModule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

try:
    from torch.distributed.fsdp import fully_shard
except ImportError:  # before torch 2.6
    from torch.distributed._composable.fsdp import fully_shard  # type: ignore[attr-defined]

from gpt.config import GPTConfig, get_config
from gpt.model import GPT

Batch = tuple[Tensor, Tensor]

_FUSED_DEVICES = frozenset({"cpu", "cuda", "mps", "xpu"})  # meta has no fused kernel


class GPTModule(LightningModule):
    """Trains a GPT to predict the next token.

    Logs ``train/loss`` and ``val/loss``, in nats per token. ``ModelParallelStrategy`` shards its weights (FSDP2).

    Args:
        config: The model's shape, the name of a size ("gpt-small"), or the fields of a shape, as a checkpoint has them.
        checkpoint_activations: As ``GPT`` has it.
        learning_rate: AdamW's learning rate.
        weight_decay: AdamW's weight decay, on matrices only.
        betas: AdamW's averaging coefficients.

    Raises:
        ValueError: No size has that name.
    """

    def __init__(
        self,
        config: GPTConfig | str | Mapping[str, Any] = "gpt-small",
        *,
        checkpoint_activations: bool = False,
        learning_rate: float = 3e-4,
        weight_decay: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.95),
    ) -> None:
        super().__init__()
        self.config = _resolve(config)
        config = asdict(self.config)  # a checkpoint loads with weights_only=True, which refuses a GPTConfig
        self.save_hyperparameters()
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.betas = betas
        self.model = GPT(self.config, checkpoint_activations=checkpoint_activations)
        self._is_sharded = False

    def configure_model(self) -> None:
        """Shard each block, then what is left, over the data-parallel devices of a ``ModelParallelStrategy``.

        Raises:
            ValueError: The strategy splits tensors too.
        """
        if self.device_mesh is None or self._is_sharded:
            return
        if (ways := self.device_mesh["tensor_parallel"].size()) > 1:
            raise ValueError(
                f"tensor_parallel_size is {ways}, and this GPT shards its weights over data-parallel devices alone: "
                "give ModelParallelStrategy(data_parallel_size=<all devices>, tensor_parallel_size=1)."
            )
        for part in (*self.model.blocks, self.model):
            fully_shard(part, mesh=self.device_mesh["data_parallel"])
        self._is_sharded = True

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (B, T, V) of the token after each of ``tokens`` (B, T)."""
        logits: Tensor = self.model(tokens)
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean cross-entropy of a batch of inputs (B, T) and targets (B, T)."""
        loss = self._loss(batch)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the mean cross-entropy of a batch."""
        self.log("val/loss", self._loss(batch), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW, fused where the device has a fused kernel."""
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": self.weight_decay},
            {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=self.learning_rate, betas=self.betas, fused=self._can_fuse(parameters))

    def _loss(self, batch: Batch) -> Tensor:
        inputs, targets = batch
        return self.model.loss(inputs, targets)

    def _can_fuse(self, parameters: list[torch.nn.Parameter]) -> bool:
        return not self._clips_under_amp() and all(p.device.type in _FUSED_DEVICES for p in parameters)

    def _clips_under_amp(self) -> bool:
        """Whether Lightning would refuse a fused optimizer.

        Under AMP it refuses to clip the gradients of a fused optimizer, with or without loss scaling.
        """
        try:
            trainer = self.trainer
        except RuntimeError:  # the module has no trainer
            return False
        return bool(trainer.gradient_clip_val) and trainer.precision in ("16-mixed", "bf16-mixed")


def _resolve(config: GPTConfig | str | Mapping[str, Any]) -> GPTConfig:
    if isinstance(config, GPTConfig):
        return config
    return get_config(config) if isinstance(config, str) else GPTConfig(**config)
