from __future__ import annotations

import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from mfu_callback import BatchSizeFinder
from tests.helpers.finder_models import MIB, Sequences, Tabular, TabularData, TinyGPT, fitted, trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning"),
]


def weights(model: LightningModule) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in model.state_dict().values()]


def assert_same(ones: list[Tensor], others: list[Tensor]) -> None:
    assert len(ones) == len(others)
    assert all(torch.equal(one, other) for one, other in zip(ones, others, strict=True))


def seeded(make: Any, **options: Any) -> Any:
    torch.manual_seed(1)
    return make(**options)


@pytest.mark.parametrize("margin", [0.0, 0.05])
def test_a_real_budget_is_searched_to_its_limit_and_training_goes_on_as_if_the_size_had_been_given(
    margin: float,
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_DATA)
    finder = BatchSizeFinder(budget=200 * MIB, margin=margin)
    found = seeded(TinyGPT)
    run = fitted(found, finder)
    assert finder.result is not None
    size, trials = finder.result.batch_size, {trial.size: trial for trial in finder.result.trials}

    assert 12 <= size <= 96
    assert trials[size].fits
    assert not trials[size + 1].fits
    assert 0.7 * 200 * MIB < (trials[size].peak_bytes or 0) < 200 * MIB
    assert resource.getrlimit(resource.RLIMIT_DATA) == limits
    assert found.batch_size == size
    assert run.train_dataloader.batch_size == size
    assert run.global_step == 3

    given = seeded(TinyGPT, batch_size=size)
    fitted(given)
    assert_same(weights(found), weights(given))


SEARCH = """
import torch
from tests.helpers.finder_models import MIB, TinyGPT, fitted
from mfu_callback import BatchSizeFinder

torch.manual_seed(1)
finder = BatchSizeFinder(budget=200 * MIB)
fitted(TinyGPT(), finder)
print(finder.result.batch_size)
"""


def test_the_same_budget_gives_the_same_size_in_another_process() -> None:
    # Within one process, what earlier work has left in its heap moves the limit by a few per cent.
    command = [sys.executable, "-W", "ignore", "-c", SEARCH]
    here = Path(__file__).parents[2]
    runs = [subprocess.run(command, cwd=here, capture_output=True, text=True, check=True) for _ in range(2)]
    first, second = (int(run.stdout.split()[-1]) for run in runs)
    assert abs(first - second) <= 1
    assert 30 < first < 70


def test_a_budget_that_holds_nothing_is_named_with_the_remedy() -> None:
    with pytest.raises((RuntimeError, MisconfigurationException), match=r"(?s)batch of 1.*budget"):
        fitted(TinyGPT(), BatchSizeFinder(budget=1 * MIB))


def test_a_larger_model_leaves_room_for_a_smaller_batch() -> None:
    sizes = []
    for width in (32, 128):
        finder = BatchSizeFinder(budget=200 * MIB)
        fitted(TinyGPT(width=width), finder, max_steps=1)
        assert finder.result is not None
        sizes.append(finder.result.batch_size)
    assert sizes[0] > sizes[1]


def test_max_size_is_never_exceeded() -> None:
    finder = BatchSizeFinder(max_size=10)
    fitted(Tabular(), finder)
    assert finder.result is not None
    assert [trial.size for trial in finder.result.trials] == [2, 8, 10]
    assert finder.result.batch_size == 10


def test_no_batch_is_larger_than_the_data_set_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    finder, model = BatchSizeFinder(max_size=1000), Tabular()
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        run = fitted(model, finder)
    assert finder.result is not None
    assert model.batch_size == finder.result.batch_size == 64
    assert max(trial.size for trial in finder.result.trials) == 64
    assert run.global_step == 3
    assert finder.result.stopped_by == "an epoch has 64 samples"
    assert "No larger one was tried: an epoch has 64 samples." in caplog.text
    assert "; no larger one was tried: an epoch has 64 samples" in finder.result.markdown()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"max_size": 10}, "max_size=10"),
        ({"max_size": 64}, "max_size=64"),
        ({"global_batch_size": 16}, "global_batch_size=16"),
        ({"max_seconds": 1e-9}, "max_seconds=1e-09"),
    ],
)
def test_the_result_says_what_ended_the_search(options: dict[str, Any], expected: str) -> None:
    finder = BatchSizeFinder(init_size=4, **options)
    fitted(Tabular(), finder)
    assert finder.result is not None
    assert finder.result.stopped_by == expected


def test_a_search_that_ends_at_the_limit_says_so(caplog: pytest.LogCaptureFixture) -> None:
    finder = BatchSizeFinder(budget=100 * MIB)
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        fitted(TinyGPT(), finder)
    assert finder.result is not None
    assert finder.result.stopped_by == "memory"
    assert "No larger one was tried" not in caplog.text


def test_a_loader_that_drops_what_it_cannot_fill_still_gives_a_batch() -> None:
    class Model(Tabular):
        def train_dataloader(self) -> Any:
            return DataLoader(self.dataset, batch_size=self.batch_size, drop_last=True)

    finder, model = BatchSizeFinder(), Model()
    run = fitted(model, finder)
    assert model.batch_size == 64
    assert run.global_step == 3


def test_the_batch_size_of_a_datamodule_is_set() -> None:
    class Model(Tabular):
        train_dataloader = LightningModule.train_dataloader

        def __init__(self) -> None:
            super().__init__()
            del self.batch_size

    data, run = TabularData(), trainer(BatchSizeFinder(max_size=12))
    run.fit(Model(), datamodule=data)
    assert data.hparams["batch_size"] == 12
    assert run.train_dataloader.batch_size == 12


def test_an_iterable_data_set_is_repeated_where_it_is_short() -> None:
    class Rows(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter(Tabular().dataset)

    class Model(Tabular):
        def train_dataloader(self) -> Any:
            return DataLoader(Rows(), batch_size=self.batch_size)

    finder = BatchSizeFinder(max_size=100)
    fitted(Model(), finder)
    assert finder.result is not None
    assert finder.result.batch_size == 100


def test_an_empty_data_set_is_named() -> None:
    class Rows(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter(())

    model = Tabular()
    model.dataset = Rows()
    model.train_dataloader = lambda: DataLoader(model.dataset, batch_size=model.batch_size)  # type: ignore
    with pytest.raises(MisconfigurationException, match="no sample"):
        fitted(model, BatchSizeFinder())


def test_a_missing_batch_size_is_named() -> None:
    model = Tabular()
    del model.batch_size
    with pytest.raises(MisconfigurationException, match="batch_size"):
        fitted(model, BatchSizeFinder())


@pytest.mark.parametrize(
    "options",
    [
        {"max_size": 0},
        {"init_size": 0},
        {"budget": 0},
        {"margin": 1.0},
        {"margin": -0.1},
        {"resolution": 1},
        {"resolution": -0.01},
        {"multiple_of": 0},
        {"max_seconds": 0},
        {"objective": "speed"},
        {"max_size": 4, "multiple_of": 8},
        {"max_tokens": 4, "multiple_of": 8},
        {"max_size": 4, "init_size": 8},
        {"max_tokens": 4, "init_size": 8},
        {"global_batch_size": 4, "init_size": 8},
        {"init_size": 12, "multiple_of": 8},
        {"batch_arg_name": ""},
        {"batch_arg_name": 5},
    ],
)
def test_wrong_arguments_raise_at_construction_and_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))) as raised:
        BatchSizeFinder(**options)
    assert all(f"{name}={value!r}" in str(raised.value) for name, value in options.items())


_OTHER_TYPES = st.one_of(
    st.booleans(),
    st.text(),
    st.binary(),
    st.complex_numbers(),
    st.lists(st.integers(1, 9)),
    st.just(Tensor([4])),
)
_WRONG = {
    "max_size": st.one_of(_OTHER_TYPES, st.floats(), st.integers(max_value=0)),
    "max_seconds": st.one_of(_OTHER_TYPES, st.floats(max_value=0), st.just(float("nan"))),
    "margin": st.one_of(
        _OTHER_TYPES,
        st.none(),
        st.floats(min_value=1),
        st.floats(max_value=0, exclude_max=True),
        st.just(float("nan")),
        st.integers(min_value=1),
    ),
    "objective": st.one_of(_OTHER_TYPES.filter(lambda value: value != "memory"), st.none(), st.integers()),
    "batch_arg_name": st.one_of(st.integers(), st.floats(), st.booleans(), st.just(""), st.lists(st.text())),
}
_WRONG |= dict.fromkeys(("max_tokens", "budget", "init_size", "global_batch_size"), _WRONG["max_size"])
_WRONG |= {"multiple_of": st.one_of(_WRONG["max_size"], st.none()), "resolution": _WRONG["margin"]}


@pytest.mark.parametrize("name", _WRONG)
@given(data=st.data())
@settings(deadline=None, max_examples=50)
def test_a_value_of_a_wrong_type_or_out_of_range_is_named_with_its_option(name: str, data: st.DataObject) -> None:
    value = data.draw(_WRONG[name])
    with pytest.raises(ValueError) as raised:  # noqa: PT011  (its text follows)
        BatchSizeFinder(**{name: value})
    assert str(raised.value).startswith(f"{name}={value!r} ")
    assert re.search(r"(Pass|Leave|Use) ", str(raised.value))


def test_fast_dev_run_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    finder, model = BatchSizeFinder(), Tabular()
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        fitted(model, finder, fast_dev_run=True)
    assert finder.result is None
    assert model.batch_size == 4
    assert "fast_dev_run" in caplog.text


def test_a_resumed_run_keeps_its_size(tmp_path: Any) -> None:
    finder = BatchSizeFinder(max_size=16)
    fitted(Tabular(), finder, max_steps=-1, max_epochs=1).save_checkpoint(tmp_path / "last.ckpt")

    resumed, model = BatchSizeFinder(max_size=60), Tabular()
    run = trainer(resumed, max_steps=-1, max_epochs=2)
    run.fit(model, ckpt_path=tmp_path / "last.ckpt")
    assert run.global_step == 8
    assert run.train_dataloader.batch_size == 16
    assert resumed.result is not None
    assert resumed.result.batch_size == 16


def test_a_scheduler_built_from_the_length_of_the_run_gets_the_new_length() -> None:
    class Model(Tabular):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
            self.total_steps = int(self.trainer.estimated_stepping_batches)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=self.total_steps)
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    found = seeded(Model)
    run = fitted(found, BatchSizeFinder(max_size=16), max_steps=-1, max_epochs=3)
    assert run.global_step == found.total_steps == 12

    given = seeded(Model, batch_size=16)
    fitted(given, max_steps=-1, max_epochs=3)
    assert_same(weights(found), weights(given))


def test_the_log_says_what_was_searched_and_found(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        fitted(TinyGPT(dataset=Sequences(64)), BatchSizeFinder(budget=200 * MIB))
    assert "190 MiB" in caplog.text
    assert "margin of 5%" in caplog.text
    assert "largest that fits" in caplog.text
