"""Small real training runs that several tests share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import nn
from torch.utils.data import DataLoader

from gpt import GPTConfig, GPTModule, RandomTokens
from mfu_callback import MFUCallback
from mfu_callback.meter.recounts import Recounts

TINY = GPTConfig(n_layer=2, n_head=2, n_embd=16, vocab_size=64, context_length=8, dropout=0.1)
# Forward FLOPs of TINY on a batch of 4 x 8 tokens: blocks, attention, head.
TINY_FLOPS = 4 * (2 * (24 * 8 * 16**2 + 4 * 8**2 * 16) + 2 * 8 * 16 * 64)
PEAK = 1e12
# Tags that one CPU process does not log if it recomputes nothing and has no measured peak and no attention mask.
ABSENT_TAGS = {"throughput/mfu_achievable", "throughput/hfu", "throughput/real_tokens_per_sec", "memory/peak_gib"}
ABSENT_TAGS |= {"time/step_sec_min", "time/step_sec_max", "gpu/power_watts", "gpu/clock_share"}
ABSENT_TAGS |= {f"memory/{figure}" for figure in ("reserved_gib", "device_share", "alloc_retries", "ooms")}
ABSENT_TAGS |= {"waterfall/communication", "waterfall/waiting", "throughput/loss_tokens_per_sec"}
# A warning about models with few layers: the first one is a large share, and its input needs no gradient.
SMALL_MODEL = "ignore:The backward pass of this model takes"


def make_trainer(*callbacks: Any, root: Path | None = None, **arguments: Any) -> Trainer:
    """A quiet Trainer on the CPU."""
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    defaults = {"accelerator": "cpu", "devices": 1, "max_steps": 8, "logger": False, "log_every_n_steps": 1}
    return Trainer(callbacks=list(callbacks), default_root_dir=root, **quiet | defaults | arguments)


def fit(module: LightningModule, *callbacks: Any, data: Any = None, **arguments: Any) -> tuple[MFUCallback, Trainer]:
    """Fit with MFUCallback and return it with the Trainer."""
    callback = MFUCallback(peak=PEAK, warmup_steps=1)
    trainer = make_trainer(callback, *callbacks, **arguments)
    trainer.fit(module, data)
    return callback, trainer


def counted_again(steps: int, *, warmup: int = 3) -> int:
    """Number of steps after the warm-up that are counted again, where batches of one shape do equal work."""
    recounts, number = Recounts(), 0
    for ended in range(1, steps):
        if recounts.is_due(ended, is_warm=ended >= warmup):
            recounts.choose_next(ended, vary=False, counts=1, error=0.0)
            number += ended >= warmup
    return number


def tiny_data(length: int = 400) -> RandomTokens:
    """Batches of 4 x 8 tokens."""
    return RandomTokens(batch_size=4, context_length=8, vocab_size=64, length=length)


def train_tiny(*callbacks: Any, module: LightningModule | None = None, **arguments: Any) -> LightningModule:
    """Train a tiny GPT, from the same seed every time, and return it."""
    seed_everything(1, verbose=False)
    module = module or GPTModule(TINY)
    make_trainer(*callbacks, **arguments).fit(module, datamodule=tiny_data())
    return module


class Images(LightningModule):
    """A classifier whose batches have no tokens: float images and class labels."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """Classify."""
        images, labels = batch
        return nn.functional.cross_entropy(self.net(images), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain SGD."""
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self) -> DataLoader:
        """Batches of two."""
        return DataLoader([(torch.randn(3, 8, 8), index % 5) for index in range(40)], batch_size=2)


class Manual(LightningModule):
    """Two networks with one optimizer each, under manual optimization."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 4)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        """Take a step with each optimizer."""
        first, second = self.optimizers()
        for optimizer in (first, second):
            optimizer.zero_grad()
            self.manual_backward(self.two(self.one(batch)).square().mean())
            optimizer.step()

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """One optimizer for each network."""
        return [torch.optim.SGD(part.parameters(), lr=0.1) for part in (self.one, self.two)]

    def train_dataloader(self) -> DataLoader:
        """Batches of four."""
        return DataLoader(torch.linspace(-1.0, 1.0, 320).reshape(40, 8), batch_size=4)


class Step(LightningModule):
    """Any network on random batches of any sizes; by default four samples of eight features."""

    def __init__(
        self,
        network: nn.Module,
        sizes: Sequence[tuple[int, int]] = ((4, 8),) * 40,
        wrap: Callable[[torch.Tensor], Any] = lambda batch: batch,
    ) -> None:
        super().__init__()
        self.network, self.sizes, self.wrap = network, sizes, wrap

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """The mean square of what the network returns."""
        return self.network(self.unwrap(batch)).square().mean()

    def unwrap(self, batch: Any) -> torch.Tensor:
        """The inverse of ``wrap``."""
        return batch

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain SGD on the parameters that are trained."""
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=1e-3)

    def train_dataloader(self) -> DataLoader:
        """A batch of each size."""
        generator = torch.Generator().manual_seed(0)
        return DataLoader(
            [self.wrap(torch.randn(*size, generator=generator)) for size in self.sizes],
            batch_size=None,
            collate_fn=lambda batch: batch,
        )


def two_layers() -> nn.Module:
    """8 to 8 to 4 features."""
    return nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))


class FakeNow:
    """A clock that stands still until it is moved."""

    seconds = 0.0

    def __call__(self) -> float:
        """The time, in seconds."""
        return self.seconds
