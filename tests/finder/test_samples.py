"""What batches of trials are made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, SequentialSampler

from mfu_callback import BatchSizeFinder
from mfu_callback.finder.data.samples import Samples, resized
from tests.helpers.finder_models import ROWS, Tabular, Unloaded, fitted, found, trainer


class Ragged(Dataset[Tensor]):
    """Rows of 1 to 100 numbers; the longest stands in the middle."""

    def __init__(self) -> None:
        self.read: list[int] = []

    def __len__(self) -> int:
        return 100

    def __getitem__(self, index: int) -> Tensor:
        self.read.append(index)
        return torch.ones(100 - abs(index - 50))


def padded(rows: list[Tensor]) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def test_batches_are_made_of_the_largest_sample_that_was_looked_at() -> None:
    samples = Samples(DataLoader(Ragged(), batch_size=2, collate_fn=padded))
    assert samples.batch(5).shape == (5, 100)


def test_no_more_than_a_few_samples_are_read_from_all_over_the_data_set() -> None:
    dataset = Ragged()
    Samples(DataLoader(dataset, batch_size=2, collate_fn=padded))
    assert len(dataset.read) == 64
    assert min(dataset.read) == 0
    assert max(dataset.read) >= 97


def test_samples_of_one_size_are_all_used_and_repeated() -> None:
    samples = Samples(DataLoader([torch.tensor([float(i)]) for i in range(3)], batch_size=1))  # type: ignore[arg-type]
    assert samples.batch(7).flatten().tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_a_data_set_that_fetches_many_samples_at_once_is_asked_so() -> None:
    class Fetching(Dataset[Any]):
        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> Any:
            raise AssertionError("not asked one by one")

        def __getitems__(self, indices: list[int]) -> list[Tensor]:
            return [torch.tensor([i]) for i in indices]

    assert Samples(DataLoader(Fetching(), batch_size=2)).batch(2).flatten().tolist() == [0, 1]


def test_a_data_set_without_a_length_is_named() -> None:
    class Endless(Dataset[Tensor]):
        def __getitem__(self, index: int) -> Tensor:
            return torch.ones(8)

    loader = DataLoader(Endless(), batch_size=4, sampler=range(64))  # type: ignore[arg-type]
    with pytest.raises(MisconfigurationException, match="Endless, which has no length"):
        found(Unloaded(), loader)


@dataclass
class Pair:
    inputs: Tensor
    labels: list[str]
    scale: float = 1.0


def test_a_worst_case_is_brought_to_any_size() -> None:
    batch = Pair(inputs=torch.arange(6).view(3, 2), labels=["a", "b", "c"])
    larger = resized(batch, 4)
    assert larger.inputs.tolist() == [[0, 1], [2, 3], [4, 5], [0, 1]]
    assert larger.labels == ["a", "b", "c", "a"]
    assert larger.scale == 1.0
    smaller = resized({"x": (torch.ones(3, 2), torch.ones(2, 5)), "n": 3}, 1)
    assert [part.shape for part in smaller["x"]] == [(1, 2), (2, 5)]
    assert smaller["n"] == 3


def test_a_worst_case_without_a_size_is_named() -> None:
    with pytest.raises(MisconfigurationException, match="worst_case"):
        resized({"n": 3}, 2)


@pytest.mark.parametrize("as_function", [False, True])
def test_the_users_worst_case_is_what_is_tried(as_function: bool) -> None:
    shapes: list[Any] = []

    class Model(Tabular):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            shapes.append(tuple(batch[0].shape))
            return self.loss((batch[0][:, :8], batch[1]))

    worst: Any = [torch.ones(2, 32), torch.ones(2, 1)]
    if as_function:
        worst = lambda size: [torch.ones(size, 32), torch.ones(size, 1)]  # noqa: E731
    found(Model(), worst_case=worst)
    assert shapes[:-3] == [(2, 32)] * 4 + [(8, 32)] * 2 + [(12, 32)] * 2
    assert shapes[-3:] == [(12, 8)] * 3


class Stream(IterableDataset[Any]):
    """Rows from an iterator that is made once."""

    def __init__(self, rows: Iterator[Any]) -> None:
        self.rows = rows

    def __iter__(self) -> Iterator[Any]:
        return self.rows


def first_inputs(rows: Iterator[Any], **options: Any) -> list[Tensor]:
    """Of the first batch that is trained on."""
    seen: list[Tensor] = []

    class Model(Unloaded):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            seen.append(batch[0])

    finder = BatchSizeFinder(max_size=12, **options)
    run = trainer(finder, max_steps=1)
    run.fit(Model(), DataLoader(Stream(rows), batch_size=4))
    return list(seen[-1])


def test_what_was_taken_from_an_iterator_is_given_back() -> None:
    assert torch.equal(first_inputs(iter(ROWS))[0], ROWS[0][0])


def test_an_iterator_that_cannot_be_rewound_is_named() -> None:
    endless = (ROWS[i % 64] for i in count())
    with pytest.warns(UserWarning, match=r"64 samples from Stream\.rows, which cannot be rewound"):
        first_inputs(endless)


def test_a_worst_case_leaves_an_iterator_alone() -> None:
    rows = (row for row in ROWS)
    batch = [torch.ones(2, 8), torch.ones(2, 1)]
    assert torch.equal(first_inputs(rows, worst_case=batch)[0], ROWS[0][0])


def test_a_file_that_is_read_on_is_wound_back(tmp_path: Any) -> None:
    path = tmp_path / "rows.txt"
    path.write_text("\n".join(str(i) for i in range(200)))

    class Lines(IterableDataset[Any]):
        def __init__(self) -> None:
            self.file = path.open("rb")

        def __iter__(self) -> Iterator[Any]:
            while line := self.file.readline():
                yield torch.full((8,), float(line)), torch.zeros(1)

    seen: list[float] = []

    class Model(Unloaded):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            seen.append(float(batch[0][0, 0]))

    lines = Lines()
    fitted(Model(), BatchSizeFinder(max_size=12), fit=[DataLoader(lines, batch_size=4)], max_steps=1)
    lines.file.close()
    assert seen[-1] == 0.0


def test_the_loader_and_its_samplers_are_never_iterated_by_trials() -> None:
    class Counting(SequentialSampler):
        rounds = 0

        def __iter__(self) -> Iterator[int]:
            Counting.rounds += 1
            return super().__iter__()

    fitted(
        Unloaded(),
        BatchSizeFinder(max_size=12),
        fit=[DataLoader(ROWS, batch_size=4, sampler=Counting(ROWS))],
        max_steps=1,
    )
    assert Counting.rounds == 1
