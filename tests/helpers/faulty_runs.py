"""Runs that something ends or disturbs, and what is compared of a run with the callback and one without."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule, seed_everything
from lightning.pytorch.loggers import Logger

from tests.helpers.runs import Step, make_trainer, two_layers


class InjectedError(Exception):
    """What is injected."""


class Validated(Step):
    """Two layers that are trained and validated on four samples of eight features."""

    def __init__(self) -> None:
        super().__init__(two_layers())

    def validation_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """The sum of what the network returns."""
        return self.network(self.unwrap(batch)).sum()

    def val_dataloader(self) -> Any:
        """As in training."""
        return self.train_dataloader()


class End(NamedTuple):
    """How a run has ended.

    Attributes:
        error: The type and the message of what it raised; None if it raised nothing.
        steps: The optimizer steps.
        weights: All parameters.
        left: Where a bracket or a hook could be left.
    """

    error: tuple[str, str] | None
    steps: int
    weights: list[torch.Tensor]
    left: Any

    def is_like(self, other: End) -> bool:
        """Whether both have ended alike."""
        pairs = zip(self.weights, other.weights, strict=True)
        same_weights = all(torch.equal(a, b) for a, b in pairs)
        return (self.error, self.steps, self.left) == (other.error, other.steps, other.left) and same_weights


class Told(NamedTuple):
    """The end of a run and what it warned of."""

    end: End
    warnings: list[str]


def run(
    module: Callable[[], LightningModule], callbacks: Sequence[Any] = (), *, left: Any = None, **arguments: Any
) -> Told:
    """Fit a new module, from the same seed every time.

    Args:
        module: Makes the module.
        callbacks: The callbacks.
        left: Returns where a bracket or a hook could be left, from the Trainer and the module.
        arguments: Those of the Trainer.
    """
    seed_everything(1, verbose=False)
    made = module()
    trainer = make_trainer(*callbacks, **{"max_steps": 6, "val_check_interval": 3, "limit_val_batches": 2} | arguments)
    error = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            trainer.fit(made)
        except BaseException as raised:
            error = type(raised).__name__, str(raised)
    weights = [parameter.detach().clone() for parameter in made.parameters()]
    told = [text for text in (str(warning.message) for warning in caught) if "MFU" in text or "FLOPs" in text]
    return Told(End(error, trainer.global_step, weights, left and left(trainer, made)), told)


class Recording(Logger):
    """Keeps what it is given, and raises if told to.

    Args:
        error: What it raises.
        raises: Says for which metrics.
    """

    name = version = "recording"

    def __init__(
        self, error: Exception | None = None, raises: Callable[[dict[str, float]], bool] = lambda metrics: True
    ) -> None:
        super().__init__()
        self.error, self.raises = error, raises
        self.calls: list[dict[str, float]] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Keep them, or raise."""
        if self.error is not None and self.raises(metrics):
            raise self.error
        self.calls.append(dict(metrics))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Keep nothing."""
