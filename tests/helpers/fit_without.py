"""Fits where a package cannot be imported: `fit_without.py PACKAGE`; prints a line of JSON.

It is what was counted of a GPT and of a convolutional network with a residual block, the lines of the log about thop,
what `flops="thop-modules"` and its counter raise, and whether thop is there.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import Any


class Broken:
    """A finder of modules that fails for one package."""

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """Raise for the package, and leave all others to the next finder."""
        if name.split(".")[0] == self.package:
            raise ImportError(f"{name} is broken here")


if len(sys.argv) > 1:
    sys.meta_path.insert(0, Broken(sys.argv[1]))  # type: ignore[arg-type]

import torch  # noqa: E402
from lightning.pytorch import LightningModule  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402

from gpt import GPTModule  # noqa: E402
from mfu_callback import FlopCounter, MFUCallback  # noqa: E402
from tests.helpers.runs import PEAK, TINY, make_trainer, tiny_data  # noqa: E402


class Residual(LightningModule):
    """Convolutions with strides, groups and norms around a residual block, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.inner = nn.Sequential(
            *(
                nn.Conv2d(8, 8, 3, padding=1, groups=2),
                nn.BatchNorm2d(8),
                nn.ReLU(),
                nn.Conv2d(8, 16, 3, stride=2, padding=1),
            )
        )
        self.shortcut = nn.Conv2d(8, 16, 1, stride=2)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        """The mean square of the logits."""
        x = self.stem(batch)
        return self.head(torch.relu(self.inner(x) + self.shortcut(x))).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain SGD."""
        return torch.optim.SGD(self.parameters(), lr=1e-3)

    def train_dataloader(self) -> DataLoader:
        """Batches of two images."""
        return DataLoader(torch.ones(16, 3, 32, 32), batch_size=2)


def counted(module: LightningModule, data: Any = None, **options: Any) -> dict[str, Any]:
    """What a fit has counted of its first batch."""
    callback = MFUCallback(peak=PEAK, warmup_steps=1, summary=None, **options)
    make_trainer(callback, max_steps=3).fit(module, data)
    count = callback.summary.flops
    return {"forward": count.forward, "backward": count.backward, "thop": count.thop, "complete": count.complete}


def error_of(function: Any) -> str | None:
    """The text of the ValueError that a function raises."""
    try:
        function()
    except ValueError as error:
        return str(error)
    return None


class Lines(logging.Handler):
    """Keeps the lines of the log."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        self.texts.append(record.getMessage())


def main() -> None:
    """Fit two models."""
    lines = Lines()
    log = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    log.addHandler(lines)
    seen = {
        "gpt": counted(GPTModule(TINY), tiny_data()),
        "images": counted(Residual()),
        "said": [text for text in lines.texts if "thop could not" in text],
        "callback": error_of(lambda: MFUCallback(flops="thop-modules")),
        "counter": error_of(lambda: FlopCounter(nn.Linear(2, 2), counter="thop-modules")),
        "is there": "thop.profile" in sys.modules,
    }
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
