"""Compares predicted with measured memory: `check.py CASE` runs real steps of one model and prints JSON."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from gpt import GPTConfig, GPTModule
from mfu_callback import find_batch_size, predict_memory


class Classifier(LightningModule):
    """A classifier around any network."""

    def __init__(self, net: nn.Module, make_optimizer: Callable[[Any], Any]) -> None:
        super().__init__()
        self.net, self.make_optimizer = net, make_optimizer

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Mean cross-entropy."""
        inputs, targets = batch
        return F.cross_entropy(self.net(inputs), targets)

    def configure_optimizers(self) -> Any:
        """Returns the optimizer that ``make_optimizer`` makes."""
        return self.make_optimizer(self.parameters())


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A model to check.

    Attributes:
        make: Makes the model.
        sample: Makes one sample.
        batch_size: Samples in the batch.
        precision: Precision of Lightning's Trainer.
    """

    make: Callable[[], LightningModule]
    sample: Callable[[], Any]
    batch_size: int
    precision: str = "32-true"


def convolutions() -> nn.Module:
    """A small network of convolutions with BatchNorm."""
    layers: list[nn.Module] = []
    for channels_in, channels in ((3, 32), (32, 64), (64, 64)):
        layers += [nn.Conv2d(channels_in, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def perceptron() -> nn.Module:
    """Four wide layers."""
    return nn.Sequential(*(nn.Sequential(nn.Linear(1024, 1024), nn.GELU()) for _ in range(4)), nn.Linear(1024, 10))


def adamw(parameters: Any) -> Any:
    """AdamW."""
    return torch.optim.AdamW(parameters)


def momentum(parameters: Any) -> Any:
    """SGD with momentum."""
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def tokens(length: int, vocabulary: int) -> Callable[[], Any]:
    """Returns a function that makes a pair of token sequences."""
    return lambda: (torch.randint(vocabulary, (length,)), torch.randint(vocabulary, (length,)))


def labelled(*shape: int) -> Callable[[], Any]:
    """Returns a function that makes random numbers of this shape with a label."""
    return lambda: (torch.randn(shape), torch.tensor(1))


SMALL = GPTConfig(vocab_size=8192, context_length=256, n_layer=4, n_head=4, n_embd=256)
CASES: dict[str, Case] = {
    "GPT 4 x 256, fp32": Case(make=lambda: GPTModule(SMALL), sample=tokens(256, 8192), batch_size=16),
    "GPT 4 x 256, bf16": Case(
        make=lambda: GPTModule(SMALL), sample=tokens(256, 8192), batch_size=32, precision="bf16-true"
    ),
    "GPT 4 x 256, autocast": Case(
        make=lambda: GPTModule(SMALL), sample=tokens(256, 8192), batch_size=16, precision="bf16-mixed"
    ),
    "gpt-small, bf16": Case(
        make=lambda: GPTModule("gpt-small"), sample=tokens(256, 50257), batch_size=4, precision="bf16-true"
    ),
    "perceptron, AdamW": Case(make=lambda: Classifier(perceptron(), adamw), sample=labelled(1024), batch_size=8192),
    "perceptron, momentum": Case(
        make=lambda: Classifier(perceptron(), momentum), sample=labelled(1024), batch_size=8192
    ),
    "convolutions, AdamW": Case(
        make=lambda: Classifier(convolutions(), adamw), sample=labelled(3, 64, 64), batch_size=48
    ),
}


def check(name: str) -> dict[str, Any]:
    """Predict and measure one case, in its own process."""
    command = [sys.executable, "-W", "ignore", "-m", "scripts.plan_parts.check", name]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def main() -> None:
    """Run the case that the command line names."""
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    name = sys.argv[1]
    case = CASES[name]
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(accelerator="cpu", precision=case.precision, max_steps=1, enable_model_summary=False, **quiet)
    with trainer.init_module():
        module = case.make()
    samples = [case.sample() for _ in range(4)]
    loader = DataLoader(samples * case.batch_size, batch_size=2)  # an epoch that fills the batch
    batch = trainer.precision_plugin.convert_input(next(iter(loader)))
    context = trainer.precision_plugin.forward_context
    predicted = predict_memory(module, batch, batch_size=case.batch_size, context=context).total
    size = {"init_size": case.batch_size, "max_size": case.batch_size}
    measured = find_batch_size(trainer, module, loader, **size, margin=0.0).trials[0].peak_bytes
    row = {"model": name, "batch_size": case.batch_size, "predicted_bytes": predicted, "measured_bytes": measured}
    print(json.dumps(row | {"ratio": predicted / measured}))


if __name__ == "__main__":
    main()
