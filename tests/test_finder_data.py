"""What the trials are given, and where the size is set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import pytest
import torch
from finder_models import Tabular, fitted, trainer
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, RandomSampler, SequentialSampler

from mfu_callback import BatchSizeFinder
from mfu_callback.finder.samples import Samples, resized

ROWS: list[Any] = Tabular().dataset


class Unloaded(Tabular):
    """Without a train_dataloader() and a batch_size of its own."""

    train_dataloader = LightningModule.train_dataloader

    def __init__(self) -> None:
        super().__init__()
        del self.batch_size


def found(model: LightningModule, *arguments: Any, **options: Any) -> Any:
    """Fit three steps with a finder and give its result and the Trainer."""
    finder = BatchSizeFinder(**{"max_size": 12, **options})
    run = fitted(model, finder, fit=arguments)
    assert finder.result is not None
    return finder.result, run


def test_a_loader_given_to_fit_gets_the_size() -> None:
    model, loader = Unloaded(), DataLoader(ROWS, batch_size=4, shuffle=True)
    result, run = found(model, loader)
    assert result.batch_size == run.train_dataloader.batch_size == 12
    assert model.sizes == [12, 12, 12]
    assert loader.batch_size == loader.batch_sampler.batch_size == 12  # type: ignore[union-attr]
    assert [len(batch[0]) for batch in loader] == [12, 12, 12, 12, 12, 4]


def test_a_loader_given_to_fit_trains_as_if_it_had_that_size() -> None:
    weights = []
    for size, callbacks in ((4, [BatchSizeFinder(max_size=12)]), (12, [])):
        torch.manual_seed(1)
        model = Unloaded()
        fitted(model, *callbacks, fit=[DataLoader(ROWS, batch_size=size, shuffle=True)])
        weights.append(model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_an_iterable_data_set_given_to_fit_gets_the_size() -> None:
    class Rows(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            return iter(ROWS)

    model = Unloaded()
    found(model, DataLoader(Rows(), batch_size=4))
    assert model.sizes == [12, 12, 12]


def test_several_loaders_get_the_size_and_the_batch_has_a_part_of_each() -> None:
    class Model(Unloaded):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            assert len(batch["a"][0]) == len(batch["b"][0])
            return self.loss(batch["a"]) + self.loss(batch["b"])

    model = Model()
    loaders = {"a": DataLoader(ROWS, batch_size=4), "b": DataLoader(ROWS, batch_size=2)}
    found(model, CombinedLoader(loaders, mode="min_size"))
    assert model.sizes == [12] * 6


@pytest.mark.filterwarnings("ignore:.*`dataloader_iter`")  # Lightning's word on its own feature
def test_a_step_that_fetches_its_own_batches_is_tried_too() -> None:
    class Model(Unloaded):
        def training_step(self, dataloader_iter: Any) -> Tensor:  # type: ignore[override]
            batch, _, _ = next(dataloader_iter)
            return self.loss(batch)

    model = Model()
    found(model, DataLoader(ROWS, batch_size=4))
    assert model.sizes[-3:] == [12, 12, 12]


def test_hooks_of_the_model_find_in_a_trial_what_they_find_in_training() -> None:
    seen: list[Any] = []

    class Model(Tabular):
        def on_train_start(self) -> None:
            loader: Any = self.trainer.train_dataloader
            seen.append((loader.dataset is self.dataset, self.trainer.num_training_batches))

    found(Model())
    assert seen[0] == (True, 13)  # made with another size than the model has: batches of five
    assert seen[-1] == (True, 6)


def test_a_batch_sampler_with_a_size_gets_it() -> None:
    class Pairs(BatchSampler):
        pass

    model = Unloaded()
    found(model, DataLoader(ROWS, batch_sampler=Pairs(RandomSampler(ROWS), 4, drop_last=True)))
    assert model.sizes == [12, 12, 12]


def test_a_batch_sampler_without_a_size_is_named() -> None:
    class Fixed(torch.utils.data.Sampler[list[int]]):
        def __iter__(self) -> Iterator[list[int]]:
            return iter([[0, 1], [2, 3]])

    with pytest.raises(MisconfigurationException, match="a Fixed without a `batch_size`"):
        found(Unloaded(), DataLoader(ROWS, batch_sampler=Fixed()))


def test_a_data_set_that_makes_batches_is_named() -> None:
    with pytest.raises(MisconfigurationException, match="batch_size=None"):
        found(Unloaded(), DataLoader(ROWS, batch_size=None))


def test_something_else_than_a_loader_is_named() -> None:
    class Batches:
        def __iter__(self) -> Iterator[Any]:
            return iter([ROWS[0], ROWS[1]])

    with pytest.raises(MisconfigurationException, match="got a Batches"):
        found(Unloaded(), Batches())


def test_a_loader_that_does_not_follow_is_named_with_the_function_to_call() -> None:
    class Model(Tabular):
        def train_dataloader(self) -> Any:
            return DataLoader(self.dataset, batch_size=7)

    with pytest.raises(MisconfigurationException, match=r"batch size is 7 whatever.*find_batch_size\(trainer, model"):
        fitted(Model(), BatchSizeFinder())


@pytest.mark.parametrize(("own", "asked"), [("train_batch_size", None), ("size", "size")])
def test_other_names_are_set(own: str, asked: str | None) -> None:
    class Model(Unloaded):
        def train_dataloader(self) -> Any:
            return DataLoader(self.dataset, batch_size=getattr(self, own))

    model = Model()
    setattr(model, own, 3)
    model.val_batch_size = 5
    found(model, batch_arg_name=asked)
    assert (getattr(model, own), model.val_batch_size) == (12, 5)


class Validated(Tabular):
    """Validates with its own loader, and remembers the sizes."""

    val_batch_size: int | None = None

    def __init__(self) -> None:
        super().__init__()
        self.val_sizes: list[tuple[int, bool, bool]] = []

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.val_sizes.append((len(batch[0]), self.training, torch.is_grad_enabled()))

    def val_dataloader(self) -> Any:
        return DataLoader(ROWS, batch_size=self.val_batch_size or self.batch_size)


class Watched(Validated):
    """Tells the sizes of its validation, which a trial would take back."""

    seen: list[tuple[int, bool, bool]] = []  # noqa: RUF012

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        Watched.seen.append((len(batch[0]), self.training, torch.is_grad_enabled()))


@pytest.mark.parametrize(("own", "expected"), [(None, [2, 2, 8, 12]), (6, [6, 6, 6, 6])])
def test_the_validation_is_tried_too_at_the_size_that_it_will_have(own: int | None, expected: list[int]) -> None:
    Watched.seen.clear()
    model = Watched()
    model.val_batch_size = own
    found(model)
    assert [size for size, *_ in Watched.seen[:4]] == expected  # the first is the warm-up
    assert {flags for _, *flags_ in Watched.seen for flags in [tuple(flags_)]} == {(False, False)}


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
