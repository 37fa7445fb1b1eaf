import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch

from mfu_callback import MFUCallback
from tests.helpers import parallel_plain_run
from tests.helpers.parallel_plain_run import HIDDEN, LENGTH, PARTS, SAMPLES, STEPS, WARMUP, WIDTH
from tests.helpers.runs import train_tiny

SCRIPT = Path(parallel_plain_run.__file__)
TOKENS = SAMPLES * LENGTH


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    """What each rank ended a run with."""
    directory = tmp_path_factory.mktemp("ranks")

    @cache
    def train(processes):
        command = [sys.executable, "-W", "ignore", str(SCRIPT), str(directory), str(processes)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr

    def ends(name, processes):
        train(processes)
        return [torch.load(directory / f"{name}-{processes}-{rank}.pt") for rank in range(processes)]

    return ends


def two_layers_of(rank):
    """Forward FLOPs of a rank's layers, on all tokens of a batch."""
    return 2 * (2 * TOKENS * WIDTH * HIDDEN[rank])


def attention_of(part):
    """Forward FLOPs of four projections of some tokens of each sequence, and of their attention to all tokens."""
    return SAMPLES * (4 * 2 * part * WIDTH**2 + 2 * 2 * part * LENGTH * WIDTH)


LAYERS = {ranks: [two_layers_of(rank) for rank in range(ranks)] for ranks in (2, 4)}
ATTENTION = {ranks: [attention_of(part) for part in PARTS[ranks]] for ranks in (2, 4)}
PAIRS = 2 * LAYERS[2]


@pytest.mark.parametrize(
    ("name", "forward", "batches"),
    [
        ("tensor", LAYERS[2], 1),
        ("tensor", LAYERS[4], 1),
        ("tensor-pairs", PAIRS, 2),
        ("context", ATTENTION[2], 1),
        ("context", ATTENTION[4], 1),
        ("context-ddp", ATTENTION[2], 1),
        ("context-ddp", ATTENTION[4], 1),
        ("context-parts", ATTENTION[2], 1),
        ("context-parts-told", ATTENTION[2], 1),
        ("context-parts-ddp", ATTENTION[2], 1),
        ("context-parts-ddp", ATTENTION[4], 1),
        ("pipeline", LAYERS[2], 1),
        ("pipeline", LAYERS[4], 1),
        ("pipeline-1f1b", LAYERS[2], 1),
        ("pipeline-1f1b", LAYERS[4], 1),
        ("pipeline-measured", LAYERS[2], 1),
        ("pipeline-pairs", PAIRS, 2),
        ("pipeline-idle", [0, LAYERS[2][1]], 1),
    ],
)
def test_each_rank_counts_what_it_computes_and_a_batch_counts_once(ends, name, forward, batches):
    ranks = ends(name, len(forward))
    assert [rank["flops"] for rank in ranks] == [(flops, 2 * flops, ()) for flops in forward]
    steps, tokens, mfu, tokens_per_sec = ranks[0]["summary"]
    assert (steps, tokens) == (STEPS - WARMUP, (STEPS - WARMUP) * batches * TOKENS)
    per_token = 3 * sum(forward) / (batches * TOKENS)
    assert mfu * 1e12 * len(forward) / tokens_per_sec == pytest.approx(per_token, rel=1e-9)
    assert all((rank["summary"], rank["metrics"]) == (ranks[0]["summary"], ranks[0]["metrics"]) for rank in ranks)
    assert sum(ranks[0]["waterfall"].values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("name", "counted_as"),
    [("tensor", 1), ("context", 1), ("context-ddp", 1), ("context-parts-told", 1), ("context-parts-ddp", 2)],
)
def test_a_sample_counts_once_unless_each_rank_is_handed_a_part_of_it(ends, name, counted_as):
    metrics = ends(name, 2)[0]["metrics"]
    samples, tokens = (metrics[f"throughput/{what}_per_sec"] for what in ("samples", "tokens"))
    assert samples / tokens == pytest.approx(counted_as / LENGTH)


def test_given_flops_are_those_of_the_whole_batch(ends):
    for rank in ends("tensor-given", 2):
        _, _, mfu, tokens_per_sec = rank["summary"]
        assert mfu * 1e12 * 2 / tokens_per_sec == pytest.approx(100)


def test_the_conventions_say_that_ranks_count_their_own_part(ends):
    told = "attention full, backward 2 x"
    assert ends("tensor-pairs", 4)[3]["conventions"] == f"{told}, each of 2 ranks its own part of a batch"
    assert ends("context-parts-ddp", 2)[0]["conventions"] == told


@pytest.mark.parametrize("name", ["tensor", "pipeline"])
def test_the_weights_are_those_of_a_run_without_the_callback(ends, name):
    for measured, plain in zip(ends(name, 2), ends(f"{name}-without", 2), strict=True):
        assert plain["summary"] is None
        assert all(torch.equal(measured["weights"][key], plain["weights"][key]) for key in plain["weights"])


def test_what_a_rank_cannot_count_is_told_there(ends):
    told = [[text for text in rank["warnings"] if "No FLOP rule" in text] for rank in ends("pipeline-unknown", 2)]
    assert told[0] == []
    assert [text.split(", so")[0] for text in told[1]] == ["On rank 1: No FLOP rule covers parallel_plain::unknown"]


def test_a_pipeline_that_tries_its_stages_in_every_step_has_no_mfu(ends):
    for rank in ends("pipeline-anew", 2):
        _, _, mfu, tokens_per_sec = rank["summary"]
        assert mfu is None
        assert tokens_per_sec > 0
        assert sum(
            "The pipeline tries its stages with a micro-batch in every step" in text for text in rank["warnings"]
        )


def test_a_number_of_ranks_that_does_not_divide_the_run_is_said_and_not_used():
    callback = MFUCallback(peak=1e12, warmup_steps=1, ranks_per_batch=3)
    with pytest.warns(
        UserWarning, match="ranks_per_batch=3 does not divide the number of ranks, 1, so it is taken as 1"
    ):
        train_tiny(callback)
    assert callback.summary.tokens == callback.summary.steps * TOKENS


def test_a_number_of_ranks_below_one_is_refused():
    with pytest.raises(ValueError, match=r"ranks_per_batch=0 must be .*a whole one of at least 1"):
        MFUCallback(ranks_per_batch=0)
