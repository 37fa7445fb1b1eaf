"""Batches that are filled by tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset

from mfu_callback import BatchSizeFinder, find_batch_size
from mfu_callback.finder.data.tokens import TokenSamples
from mfu_callback.finder.limits.limit import limit_for
from mfu_callback.finder.limits.out_of_memory import is_out_of_memory
from tests.helpers.finder_models import MIB, ROWS, VOCABULARY, Tabular, Unloaded, fitted, trainer
from tests.helpers.token_batches import (
    LONGEST,
    UNSEEN,
    BatchesMadeBefore,
    Sentences,
    TokenBatches,
    Trained,
    WithOwnLoader,
    loader_of,
    padded,
)

BUDGET = 100 * MIB
LOG = "lightning.pytorch.utilities.rank_zero"
pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


class Limited(Callback):
    """Trains every batch under a real limit."""

    def __init__(self, budget: int) -> None:
        self._limit = limit_for(torch.device("cpu"), budget=budget, margin=0)

    def on_train_start(self, *_: Any) -> None:
        self._limit.calibrate(own_bytes=0, held_bytes=0)

    def on_train_batch_start(self, *_: Any) -> None:
        self._limit.free()
        self._entered = self._limit.enforced()
        self._entered.__enter__()

    def on_train_batch_end(self, *_: Any) -> None:
        self._entered.__exit__(None, None, None)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._entered.__exit__(type(exception), exception, None)


def searched(model: LightningModule, *loaders: Any, **options: Any) -> Any:
    """The result of a finder after three steps."""
    finder = BatchSizeFinder(**{"max_tokens": 12 * LONGEST, **options})
    fitted(model, finder, fit=loaders)
    return finder.result


def test_the_limit_of_a_given_loaders_batch_sampler_is_searched_and_set() -> None:
    model, loader = Trained(), loader_of(Sentences())
    result = searched(model, loader, max_tokens=1_000_000, budget=BUDGET)
    assert 10 <= result.batch_size <= 100
    assert result.length == LONGEST
    assert loader.batch_sampler.max_tokens == result.max_tokens == result.batch_size * LONGEST  # type: ignore
    sizes = {trial.size: trial.fits for trial in result.trials}
    assert (sizes[result.batch_size], sizes[result.batch_size + 1]) == (True, False)
    assert all(result.max_tokens / 2 < rows * length <= result.max_tokens for rows, length in model.shapes)


@pytest.mark.parametrize(("factor", "fits"), [(1, True), (2, False)])
def test_a_whole_epoch_trains_within_the_budget_and_not_with_twice_the_limit(factor: int, fits: bool) -> None:
    loader = loader_of(Sentences())
    found = searched(Trained(), loader, max_tokens=1_000_000, budget=BUDGET)
    batches = TokenBatches(Sentences(), factor * found.max_tokens)
    noise = 20 * MIB  # what the heap of a process that has run many tests adds now and then
    run = trainer(Limited(BUDGET + noise), max_steps=-1, max_epochs=2)
    model = Trained()
    if fits:
        run.fit(model, loader_of(Sentences(), batches))
        assert sum(rows for rows, _ in model.shapes) == 2 * len(Sentences())
    else:
        with pytest.raises((RuntimeError, MemoryError)) as caught:
            run.fit(model, loader_of(Sentences(), batches))
        assert is_out_of_memory(caught.value)


@pytest.mark.parametrize(("known", "length"), [(False, LONGEST - 5), (True, LONGEST)])
def test_the_longest_is_found_by_the_samplers_lengths_where_64_samples_miss_it(
    known: bool, length: int, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = Sentences(longest_at=UNSEEN)
    with caplog.at_level("INFO", logger=LOG):
        result = searched(Trained(), loader_of(dataset, TokenBatches(dataset, known=known)), max_tokens=12 * LONGEST)
    assert (result.length, result.max_tokens) == (length, 12 * LONGEST // length * length)
    assert ("the longest by TokenBatches.lengths" in caplog.text) == known
    assert ("the longest of 64 samples drawn" in caplog.text) == (not known)
    assert ("A longer sample in training may need more memory: give worst_case=" in caplog.text) == (not known)


def test_the_lengths_of_a_data_set_count_too_and_no_other_sample_is_read() -> None:
    class Known(Sentences):
        def __init__(self) -> None:
            super().__init__(longest_at=UNSEEN)
            self.sizes = torch.tensor(self._lengths)
            self.read: list[int] = []

        def __getitem__(self, index: int) -> Tensor:
            self.read.append(index)
            return super().__getitem__(index)

    dataset = Known()
    longest = TokenSamples(loader_of(dataset)).longest
    assert (longest.counted, longest.how, dataset.read) == (LONGEST, "the longest by Known.sizes", [UNSEEN])


def test_what_the_samplers_own_lengths_count_is_what_is_set() -> None:
    dataset = Sentences()
    batches = TokenBatches(dataset)
    batches.lengths = [2 * length for length in dataset._lengths]  # source and target, say
    longest = TokenSamples(loader_of(dataset, batches)).longest
    assert (longest.counted, longest.tokens) == (2 * LONGEST, LONGEST)
    dataset.lengths = [4 * length for length in dataset._lengths]  # type: ignore[attr-defined]  # bytes, say
    longest = TokenSamples(loader_of(dataset)).longest
    assert (longest.counted, longest.tokens) == (LONGEST, LONGEST)


@pytest.mark.parametrize(
    "lengths", [[1, 2, 3], "a" * 300, [[1, 2]] * 300, [[1], [2, 3]] * 150, ["long"] * 300, lambda: [1] * 300]
)
def test_lengths_that_are_none_are_left_alone(lengths: Any) -> None:
    dataset = Sentences()
    dataset.lengths = lengths  # type: ignore[attr-defined]
    assert "64 samples" in TokenSamples(loader_of(dataset)).longest.how


def test_the_log_says_what_was_tried_and_what_was_set(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger=LOG):
        searched(Trained(), loader_of(Sentences()))
    assert "Sizes are samples of 48 tokens (the longest of 64 samples drawn from the data set)" in caplog.text
    for size in (2, 8, 12):
        assert f"{size} samples of 48 tokens: max_tokens={size * 48} fits" in caplog.text
    assert "max_tokens=576 (12 samples of 48 tokens) is the largest that fits" in caplog.text


def test_no_trial_has_more_tokens_than_allowed() -> None:
    model = Trained()
    seen: list[int] = []
    model.loss = lambda tokens: seen.append(tokens.numel()) or Trained.loss(model, tokens)  # type: ignore
    result = searched(model, loader_of(Sentences()), max_tokens=2 * LONGEST - 1)
    assert (result.batch_size, result.max_tokens) == (1, LONGEST)
    assert max(seen) == LONGEST


def test_sizes_are_multiples_of_so_many_of_the_longest_samples() -> None:
    result = searched(Trained(), loader_of(Sentences()), multiple_of=5)
    assert (result.batch_size, result.max_tokens) == (10, 10 * LONGEST)
    assert all(trial.size % 5 == 0 for trial in result.trials)


@pytest.mark.parametrize("name", ["max_tokens", "max_tokens_in_batch", "batch_tokens"])
def test_an_attribute_of_the_model_is_set_and_its_loaders_follow(name: str) -> None:
    model = WithOwnLoader(name)
    result = searched(model)
    assert getattr(model, name) == result.max_tokens == 12 * LONGEST
    assert model.trainer.train_dataloader.batch_sampler.max_tokens == 12 * LONGEST


def test_batch_arg_name_names_another_attribute_of_model_or_sampler() -> None:
    model = WithOwnLoader("tokens_at_once")
    searched(model, batch_arg_name="tokens_at_once")
    assert model.tokens_at_once == 12 * LONGEST

    class Nested(TokenBatches):
        pass

    dataset = Sentences()
    batches = Nested(dataset)
    batches.constraint = type("Constraint", (), {"frames": 7})()  # type: ignore[attr-defined]
    searched(Trained(), loader_of(dataset, batches), batch_arg_name="constraint.frames")
    assert (batches.constraint.frames, batches.max_tokens) == (12 * LONGEST, 2 * LONGEST)  # type: ignore[attr-defined]


class MakesBatches(Sentences):
    """A data set that makes the batches itself, from lists of indices."""

    def __getitem__(self, indices: Any) -> Tensor:
        return padded([super(MakesBatches, self).__getitem__(index) for index in indices])


def test_the_sampler_of_a_data_set_that_makes_the_batches_is_set() -> None:
    dataset, model = MakesBatches(), Trained()
    loader: Any = DataLoader(dataset, batch_size=None, sampler=TokenBatches(dataset))
    result = searched(model, loader)
    assert loader.sampler.max_tokens == result.max_tokens == 12 * LONGEST
    assert model.shapes[-1][0] * model.shapes[-1][1] > 2 * LONGEST


def test_a_data_set_that_takes_something_else_than_indices_is_named() -> None:
    class TakesCuts(MakesBatches):
        def __getitem__(self, indices: Any) -> Tensor:
            return super().__getitem__([cut.number for cut in indices])

    dataset = TakesCuts()
    loader: Any = DataLoader(dataset, batch_size=None, sampler=TokenBatches(dataset))
    with pytest.raises(MisconfigurationException, match=r"cannot ask TakesCuts.*AttributeError.*worst_case="):
        searched(Trained(), loader)

    class Endless(IterableDataset[Any]):
        max_tokens = 1

        def __iter__(self) -> Any:
            return iter([torch.zeros(2, 8, dtype=torch.long)])

    endless: Any = DataLoader(Endless(), batch_size=None)
    endless.sampler.max_tokens = 1
    with pytest.raises(MisconfigurationException, match=r"cannot ask Endless.*it is iterable"):
        searched(Trained(), endless)


@pytest.mark.parametrize("as_function", [False, True])
def test_the_users_worst_case_gives_the_length_and_the_batches(as_function: bool) -> None:
    def worst(size: int) -> Tensor:
        return torch.zeros(size, 2 * LONGEST, dtype=torch.long)

    model = Trained()
    seen: list[Any] = []
    model.loss = lambda tokens: seen.append(tuple(tokens.shape)) or Trained.loss(model, tokens)  # type: ignore
    result = searched(model, loader_of(Sentences()), worst_case=worst if as_function else worst(3))
    assert (result.batch_size, result.length, result.max_tokens) == (6, 2 * LONGEST, 12 * LONGEST)
    assert seen[:-3] == [(2, 96)] * 4 + [(6, 96)] * 2  # the first two warm up


def test_a_worst_case_for_tokens_instead_of_samples_is_named() -> None:
    def for_tokens(tokens: int) -> Tensor:
        return torch.zeros(tokens // LONGEST, LONGEST, dtype=torch.long)

    with pytest.raises(MisconfigurationException, match="called with the number of samples"):
        searched(Trained(), loader_of(Sentences()), worst_case=for_tokens)
    with pytest.raises(MisconfigurationException, match="48 tokens for one sample and 48 for two"):
        searched(Trained(), loader_of(Sentences()), worst_case=lambda _: for_tokens(LONGEST))


def test_a_batch_without_tokens_is_named_with_worst_case() -> None:
    with pytest.raises(MisconfigurationException, match=r"no token ids.*worst_case="):
        searched(Unloaded(), DataLoader(ROWS, batch_sampler=TokenBatches(Sentences(count=64))))


@pytest.mark.parametrize(
    ("options", "text"), [({}, "48 tokens"), ({"multiple_of": 2}, "48 tokens times multiple_of=2")]
)
def test_a_limit_below_the_longest_sample_is_named_with_both(options: Any, text: str) -> None:
    with pytest.raises(MisconfigurationException, match=f"max_tokens=47 is below the longest sample's {text}"):
        searched(Trained(), loader_of(Sentences()), max_tokens=47, **options)


def test_a_limit_and_a_size_are_refused_together() -> None:
    with pytest.raises(ValueError, match="max_tokens=100 and max_size=10"):
        BatchSizeFinder(max_tokens=100, max_size=10)
    with pytest.raises(ValueError, match="max_tokens=0 must be"):
        BatchSizeFinder(max_tokens=0)


def test_a_loader_that_is_not_filled_by_tokens_is_named() -> None:
    with pytest.raises(MisconfigurationException, match="has a BatchSampler without any of `max_tokens`"):
        searched(Unloaded(), DataLoader(ROWS, batch_size=4))
    with pytest.raises(MisconfigurationException, match="sets `max_tokens`, but neither the model"):
        searched(Tabular())


def test_a_loader_filled_by_tokens_is_pointed_to_the_option() -> None:
    with pytest.raises(MisconfigurationException, match=r"TokenBatches without a `batch_size`.* max_tokens= "):
        fitted(Trained(), BatchSizeFinder(max_size=4), fit=[loader_of(Sentences())])


def test_a_limit_that_cannot_be_set_is_named() -> None:
    class ReadOnly(TokenBatches):
        max_tokens = property(lambda self: 96, lambda self, value: None if value == 96 else self._refuse())  # type: ignore

        def _refuse(self) -> None:
            raise AttributeError("no setter")

    with pytest.raises(MisconfigurationException, match=r"cannot set ReadOnly\.max_tokens \(no setter\)"):
        searched(Trained(), loader_of(Sentences(), ReadOnly(Sentences())))


def test_loaders_of_the_model_that_do_not_follow_are_named() -> None:
    class Model(WithOwnLoader):
        def train_dataloader(self) -> Any:
            return loader_of(self.dataset, TokenBatches(self.dataset, 100))

    with pytest.raises(MisconfigurationException, match="the loaders' max_tokens stays 100"):
        searched(Model())


def test_a_sampler_that_has_made_its_batches_is_named() -> None:
    with pytest.warns(UserWarning, match="number of batches stays the same"):
        searched(Trained(), loader_of(Sentences(), BatchesMadeBefore(Sentences())))


def test_a_sampler_that_follows_is_not_warned_of(recwarn: pytest.WarningsRecorder) -> None:
    class Counted(TokenBatches):
        def __len__(self) -> int:
            return sum(1 for _ in self)

    class Keeping(TokenBatches):
        made: Any = None

        def __iter__(self) -> Any:
            self.made = self.made or list(super().__iter__())
            return iter(self.made)

        def __len__(self) -> int:
            return len(list(iter(self)))

    for kind in (Counted, Keeping):
        model = Trained()
        searched(model, loader_of(Sentences(), kind(Sentences())))
        rows, length = model.shapes[-1]
        assert rows * length > 2 * LONGEST
    assert not [warning for warning in recwarn if "number of batches" in str(warning.message)]


def test_a_run_whose_loader_has_another_limit_is_stopped() -> None:
    class Model(WithOwnLoader):
        def on_train_start(self) -> None: ...

    class Changes(Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            trainer.train_dataloader.batch_sampler.max_tokens = 99

    finder = BatchSizeFinder(max_tokens=12 * LONGEST)
    with pytest.raises(MisconfigurationException, match=r"set a max_tokens of 576, but .* max_tokens of 99"):
        fitted(Model(), Changes(), finder)


def test_a_longer_sample_in_training_is_told_with_the_length_that_was_tried() -> None:
    dataset = Sentences(longest_at=UNSEEN)
    with pytest.warns(
        UserWarning, match=r"samples? of 48 tokens\. .* up to 13 samples of 43 tokens.*worst_case="
    ) as told:
        fitted(Trained(), BatchSizeFinder(max_tokens=13 * 43), fit=[loader_of(dataset)], max_steps=-1, max_epochs=3)
    assert sum("samples of 43 tokens" in str(warning.message) for warning in told) == 1


def test_a_sampler_that_does_not_count_padding_is_told() -> None:
    class Unpadded(TokenBatches):
        def __iter__(self) -> Any:
            yield list(range(self.max_tokens // 12))  # as if samples had 12 tokens on average

    with pytest.warns(UserWarning, match=r"48 samples of 48 tokens.*counts padding"):
        searched(Trained(), loader_of(Sentences(), Unpadded(Sentences())))


def test_several_loaders_get_the_limit_and_their_parts_are_not_taken_for_long_samples() -> None:
    class Model(Trained):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            parts = [batch[name]["input_ids"] for name in ("a", "b")]
            self.shapes.extend(tuple(part.shape) for part in parts)
            return self.loss(parts[0]) + self.loss(parts[1])

    shorter = Sentences()
    shorter._lengths = [LONGEST // 2] * 64
    loaders = {"a": loader_of(Sentences()), "b": loader_of(shorter)}
    for loader in loaders.values():
        loader.collate_fn = lambda rows: {"input_ids": padded(rows)}
    model = Model()
    assert searched(model, loaders).length == LONGEST
    assert [loader.batch_sampler.max_tokens for loader in loaders.values()] == [576, 576]  # type: ignore
    assert model.shapes[1] == (24, 24)


class Evaluated(Trained):
    def validation_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.shapes.append((len(batch), batch.shape[1]))
        return self.loss(batch)

    test_step = predict_step = validation_step


@pytest.mark.parametrize("method", ["validate", "test", "predict"])
@pytest.mark.filterwarnings("ignore:You are using a custom batch sampler")
def test_evaluations_are_searched_too(method: str) -> None:
    model, finder, loader = Evaluated(), BatchSizeFinder(max_tokens=12 * LONGEST), loader_of(Sentences())
    getattr(trainer(finder), method)(model, loader)
    assert finder.result is not None
    assert finder.result.max_tokens == loader.batch_sampler.max_tokens == 12 * LONGEST  # type: ignore
    assert sum(rows for rows, _ in model.shapes) == len(Sentences())  # trials took back what they added
    assert 2 * LONGEST < max(rows * length for rows, length in model.shapes) <= 12 * LONGEST


def validation_shapes(loader: Any) -> set[tuple[int, int]]:
    """The shapes of validation batches in the trials of a training whose largest batch has 12 samples."""

    class Model(WithOwnLoader):
        seen: list[tuple[int, int]] = []  # noqa: RUF012

        def validation_step(self, batch: Tensor, batch_idx: int) -> None:
            Model.seen.append((len(batch), batch.shape[1]))

        def val_dataloader(self) -> Any:
            return loader(self)

    finder = BatchSizeFinder(max_tokens=12 * LONGEST)
    fitted(Model(), finder, num_sanity_val_steps=0, limit_val_batches=1, max_steps=1)
    assert finder.result is not None
    return set(Model.seen[: len(finder.result.trials) + 1])


def test_the_validation_is_tried_at_the_limit_that_it_will_have() -> None:
    shorter = Sentences()
    shorter._lengths = [LONGEST // 2] * 64
    assert validation_shapes(lambda model: loader_of(shorter, TokenBatches(shorter, model.max_tokens))) == {
        (4, 24),
        (16, 24),
        (24, 24),
    }
    assert validation_shapes(lambda model: loader_of(shorter, TokenBatches(shorter, 72))) == {(3, 24)}
    assert validation_shapes(lambda model: DataLoader(shorter, batch_size=5)) == {(5, 24)}


def test_a_given_loader_for_validation_is_tried_at_its_own_size() -> None:
    class Model(Trained):
        sizes: list[int] = []  # noqa: RUF012

        def validation_step(self, batch: Tensor, batch_idx: int) -> None:
            Model.sizes.append(len(batch))

    searched(Model(), loader_of(Sentences()), DataLoader(Sentences(), batch_size=5, collate_fn=padded))
    assert set(Model.sizes) == {5}


def test_a_resumed_run_keeps_its_limit(tmp_path: Any) -> None:
    finder = BatchSizeFinder(max_tokens=12 * LONGEST)
    fitted(WithOwnLoader(), finder, max_steps=2).save_checkpoint(tmp_path / "last.ckpt")
    resumed, model = BatchSizeFinder(max_tokens=20 * LONGEST), WithOwnLoader()
    trainer(resumed, max_steps=4).fit(model, ckpt_path=tmp_path / "last.ckpt")
    assert model.max_tokens == 12 * LONGEST
    assert resumed.result is not None
    assert (resumed.result.max_tokens, resumed.result.length) == (12 * LONGEST, LONGEST)


def test_the_search_alone_returns_the_limit() -> None:
    loader = loader_of(Sentences())
    result = find_batch_size(trainer(), Trained(), loader, max_tokens=12 * LONGEST)
    assert result.max_tokens == loader.batch_sampler.max_tokens == 12 * LONGEST  # type: ignore
    assert "**max_tokens = 576** (samples of 48 tokens)" in result.markdown()


def test_a_recurrent_network_on_named_ids_is_searched_too() -> None:
    class Recurrent(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.cell = nn.Embedding(VOCABULARY, 16), nn.GRU(16, 32, batch_first=True)
            self.head = nn.Linear(32, VOCABULARY)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            hidden, _ = self.cell(self.embedding(batch["input_ids"][:, :-1]))
            return F.cross_entropy(self.head(hidden).flatten(0, 1), batch["input_ids"][:, 1:].flatten())

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    dataset: Dataset[Tensor] = Sentences()
    batches = TokenBatches(Sentences())
    loader = DataLoader(dataset, batch_sampler=batches, collate_fn=lambda rows: {"input_ids": padded(rows)})
    result = searched(Recurrent(), loader, objective="throughput")
    assert batches.max_tokens == result.max_tokens == result.batch_size * LONGEST
    assert {point.size for point in result.sweep} >= {12}
