"""What a trial runs."""

from __future__ import annotations

from typing import Any

from mfu_callback import BatchSizeFinder
from tests.helpers.finder_models import Tabular, fitted


def test_manual_accumulation_reaches_the_optimizer_within_a_trial() -> None:
    steps: list[int] = []

    class Model(Tabular):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            self.manual_backward(self.loss(batch))
            if (batch_idx + 1) % 4 == 0:
                self.optimizers().step()
                steps.append(len(batch[0]))
                self.optimizers().zero_grad()

    fitted(Model(), BatchSizeFinder(max_size=12))
    assert 12 in steps[:-3]


def test_a_trial_goes_on_until_the_optimizers_state_is_there() -> None:
    """A gradient scaler leaves the first steps out, until its scale has come down."""
    stepped: list[tuple[int, bool]] = []

    class Model(Tabular):
        def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, closure: Any = None) -> None:
            if batch_idx < 3:
                closure()
            else:
                super().optimizer_step(epoch, batch_idx, optimizer, closure)
                stepped.append((self.sizes[-1], bool(optimizer.state)))

    fitted(Model(), BatchSizeFinder(max_size=12, init_size=12), max_epochs=1, max_steps=-1, limit_train_batches=5)
    assert stepped[2:4] == [(12, True), (12, True)]  # after two of the warm-up


def test_the_batch_size_that_the_model_reads_in_a_trial_is_the_size_of_the_trial() -> None:
    class Model(Tabular):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            assert len(batch[0]) == self.batch_size
            return self.loss(batch)

    finder = BatchSizeFinder(max_size=16)
    fitted(Model(), finder)
    assert finder.result is not None


def test_a_trial_needs_as_much_as_training() -> None:
    """In training the gradients of the last step are still there in the next forward pass."""
    alive: list[bool] = []

    class Model(Tabular):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            alive.append(self.net[0].weight.grad is not None)
            return self.loss(batch)

    fitted(Model(), BatchSizeFinder(max_size=2, init_size=2))
    assert alive[:4] == [False, True, False, True]
    assert alive[4:] == [False, True, True]
