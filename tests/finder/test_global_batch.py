"""A fixed global batch: what is set, what is refused, and that it trains as if the sizes had been given by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from mfu_callback import BatchSizeFinder, MFUCallback, find_batch_size
from mfu_callback.finder import BatchSizeResult
from tests.helpers.finder_models import MIB, Tabular, TinyGPT, fitted, trainer


class ThreeSteps(TinyGPT):
    """The small GPT without dropout: micro-batches of other sizes draw other numbers."""

    def __init__(self, batch_size: int = 4) -> None:
        super().__init__(batch_size, shuffle=False)
        for part in self.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0


def test_the_largest_micro_batch_that_divides_it_is_set_and_training_is_as_by_hand(caplog: Any) -> None:
    torch.manual_seed(1)
    finder, model = BatchSizeFinder(global_batch_size=60, budget=190 * MIB), ThreeSteps()
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    run = fitted(model, finder)
    result = finder.result
    assert result is not None
    assert (result.batch_size, result.accumulate_grad_batches, result.global_batch_size) == (30, 2, 60)
    assert (model.batch_size, run.accumulate_grad_batches, run.global_step) == (30, 2, 3)
    assert {trial.size for trial in result.trials} <= {1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30, 60}
    assert any(trial.size == 60 and not trial.fits for trial in result.trials)
    assert "global_batch_size=60 is 1 device x accumulate_grad_batches=2 x batch_size=30" in caplog.text
    by_hand = ThreeSteps(batch_size=30)
    by_hand.load_state_dict(start)
    fitted(by_hand, accumulate_grad_batches=2)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in by_hand.state_dict().items())


def test_the_measured_run_knows_the_micro_batches() -> None:
    meter = MFUCallback(warmup_steps=1)
    finder = BatchSizeFinder(global_batch_size=12, max_size=4)
    fitted(TinyGPT(), meter, finder, max_steps=4)
    assert finder.result is not None
    assert (finder.result.batch_size, finder.result.accumulate_grad_batches) == (4, 3)
    assert meter.summary is not None
    assert meter.summary.tokens == meter.summary.steps * 12 * 64  # of 65, the last of each text is a target alone


def test_with_throughput_the_fastest_division_is_chosen() -> None:
    finder = BatchSizeFinder(global_batch_size=24, max_size=12, objective="throughput")
    run = fitted(TinyGPT(), finder)
    assert finder.result is not None
    assert [point.size for point in finder.result.sweep] == [2, 4, 8, 12]
    assert 24 % finder.result.batch_size == 0
    assert run.accumulate_grad_batches == 24 // finder.result.batch_size
    # Whatever the division, a step has the same samples.
    steps = [point.samples_per_sec * point.step_time_sec for point in finder.result.sweep]
    assert steps == pytest.approx([24] * 4)


def test_find_batch_size_sets_both() -> None:
    run, model = trainer(), TinyGPT()
    result = find_batch_size(run, model, global_batch_size=12, max_size=5)
    assert (result.batch_size, result.accumulate_grad_batches) == (4, 3)
    assert (model.batch_size, run.accumulate_grad_batches) == (4, 3)


def test_after_an_error_the_trainer_accumulates_as_before() -> None:
    class Broken(TinyGPT):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            raise ArithmeticError("broken")

    run = trainer(BatchSizeFinder(global_batch_size=12), accumulate_grad_batches=5)
    with pytest.raises(ArithmeticError):
        run.fit(Broken())
    assert run.accumulate_grad_batches == 5


@pytest.mark.filterwarnings("ignore:.*resuming from a checkpoint that ended before the epoch ended")
def test_a_resumed_run_accumulates_as_before(tmp_path: Any) -> None:
    first = fitted(TinyGPT(), BatchSizeFinder(global_batch_size=12, max_size=4))
    first.save_checkpoint(tmp_path / "last.ckpt")
    model, finder = TinyGPT(), BatchSizeFinder(global_batch_size=12)
    run = trainer(finder, max_steps=4)
    run.fit(model, ckpt_path=tmp_path / "last.ckpt")
    assert (model.batch_size, run.accumulate_grad_batches, run.global_step) == (4, 3, 4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"global_batch_size": 510, "multiple_of": 8}, r"global_batch_size=510 cannot.*multiples of 8.*504 and 512"),
        ({"global_batch_size": 6, "multiple_of": 8}, r"nearest that can: 8\."),
        ({"global_batch_size": 24, "multiple_of": 8, "max_size": 16}, None),
        ({"global_batch_size": 7}, None),
    ],
)
def test_what_cannot_be_divided_is_refused_with_the_nearest_that_can(options: dict[str, Any], words: Any) -> None:
    finder = BatchSizeFinder(**({"max_size": 8} | options))
    if words is None:
        fitted(Tabular() if "multiple_of" in options else TinyGPT(), finder)
        assert finder.result is not None
        assert options["global_batch_size"] % finder.result.batch_size == 0
        return
    with pytest.raises(MisconfigurationException, match=words):
        fitted(Tabular(), finder)


def test_what_else_decides_when_optimizers_step_is_refused() -> None:
    manual = TinyGPT()
    manual.automatic_optimization = False
    with pytest.raises(MisconfigurationException, match="manual optimization"):
        fitted(manual, BatchSizeFinder(global_batch_size=8))
    with pytest.raises(MisconfigurationException, match="GradientAccumulationScheduler"):
        fitted(TinyGPT(), BatchSizeFinder(global_batch_size=8), GradientAccumulationScheduler({0: 2}))
    with pytest.raises(ValueError, match=r"global_batch_size=8 counts samples.*max_tokens=100"):
        BatchSizeFinder(global_batch_size=8, max_tokens=100)
    with pytest.raises(ValueError, match="global_batch_size=0 must be a whole number"):
        BatchSizeFinder(global_batch_size=0)


def test_the_card_shows_the_division_and_devices_that_differ() -> None:
    uneven = BatchSizeResult(batch_size=8, trials=(), limit="1 MiB", own_largest=(8, 1200), accumulate_grad_batches=3)
    words = "**batch_size = 8**, accumulate_grad_batches = 3 within 1 MiB; the largest of each process: 8, 1,200"
    assert uneven.markdown().startswith(words)
    even = BatchSizeResult(batch_size=8, trials=(), limit="1 MiB", own_largest=(8, 8))
    assert even.markdown().startswith("**batch_size = 8** within 1 MiB\n")
