"""Logs values together with the Trainer's own metrics, without the cost of ``self.log`` (0.3 ms per value)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from mfu_callback.lightning import private_names
from mfu_callback.lightning.refusals import Refusals
from mfu_callback.tools.brackets import Brackets, Function

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


class ThreeDigits(float):
    """A number that is written with three significant digits, whatever a progress bar asks for.

    Lightning's bar writes three decimals, which makes 0.000 of the MFU of a small model.
    """

    def __format__(self, spec: str) -> str:
        number = float(self)
        return f"{number:,.0f}" if abs(number) >= 99.95 else f"{number:#.3g}"

    def __str__(self) -> str:
        return format(self)


class MetricLog:
    """Logs values as ``self.log`` does: to all loggers, ``callback_metrics`` and the progress bar.

    The values join the metrics that the Trainer sends to its loggers at the end of the batch: same step, one write.

    Args:
        trainer: The Trainer during fit.
        warn_once: Warns with a message, once per subject.
    """

    def __init__(self, trainer: Trainer, warn_once: Callable[[str, str], None]) -> None:
        self._trainer = trainer
        self._refusals = Refusals(trainer, warn_once)
        self._waiting: Mapping[str, torch.Tensor] = {}

    def put(self, brackets: Brackets) -> None:
        """Put a bracket around the method that sends metrics; a barebones Trainer sends none.

        Args:
            brackets: Removes it at the end of fit.
        """
        if not self._trainer.barebones:
            brackets.put(private_names.logger_connector(self._trainer), private_names.SEND_METRICS, self._joining)

    def show(self, values: Mapping[str, float], *, in_progress_bar: Mapping[str, str]) -> dict[str, torch.Tensor]:
        """Put values into ``callback_metrics`` and some into the progress bar.

        Args:
            values: The values by tag, the same on every rank.
            in_progress_bar: By tag, the name of the value in the progress bar.

        Returns:
            The values on the host, so that loggers and checkpoints read them without waiting for a device.
        """
        tensors = dict(zip(values, torch.tensor(list(values.values()), dtype=torch.float32).unbind(), strict=True))
        shown = {label: ThreeDigits(values[name]) for name, label in in_progress_bar.items() if name in values}
        private_names.show_metrics(self._trainer, tensors, in_progress_bar=shown)
        return tensors

    def join(self, values: Mapping[str, torch.Tensor]) -> None:
        """Send values with the Trainer's own at the end of this batch, at which it logs."""
        self._waiting = values

    def send(self, values: dict[str, torch.Tensor], step: int) -> None:
        """Send values by themselves, at an earlier step."""
        if values:
            with self._refusals.watched(values, alone=True):
                private_names.log_at(self._trainer, values, step)

    def _joining(self, send: Function) -> Callable[..., Any]:
        def call(metrics: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
            waiting, self._waiting = self._waiting, {}
            if not waiting:
                return send(metrics, *args, **kwargs)
            with self._refusals.watched(waiting, alone=not metrics):
                return send({**metrics, **waiting}, *args, **kwargs)

        return call
