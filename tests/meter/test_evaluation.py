import json
import math
from dataclasses import replace

import pytest
import torch

from mfu_callback import FlopCount, Peak
from mfu_callback.meter.clock import HostTimer, Phase, StepClock
from mfu_callback.meter.conventions import Conventions
from mfu_callback.meter.evaluation import Evaluation, evaluation_values
from mfu_callback.meter.meter import RunMeter
from mfu_callback.meter.metrics import Window
from mfu_callback.meter.tags import EVALUATION_TAGS
from mfu_callback.meter.totals import Totals
from tests.helpers.runs import FakeNow

PEAK = Peak(flops_per_sec=1e6, name="test", dtype=torch.float32, source="given")
COUNT = FlopCount(forward=32_000, thop=30_000, functional=2_000)
TOKENS = torch.zeros(4, 8, dtype=torch.long)
RANK = Totals(
    steps=4,
    samples=16,
    tokens=128,
    real_tokens=math.nan,
    loss_tokens=math.nan,
    flops=1e6,
    data_sec=0.5,
    forward_sec=1.25,
    other_sec=0.25,
    peak_flops_per_sec=1e6,
    achievable_flops_per_sec=1.6e6,
    peak_memory_bytes=2**30,
    resident_bytes=2**30,
)


def test_the_values_are_those_of_a_forward_pass_under_the_stage():
    values = evaluation_values("test", Window(ranks=(RANK,)))
    unknown = {
        "throughput/real_tokens_per_sec",
        "throughput/loss_tokens_per_sec",
        "time/step_sec_min",
        "time/step_sec_max",
    }
    assert set(values) == {f"test/{tag.name}" for tag in EVALUATION_TAGS if tag.name not in unknown}
    assert values["test/throughput/mfu"] == 0.5
    assert values["test/throughput/tokens_per_sec"] == 64.0
    assert values["test/time/step_sec"] == 0.5
    assert values["test/waterfall/data"] == 0.25
    left_out = {"waterfall/optimizer", "waterfall/communication", "waterfall/waiting", "throughput/hfu"}
    assert not {f"test/{name}" for name in left_out} & set(values)


def test_devices_with_unequal_batches_are_summed():
    other = replace(RANK, steps=3, samples=6, tokens=48, flops=3e5)
    values = evaluation_values("predict", Window(ranks=(RANK, other)))
    assert values["predict/throughput/tokens_per_sec"] == (128 + 48) / 2.0
    assert values["predict/throughput/mfu"] == pytest.approx(1.3e6 / 4e6)
    assert values["predict/time/step_sec"] == pytest.approx(4.0 / 7)
    assert (values["predict/time/step_sec_min"], values["predict/time/step_sec_max"]) == (0.5, pytest.approx(2 / 3))


def test_a_device_without_a_measured_batch_leaves_everything_out():
    window = Window(ranks=(RANK, Totals()))
    assert evaluation_values("test", window) == {}
    assert Evaluation.of("test", window, [0.5], peak=PEAK) == Evaluation(stage="test", steps=0, peak=PEAK)


def test_the_figures_are_plain_data():
    figures = Evaluation.of("test", Window(ranks=(RANK,)), [0.25, 0.5, 1.0, 0.25], peak=PEAK, flops=COUNT)
    assert (figures.steps, figures.tokens, figures.step_time_sec) == (4, 128, 0.375)
    assert figures.phases_sec == {"data": 0.125, "forward": 0.3125, "other": 0.0625}
    plain = json.loads(json.dumps(figures.as_dict()))
    assert (plain["peak"]["dtype"], plain["flops"]["forward"], plain["mfu"]) == ("float32", 32_000, 0.5)
    assert sum(plain["waterfall"].values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("flops", "factor", "of_forward"),
    [(6000, 2.0, 2000.0), (6000, 0.0, 6000.0), (lambda batch: 6000, 3.0, 1500.0), (lambda batch: None, 2.0, None)],
)
def test_given_flops_are_divided_by_the_passes(flops, factor, of_forward):
    given = Conventions(flops=flops, backward_factor=factor, forward_only=True).given_flops
    assert (given(None) if callable(given) else given) == of_forward
    assert Conventions(flops=flops, backward_factor=factor).given_flops is flops


def test_nothing_is_guessed_where_the_backward_is_measured():
    assert math.isnan(Conventions(flops=6000, backward_factor="measured", forward_only=True).given_flops)


@pytest.mark.parametrize("factor", [2.0, "measured"])
def test_a_count_stands_for_the_passes_that_ran(factor):
    conventions = Conventions(backward_factor=factor, forward_only=True)
    assert conventions.training_flops(COUNT).model == 32_000
    assert conventions.training_flops(replace(COUNT, backward=16_000)).model == 48_000
    assert conventions.factor_error(replace(COUNT, backward=16_000)) is None


@pytest.mark.parametrize("sync", ["step", "events", "window"])
def test_the_last_window_has_all_steps_and_the_next_one_begins_anew(sync):
    now = FakeNow()
    meter = RunMeter(
        clock=StepClock(HostTimer(now)),
        device=torch.device("cpu"),
        flops=1000.0,
        peak=PEAK,
        sync=sync,
        warmup_steps=1,
        forward_only=True,
    )
    taken = []
    for batches in (3, 2):
        meter.clock.start()
        for _ in range(batches):
            meter.begin_step()
            meter.look_at(TOKENS)
            meter.clock.enter(Phase.FORWARD)
            now.seconds += 2.0
            meter.add_forward()
            meter.end_step()
        now.seconds += 50.0
        taken.append(meter.take_last_window())
    assert [(one.steps, one.tokens, one.seconds) for one in taken] == [(2, 64, 4.0), (2, 64, 4.0)]
    assert taken[0].flops == pytest.approx(2 * 32 * 1000 / 3)
