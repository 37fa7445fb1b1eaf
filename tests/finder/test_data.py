"""Where the size is set."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, Subset, SubsetRandomSampler

from mfu_callback import BatchSizeFinder
from tests.helpers.finder_models import ROWS, Tabular, Unloaded, fitted, found


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


class WithoutLength(torch.utils.data.Sampler[int]):
    """Yields every row of a data set, and does not say how many."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self.rows)))


TEN = ROWS[:10]


@pytest.mark.parametrize(
    "loader",
    [
        DataLoader(TEN, batch_size=4),
        DataLoader(TEN, batch_size=4, shuffle=True),
        DataLoader(TEN, batch_size=4, drop_last=True),
        DataLoader(Subset(ROWS, range(7, 17)), batch_size=4),
        DataLoader(ROWS, batch_size=4, sampler=SubsetRandomSampler(range(10))),
        DataLoader(ROWS, batch_sampler=BatchSampler(range(10), 4, drop_last=False)),
        DataLoader(TEN, batch_size=4, sampler=WithoutLength(TEN)),
        DataLoader(ROWS[:5], batch_size=4, sampler=RandomSampler(ROWS[:5], replacement=True, num_samples=10)),
        [DataLoader(TEN, batch_size=4)],
    ],
)
def test_no_batch_is_larger_than_an_epoch(loader: Any) -> None:
    class Model(Unloaded):
        def loss(self, batch: Any) -> Tensor:
            return super().loss(batch[0] if isinstance(batch[0], list) else batch)

    model = Model()
    result, run = found(model, loader, max_size=None)
    assert result.batch_size == 10
    assert result.stopped_by == "an epoch has 10 samples"
    assert all(trial.size <= 10 and trial.fits for trial in result.trials)
    assert model.sizes == [10, 10, 10]
    assert run.global_step == 3


def test_an_epoch_of_one_sample_is_a_batch_of_one() -> None:
    class Model(Unloaded):
        def loss(self, batch: Any) -> Tensor:
            return self.net[0](batch[0]).sum()

    result, _ = found(Model(), DataLoader(ROWS[:1], batch_size=4), max_size=None)
    assert (result.batch_size, result.stopped_by) == (1, "an epoch has 1 sample")


@pytest.mark.filterwarnings("ignore:Your `IterableDataset` has `__len__` defined")
def test_an_iterable_data_set_is_bounded_only_if_it_has_a_length() -> None:
    class Rows(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            return iter(TEN)

    class Sized(Rows):
        def __len__(self) -> int:
            return len(TEN)

    sizes = [found(Unloaded(), DataLoader(rows, batch_size=4), max_size=30)[0].batch_size for rows in (Rows(), Sized())]
    assert sizes == [30, 10]


@pytest.mark.parametrize("mode", ["min_size", "max_size", "max_size_cycle"])
@pytest.mark.parametrize(("drop_last", "expected"), [(False, 20), (True, 10)])
def test_of_several_loaders_the_longest_bounds_the_size_unless_the_others_would_drop_it(
    mode: Any, drop_last: bool, expected: int
) -> None:
    seen: set[tuple[int, ...]] = set()

    class Model(Unloaded):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            parts = [part for part in (batch["a"], batch["b"]) if part is not None]  # an exhausted loader gives None
            seen.update([tuple(len(part[0]) for part in parts)])
            return sum(map(self.loss, parts), torch.zeros(()))

    loaders = {
        "a": DataLoader(TEN, batch_size=4, drop_last=drop_last),
        "b": DataLoader(ROWS[:20], batch_size=4),
    }
    result, run = found(Model(), CombinedLoader(loaders, mode=mode), max_size=None)
    assert (result.batch_size, result.stopped_by) == (expected, f"an epoch has {expected} samples")
    assert max(a for a, *_ in seen) == 10  # also in trials: that loader never has more
    assert (10, expected) in seen
    assert run.global_step == 3


def test_a_validation_is_not_tried_with_more_samples_than_it_has() -> None:
    Validated.seen.clear()
    model = Validated()
    model.val_dataset = TEN
    result, _ = found(model, max_size=None)
    assert result.batch_size == 64
    assert max(size for size, *_ in Validated.seen) == 10


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

    with pytest.raises(MisconfigurationException, match=r"batch size stays 7\..*find_batch_size\(trainer, model"):
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
    """Validates with its own loader, and tells the sizes, which a trial would take back from itself."""

    val_batch_size: int | None = None
    val_dataset = ROWS
    seen: list[tuple[int, bool, bool]] = []  # noqa: RUF012

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        Validated.seen.append((len(batch[0]), self.training, torch.is_grad_enabled()))

    def val_dataloader(self) -> Any:
        return DataLoader(self.val_dataset, batch_size=self.val_batch_size or self.batch_size)


@pytest.mark.parametrize(("own", "expected"), [(None, [2, 2, 8, 12]), (6, [6, 6, 6, 6])])
def test_the_validation_is_tried_too_at_the_size_that_it_will_have(own: int | None, expected: list[int]) -> None:
    Validated.seen.clear()
    model = Validated()
    model.val_batch_size = own
    found(model)
    assert [size for size, *_ in Validated.seen[:4]] == expected  # the first is the warm-up
    assert {(training, grad) for _, training, grad in Validated.seen} == {(False, False)}
