"""The hooks of MFUCallback that validate, test and predict call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mfu_callback.lightning.evaluation import MeasuredEvaluation
from mfu_callback.lightning.guard import never_raises
from mfu_callback.lightning.kept_figures import KeptFigures
from mfu_callback.lightning.run import MeasuredRun
from mfu_callback.meter.arguments import Arguments

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer


class EvaluationHooks(KeptFigures):
    """Passes the hooks of evaluating loops to the measured evaluation (evaluation.py).

    Args:
        arguments: The arguments of `MFUCallback`.
        validation: Whether the validations inside of fit are measured too.
    """

    def __init__(self, arguments: Arguments, *, validation: bool) -> None:
        super().__init__()
        self._arguments = arguments
        self._measures_validation = validation
        self._run: MeasuredRun | None = None
        self._evaluation: MeasuredEvaluation | None = None
        self._has_failed = False

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A validation begins: the sanity check, one inside of fit, or ``trainer.validate``."""
        is_in_fit = trainer.state.fn == "fit"
        if not is_in_fit or (self._measures_validation and not trainer.sanity_checking):
            self._start_evaluation(trainer, pl_module, "validate")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A test begins."""
        self._start_evaluation(trainer, pl_module, "test")

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A prediction begins."""
        self._start_evaluation(trainer, pl_module, "predict")

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """A batch of a validation begins."""
        self._begin_evaluated(trainer, batch)

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """A batch of a test begins."""
        self._begin_evaluated(trainer, batch)

    def on_predict_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """A batch of a prediction begins."""
        self._begin_evaluated(trainer, batch)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """A batch of a validation is over."""
        self._end_evaluated(trainer)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """A batch of a test is over."""
        self._end_evaluated(trainer)

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """A batch of a prediction is over."""
        self._end_evaluated(trainer)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """All batches of a validation are over."""
        self._finish_evaluation(trainer)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """All batches of a test are over."""
        self._finish_evaluation(trainer)

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """All batches of a prediction are over."""
        self._finish_evaluation(trainer)

    @never_raises
    def _start_evaluation(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        run = self._run
        if run is None or self._evaluation is None:  # the validations of a fit go on in the same one
            self._let_go_of_evaluation()
            peaks = None if run is None else lambda: run.peaks
            self._evaluation = MeasuredEvaluation(trainer, pl_module, self._arguments, stage, peaks)
        self._evaluation.start()

    @never_raises
    def _begin_evaluated(self, trainer: Trainer, batch: Any) -> None:
        if self._evaluation is not None:
            self._evaluation.begin_batch(batch)

    @never_raises
    def _end_evaluated(self, trainer: Trainer) -> None:
        if self._evaluation is not None:
            self._evaluation.end_batch()

    @never_raises
    def _finish_evaluation(self, trainer: Trainer) -> None:
        evaluation = self._evaluation
        if evaluation is None:
            return
        figures = evaluation.finish()
        if figures is None:
            return
        self._keep_evaluation(trainer, figures)
        if self._run is None:
            self._evaluation = None
            evaluation.show(figures)

    def _let_go_of_evaluation(self) -> None:
        evaluation, self._evaluation = self._evaluation, None
        if evaluation is not None:
            evaluation.close()
