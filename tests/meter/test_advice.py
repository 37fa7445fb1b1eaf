import pytest

from mfu_callback.meter.advice import ADVICE, SHORTEST_STEP_SEC, advice_for, advice_of_run

NONE = {"mfu": 1.0, "data": 0.0, "optimizer": 0.0, "other": 0.0, "kernels": 0.0, "unreachable": 0.0}


@pytest.mark.parametrize("advice", ADVICE, ids=lambda advice: advice.part)
def test_each_part_has_its_sentence_from_its_threshold_on(advice):
    sentence = advice_for(NONE | {advice.part: advice.above})
    assert sentence == f"{100 * advice.above:.0f} % {advice.fact}: {advice.remedy}."
    assert advice_for(NONE | {advice.part: advice.above - 0.001}) is None


def test_the_largest_loss_is_named():
    assert "waiting for data" in advice_for(NONE | {"data": 0.41, "kernels": 0.3, "optimizer": 0.2})
    assert "best matmuls" in advice_for(NONE | {"data": 0.29, "kernels": 0.3, "optimizer": 0.2})


def test_every_part_that_is_lost_has_a_row():
    assert {advice.part for advice in ADVICE} == set(NONE) - {"mfu"}


def test_a_steps_parts_are_no_advice_where_the_loops_own_work_is_most_of_it():
    waterfall = NONE | {"other": 0.5}
    assert advice_of_run((), waterfall, SHORTEST_STEP_SEC) == advice_for(waterfall)
    assert advice_of_run((), waterfall, 0.001) is None
    assert advice_of_run((), waterfall, None) is None


def test_hints_come_first_and_need_no_step():
    assert advice_of_run(("One.", "Two."), None, 0.001) == "One.\nTwo."
    assert advice_of_run(("One.",), NONE | {"data": 0.5}, 1.0).splitlines() == [
        "One.",
        advice_for(NONE | {"data": 0.5}),
    ]


def test_no_advice_calls_a_peak_the_datasheets():
    assert not any("datasheet" in f"{advice.fact} {advice.remedy}" for advice in ADVICE)
