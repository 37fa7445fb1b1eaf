"""Searches of several processes, which must agree, and end together."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from mfu_callback.finder.trials.ranks import Ranks
from tests.helpers import finder_run
from tests.helpers.finder_run import FEW, GIVEN
from tests.helpers.token_batches import LONGEST
from tests.helpers.torch_features import skip_what_cannot_be_sharded

SCRIPT = Path(finder_run.__file__)
TIMEOUT_SEC = 120


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Makes a run, once, and gives what it printed and what each rank ended with, as far as it came."""
    directory = tmp_path_factory.mktemp("ranks")

    @cache
    def run(how: str) -> tuple[subprocess.CompletedProcess[str], list[Any]]:
        skip_what_cannot_be_sharded(how)
        command = [sys.executable, "-W", "ignore", str(SCRIPT), str(directory), how]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SEC)
        return done, [torch.load(path) for path in sorted(directory.glob(f"{how}-[0-9].pt"))]

    return run


def sizes(rank: Any) -> list[int]:
    return [size for size, *_ in rank["trials"]]


@pytest.mark.parametrize("how", ["ddp-2-uneven", "ddp-2-uneven-loaders", "fsdp2-2-uneven"])
def test_all_ranks_keep_to_the_smallest_budget(run: Any, how: str) -> None:
    done, ranks = run(how)
    assert done.returncode == 0, done.stderr
    roomy, narrow = ranks
    assert roomy["batch_size"] == narrow["batch_size"] == roomy["loader"] == narrow["loader"]
    for rank in ranks:
        assert (narrow["batch_size"], True) in [(size, fits) for size, fits, *_ in rank["trials"]]
    assert 18 <= narrow["batch_size"] <= 28  # a rank with the whole budget reaches twice as much
    assert roomy["steps"] == 3


@pytest.mark.parametrize("how", ["ddp-2-uneven", "ddp-2-uneven-loaders"])
def test_the_largest_of_each_rank_is_told_and_was_run(run: Any, how: str) -> None:
    done, ranks = run(how)
    (largest, smallest), other = (rank["own_largest"] for rank in ranks)
    assert (largest, smallest) == other
    assert smallest == ranks[0]["batch_size"]
    assert 1.7 * smallest <= largest <= 2.4 * smallest
    for rank, own in zip(ranks, other, strict=True):
        assert max(size for size, fits, *_ in rank["trials"] if fits) == own
        assert any(size == own + 1 and not fits for size, fits, *_ in rank["trials"])
    assert f"the largest that fits each process is {largest} on process 0, {smallest} on process 1." in done.stderr


def test_where_steps_wait_for_each_other_ranks_try_the_same_sizes(run: Any) -> None:
    _, (roomy, narrow) = run("fsdp2-2-uneven")
    assert sizes(roomy) == sizes(narrow)
    assert [fits for _, fits, *_ in roomy["trials"]] == [fits for _, fits, *_ in narrow["trials"]]
    assert roomy["own_largest"] == narrow["own_largest"] == ()


@pytest.mark.parametrize("strategy", ["ddp-2", "fsdp2-2"])
def test_ranks_train_on_as_if_the_size_had_been_given(run: Any, strategy: str) -> None:
    (done, found), (_, given) = run(f"{strategy}-capped"), run(f"{strategy}-given")
    assert done.returncode == 0, done.stderr
    assert [rank["batch_size"] for rank in found] == [GIVEN, GIVEN]
    for mine, theirs in zip(found, given, strict=True):
        assert mine["weights"].keys() == theirs["weights"].keys()
        assert all(torch.equal(mine["weights"][name], theirs["weights"][name]) for name in mine["weights"])


@pytest.mark.parametrize("how", ["ddp-2-few", "ddp-2-few-sampled-loaders", "fsdp2-2-few"])
def test_no_batch_of_a_rank_is_larger_than_its_share_of_an_epoch(run: Any, how: str) -> None:
    done, ranks = run(how)
    assert done.returncode == 0, done.stderr
    share = (FEW + 1) // 2
    assert [rank["batch_size"] for rank in ranks] == [share, share]
    assert max(size for rank in ranks for size in sizes(rank)) == share
    assert {rank["stopped_by"] for rank in ranks} == {f"an epoch has {share} samples on each process"}
    assert f"No larger one was tried: an epoch has {share} samples on each process." in done.stderr


def test_a_step_that_gathers_from_all_ranks_runs_alone_in_trials(run: Any) -> None:
    done, ranks = run("ddp-2-capped-gathering")
    assert done.returncode == 0, done.stderr
    assert [rank["batch_size"] for rank in ranks] == [GIVEN, GIVEN]


def test_ranks_whose_longest_samples_differ_set_one_limit_of_tokens_by_the_longest(run: Any) -> None:
    done, ranks = run("ddp-2-loaders-tokens")
    assert done.returncode == 0, done.stderr
    assert [rank["max_tokens"] for rank in ranks] == [12 * LONGEST, 12 * LONGEST]
    assert sizes(ranks[0]) == sizes(ranks[1]) == [2, 8, 12]


def test_where_steps_wait_for_each_other_no_size_fails_that_was_run(run: Any) -> None:
    _, ranks = run("fsdp2-2-uneven")
    assert all(fits for rank in ranks for _, fits, *_ in rank["trials"])
    assert max(peak for _, _, peak, _ in ranks[1]["trials"]) <= 100 * 2**20


def test_an_error_on_one_rank_ends_all_of_them(run: Any) -> None:
    done, ranks = run("ddp-2-raising")
    assert done.returncode != 0
    assert ranks == []
    assert "ArithmeticError: broken" in done.stderr
    assert "another process failed in its search" in done.stderr


def test_a_budget_that_holds_nothing_on_one_rank_ends_all_of_them_with_its_name(run: Any) -> None:
    done, ranks = run("ddp-2-tight")
    assert done.returncode != 0
    assert ranks == []
    assert done.stderr.count("Not even a batch of 1 fits into") >= 2
    assert "into 5 MiB" in done.stderr


def test_a_lack_of_memory_where_steps_wait_for_each_other_ends_all_ranks_with_its_name(run: Any) -> None:
    done, ranks = run("fsdp2-2-exhausting")
    assert done.returncode != 0
    assert ranks == []
    text = "wait for each other in every step. The first error is of process 1: OutOfMemoryError: no memory is left"
    for rank in ("[rank0]", "[rank1]"):
        assert any(line.startswith(rank) and text in line for line in done.stderr.splitlines()), done.stderr


def test_one_process_agrees_with_itself() -> None:
    from tests.helpers.finder_models import Tabular, trainer

    run, model = trainer(), Tabular()
    run.strategy.connect(model)
    ranks = Ranks(run, model)
    verdict = ranks.agree(fits=True, used=None, seconds=2.0)
    assert (verdict.fits, verdict.used, verdict.seconds) == (True, None, 2.0)
    assert ranks.held_bytes == 0
    assert not ranks.step_together


def test_synchronized_batch_norm_is_a_reason_to_predict() -> None:
    from tests.helpers.finder_models import Tabular, trainer

    run, model = trainer(), Tabular()
    model.net = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model.net)
    assert Ranks(run, model).step_together
