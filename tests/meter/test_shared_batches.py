import pytest
import torch
from torch.distributed.pipelining import PipelineStage

from mfu_callback.flops import FlopCount
from mfu_callback.meter.clock import StepClock, timer_for
from mfu_callback.meter.conventions import Conventions
from mfu_callback.meter.meter import RunMeter
from mfu_callback.meter.pipelines import PipelineTrial
from mfu_callback.meter.totals import Totals

TOTALS = Totals(
    steps=2,
    samples=8,
    tokens=64,
    real_tokens=32,
    loss_tokens=16,
    flops=120,
    recomputed_flops=12,
    flops_of_dtypes={"x": 120},
)
NOTHING = FlopCount(forward=0, thop=0, functional=0, backward=0, recomputed=0)


def make_meter(**arguments):
    cpu = torch.device("cpu")
    return RunMeter(clock=StepClock(timer_for(cpu)), device=cpu, warmup_steps=0, **arguments)


def step(meter):
    """A step on a batch of 4 x 8 tokens, which is counted if it must be."""
    meter.begin_step()
    meter.look_at(torch.zeros(4, 8, dtype=torch.long))
    meter.add_forward()
    meter.end_step()
    return meter.take_window()


def test_tokens_and_samples_are_shared_and_flops_only_among_those_that_count_them_together():
    own = TOTALS.shared_by(4, flops_by=1)
    assert (own.samples, own.tokens, own.real_tokens, own.loss_tokens) == (2, 16, 8, 4)
    assert (own.flops, own.recomputed_flops, own.flops_of_dtypes) == (120, 12, {"x": 120})
    both = TOTALS.shared_by(4, flops_by=2)
    assert (both.tokens, both.flops, both.recomputed_flops, both.flops_of_dtypes) == (16, 60, 6, {"x": 60})
    assert (own.steps, TOTALS.shared_by(1, flops_by=1)) == (2, TOTALS)
    assert TOTALS.shared_by(4).flops == 30


@pytest.mark.parametrize(
    ("conventions", "ranks_per_flops", "own_part"),
    [
        (Conventions(), 1, False),
        (Conventions(ranks_per_batch=4), 1, True),
        (Conventions(ranks_per_batch=4, tensor_parallel=2), 2, True),
        (Conventions(ranks_per_batch=4, tensor_parallel=4), 4, False),
        (Conventions(ranks_per_batch=4, flops=600.0), 4, False),
    ],
)
def test_counted_flops_are_a_ranks_own_and_given_ones_the_batchs(conventions, ranks_per_flops, own_part):
    assert (conventions.ranks_per_flops, conventions.counts_own_part) == (ranks_per_flops, own_part)
    assert ("each of 4 ranks its own part of a batch" in str(conventions)) is own_part


def test_a_meter_gives_this_ranks_part_of_a_batch():
    meter = make_meter(flops=600.0)
    meter.share_batches(4)
    totals = step(meter)
    assert (totals.samples, totals.tokens, totals.flops) == (1, 8, 600 * 8)


def test_a_rank_that_computes_nothing_twice_has_no_flops_and_one_without_others_has_unknown_ones():
    for ranks, flops in ((2, 0.0), (1, None)):
        meter = make_meter()
        meter.share_batches(ranks)
        step(meter)
        assert meter.flops.take(NOTHING)
        assert meter.flops.needs_count
        meter.flops.take(NOTHING)
        found = step(meter).flops
        assert (found if found == found else None) == flops


NAMES = ("_forward_metadata_inference", "_shape_inference")
TRIAL = next((name for name in NAMES if hasattr(PipelineStage, name)), None)


@pytest.mark.skipif(TRIAL is None, reason="stages of torch 2.6 or later run a trial")
def test_a_trial_of_a_pipeline_is_noticed_and_nothing_is_left_on_its_class():
    before = getattr(PipelineStage, TRIAL)
    with PipelineTrial() as trial:
        assert not trial.was_seen
        with pytest.raises((AttributeError, AssertionError)):  # of something that is no stage
            getattr(PipelineStage, TRIAL)(None, None)
    assert trial.was_seen
    assert getattr(PipelineStage, TRIAL) is before
