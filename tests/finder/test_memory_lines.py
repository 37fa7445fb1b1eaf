from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mfu_callback.finder.prediction.memory_lines import MemoryLines
from tests.helpers.finder_models import MIB, Tabular, TinyGPT, found


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


class OfWords(Tabular):
    """An LSTM that skips the padding: its step cannot be followed on fake tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.LSTM(8, 64, batch_first=True)  # type: ignore[assignment]
        self.dataset = [(torch.ones(32, 8), 1 + index % 32) for index in range(64)]

    def loss(self, batch: Any) -> Tensor:
        words, lengths = batch
        packed = nn.utils.rnn.pack_padded_sequence(words, lengths.cpu(), batch_first=True, enforce_sorted=False)
        return self.net(packed)[1][0].square().mean()


class Optimized(Tabular):
    """A network whose optimizer needs more than its backward pass, up to batches of some hundreds."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, 1))
        self.dataset = [(torch.zeros(2048), torch.zeros(1))] * 64


class Manual(TinyGPT):
    """The GPT, stepping its optimizer itself."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.loss(batch))
        optimizer.step()


@pytest.mark.parametrize(
    ("model", "budget", "most"),
    [(TinyGPT, 300, 4), (Manual, 300, 4), (OfWords, 200, 4), (Optimized, 120, 4)],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_few_trials_are_enough(model: Any, budget: int, most: int) -> None:
    result, _ = found(model(), budget=budget * MIB, max_size=10**5)
    sizes = [trial.size for trial in result.trials]
    assert len(sizes) <= most
    failed = min(trial.size for trial in result.trials if not trial.fits)
    assert result.batch_size < failed <= 1.05 * result.batch_size + 1
    assert min(sizes) > 2  # it was foreseen: nothing else tells where to begin


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
