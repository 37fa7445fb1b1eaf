"""A loop of one's own on two real processes, started by torchrun."""

from functools import cache
from pathlib import Path

import pytest
import torch

from tests.helpers import loop_processes
from tests.helpers.launched import has_ended, run_on_two_processes
from tests.helpers.loop_processes import LOG_EVERY, STEPS
from tests.helpers.runs import TINY_FLOPS
from tests.helpers.torch_features import skip_what_cannot_be_sharded

SCRIPT = Path(loop_processes.__file__)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Makes a run, once, and gives its process and what each rank ended with, as far as it came."""
    directory = tmp_path_factory.mktemp("ranks")

    @cache
    def run(how):
        skip_what_cannot_be_sharded(how)
        done = run_on_two_processes(SCRIPT, directory, how)
        return done, [torch.load(path, weights_only=False) for path in sorted(directory.glob(f"{how}-[0-9].pt"))]

    return run


@pytest.fixture(scope="module")
def ends(run):
    """What both ranks of a run ended with; it ended well."""

    def ends(how):
        done, ranks = run(how)
        assert has_ended(done), done.stderr
        assert len(ranks) == 2, done.stderr
        return ranks

    return ends


@pytest.mark.parametrize("how", ["ddp", "fsdp2", "ddp-accumulate"])
def test_the_weights_are_those_of_a_run_without_the_meter(ends, how):
    for measured, plain in zip(ends(how), ends(f"{how}-without"), strict=True):
        assert list(measured["weights"]) == list(plain["weights"])
        assert all(torch.equal(plain["weights"][name], value) for name, value in measured["weights"].items())


@pytest.mark.parametrize("how", ["ddp", "fsdp2", "ddp-accumulate", "ddp-uneven"])
def test_every_rank_is_given_the_same_figures_of_all_ranks(ends, how):
    one, two = ends(how)
    assert one["values"] == two["values"]
    steps = STEPS // 2 if "accumulate" in how else STEPS
    assert len(one["values"]) == steps // LOG_EVERY
    summary = one["summary"]
    assert summary["steps"] == steps - 1
    tokens = (4 + 2 if "uneven" in how else 8) * 8 * (2 if "accumulate" in how else 1)
    assert summary["tokens"] == tokens * (steps - 1)
    assert summary["flops"]["forward"] == TINY_FLOPS
    assert [device["rank"] for device in summary["devices"]] == [0, 1]
    assert sum(summary["waterfall"].values()) == pytest.approx(1)


@pytest.mark.parametrize("how", ["ddp-slow", "fsdp2-slow"])
def test_the_slow_rank_is_named_with_its_phase(ends, how):
    pace = ends(how)[0]["summary"]["pace"]
    assert (pace["rank"], pace["phase"]) == (1, "forward")
    assert pace["behind_sec"] > 0


def test_an_exception_on_one_rank_ends_the_run_as_it_would_without_us(run):
    done, ranks = run("ddp-raising")
    assert done.returncode != 0
    assert "the user's own" in done.stderr
    assert ranks == []
