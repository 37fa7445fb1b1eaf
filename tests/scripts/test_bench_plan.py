"""What the benchmark runs, for machines of given rates, memory and time."""

from argparse import Namespace

import pytest

from gpt import SIZES
from scripts.bench_parts.needs import flops_of_step, memory_of_step, parameters_of
from scripts.bench_parts.plan import Choice, Plan, Wish, by_speed, choose_precision, line_through, plan_of, share_of

GIB = 2**30
AVX2 = {"32-true": 142e9, "bf16-true": 2.4e9}
AMX = {"32-true": 240e9, "bf16-true": 570e9}
A100 = {"32-true": 19.5e12, "16-mixed": 312e12, "bf16-true": 312e12}
T4 = {"32-true": 8.1e12, "16-mixed": 65e12}


@pytest.mark.parametrize(
    ("rates", "precisions"),
    [
        (AVX2, ["32-true", "bf16-true"]),
        (AMX, ["bf16-true", "32-true"]),
        (A100, ["bf16-true", "16-mixed", "32-true"]),
        (T4, ["16-mixed", "32-true"]),
        ({}, []),
    ],
)
def test_the_fastest_precision_comes_first(rates, precisions):
    assert by_speed(rates) == precisions


PLAIN = Namespace(strategy="auto", devices=1, accumulate_grad_batches=1, checkpoint_activations=False)


def choose(rates, size, gib):
    return choose_precision(by_speed(rates), lambda one: memory_of_step(size, one, 8, PLAIN), gib * GIB)


@pytest.mark.parametrize(("rates", "fastest"), [(AVX2, "32-true"), (AMX, "bf16-true")])
def test_a_size_that_fits_is_trained_in_the_fastest(rates, fastest):
    for size in list(SIZES)[:3]:
        assert choose(rates, size, 24) == Choice(precision=fastest)


def test_a_size_that_does_not_fit_takes_the_next_precision_and_says_why():
    assert choose(AVX2, "gpt-xl", 22.9) == Choice(
        precision="bf16-true", reason="training needs 23.3 GiB in 32-true, 22.9 GiB are available"
    )
    assert choose(AMX, "gpt-xl", 22.9) == Choice(precision="bf16-true")


def test_a_size_that_fits_in_none_says_what_it_would_need():
    assert choose(AVX2, "gpt-xl", 8) == Choice(
        precision=None, reason="training needs 23.3 GiB in 32-true and 11.6 GiB in bf16-true, 8.0 GiB are available"
    )


def test_what_a_step_needs():
    assert [parameters_of(size) for size in SIZES] == [124_439_808, 354_823_168, 774_030_080, 1_557_611_200]
    # Counted: 3 x 2.9165e11 forward FLOPs of one sequence.
    assert flops_of_step("gpt-small", 1, 1024) == pytest.approx(3 * 2.9165e11, rel=0.01)
    # Predicted with fake tensors (mfu_callback.predict_memory) for 8 tokens: rather too little, which 5 % are for.
    assert memory_of_step("gpt-xl", "32-true", 8, PLAIN) / GIB == pytest.approx(23.57, rel=0.02)
    assert memory_of_step("gpt-xl", "bf16-true", 8, PLAIN) / GIB == pytest.approx(11.78, rel=0.02)
    # And for a sequence of 1024: rather too much.
    assert 2.55 < memory_of_step("gpt-small", "32-true", 1024, PLAIN) / GIB < 3.5


def linear(seconds_of_1024):
    return lambda batch, context: seconds_of_1024 * batch * context / 1024


@pytest.mark.parametrize(
    ("seconds_of_1024", "seconds", "shape"),
    [
        (0.1, 140, (8, 1024)),  # a fast machine: five steps of 0.8 s
        (1.0, 140, (4, 1024)),
        (5.0, 140, (1, 1024)),
        (8.0, 140, (1, 1024)),
        (22.0, 140, (1, 1024)),
        (48.0, 140, (1, 512)),
        (300.0, 140, (1, 64)),
        (3000.0, 140, (1, 8)),
    ],
)
def test_batch_and_context_are_the_largest_that_the_time_allows(seconds_of_1024, seconds, shape):
    plan = plan_of(Wish(), linear(seconds_of_1024), seconds=seconds)
    assert (plan.batch_size, plan.context_length) == shape
    assert plan.seconds <= seconds
    assert (plan.max_steps >= 5, plan.warmup_steps) == (True, 2)


@pytest.mark.parametrize(("seconds_of_1024", "steps"), [(8.0, 7), (0.01, 30), (22.0, 5)])
def test_steps_fill_a_minute_at_most(seconds_of_1024, steps):
    assert plan_of(Wish(batch_size=1), linear(seconds_of_1024), seconds=140).max_steps == steps


def test_where_time_is_very_short_two_steps_are_enough():
    plan = plan_of(Wish(), linear(1024 * 31 / 8), seconds=100)
    assert plan == Plan(batch_size=1, context_length=8, max_steps=3, warmup_steps=1, seconds=93)
    assert plan_of(Wish(), linear(1024 * 31 / 8), seconds=61) is None


def test_what_is_given_is_kept():
    wish = Wish(batch_size=2, context_length=100, max_steps=7)
    assert plan_of(wish, linear(1.0), seconds=100) == Plan(
        batch_size=2, context_length=100, max_steps=7, warmup_steps=2, seconds=pytest.approx(7 * 200 / 1024)
    )
    assert plan_of(Wish(context_length=64), linear(1.0), seconds=100).context_length == 64
    assert plan_of(Wish(batch_size=16), linear(10.0), seconds=100).batch_size == 16
    too_many = plan_of(Wish(max_steps=1000), linear(1024.0), seconds=100)
    assert (too_many.context_length, too_many.max_steps) == (8, 12)


def test_a_batch_stays_within_the_memory():
    assert plan_of(Wish(), linear(0.1), seconds=140, most_tokens=3000).batch_size == 2
    assert plan_of(Wish(), linear(0.1), seconds=140, most_tokens=700).context_length == 512
    assert plan_of(Wish(), linear(0.1), seconds=140, most_tokens=1).context_length == 8
    assert plan_of(Wish(batch_size=4, context_length=1024), linear(0.1), seconds=140, most_tokens=1).batch_size == 4


def test_what_a_size_does_not_use_is_for_those_after_it():
    assert share_of(600, 4) == 150
    assert share_of(600 - 75, 3) == 175


def test_seconds_of_a_step_follow_the_steps_that_were_timed():
    assert line_through([(10, 2.0)], 40) == 8.0
    assert line_through([(10, 2.0)], 5) == 2.0
    assert line_through([(10, 2.0), (20, 3.0)], 40) == 5.0  # a second that does not grow
    assert line_through([(1, 9.0), (10, 2.0), (20, 3.0)], 40) == 5.0
    assert line_through([(10, 3.0), (20, 2.0)], 40) == 3.0  # a moment in which the machine was slow
