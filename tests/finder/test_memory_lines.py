from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mfu_callback.finder.prediction.memory_lines import MemoryLines
from scripts.comparisons.finder_parts.row import Request
from scripts.comparisons.finder_parts.subjects import SUBJECTS
from scripts.comparisons.finders import search
from tests.helpers.finder_models import MIB, TinyGPT, found


def test_each_allocation_is_a_line_and_the_highest_counts() -> None:
    lines = MemoryLines.through(2, [100, 12, 90], 4, [100, 14, 110])  # 100; 10 + n; 70 + 10 n
    assert [lines.peak(size) for size in (0, 2, 3, 4, 100)] == [100, 100, 100, 110, 1070]
    assert lines.largest_within(1070) == 100
    assert lines.largest_within(100) == 3
    assert lines.largest_within(99) == 0
    assert lines.shares_of(200).peak(100) == 1070 / 200


def test_what_does_not_grow_fits_at_any_size() -> None:
    assert MemoryLines.through(2, [5, 7], 4, [5, 6]).largest_within(7) == math.inf


def test_steps_that_allocate_unequally_often_are_compared_part_by_part() -> None:
    small, large = [100 + 2 * i for i in range(1000)], [100 + 4 * i for i in range(0, 1000, 2)]
    lines = MemoryLines.through(2, small, 4, large)
    assert lines.peak(6) == pytest.approx(100 + 6 * 999, rel=0.02)


@pytest.mark.parametrize("name", ["gpt", "rnn", "optimizer"])
def test_a_few_trials_are_enough_in_a_fresh_process(name: str) -> None:
    row = search(Request(model=name, budget_bytes=SUBJECTS[name].budget_mib * MIB, finder="ours, as it comes"))
    assert row.error is None
    assert row.found in row.trials
    assert min(row.trials) > 4  # it was foreseen: nothing else tells where to begin
    assert len(row.trials) <= 5  # mostly three; see scripts/comparisons/finders.py


def test_a_step_that_cannot_be_faked_is_watched() -> None:
    class Manual(TinyGPT):
        automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            optimizer: Any = self.optimizers()
            optimizer.zero_grad()
            loss = self.loss(batch)
            assert loss.item() > 0
            self.manual_backward(loss)
            optimizer.step()

    result, _ = found(Manual(), budget=300 * MIB, max_size=10**5)
    assert min(trial.size for trial in result.trials) > 4
    assert any(trial.size == result.batch_size + 1 and not trial.fits for trial in result.trials)


def test_a_step_that_cannot_be_watched_is_tried_all_the_same() -> None:
    class Sparse(TinyGPT):
        def __init__(self) -> None:
            super().__init__()
            self.more = nn.Embedding(100, 32, sparse=True)

        def loss(self, tokens: Tensor) -> Tensor:
            return super().loss(tokens) + self.more(tokens % 100).mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    result, run = found(Sparse(), budget=200 * MIB, max_size=10**4)
    assert run.global_step == 3
    assert result.batch_size > 8
    assert any(trial.size == result.batch_size + 1 for trial in result.trials)
