import pytest

from mfu_callback.meter.advice import ADVICE, advice_for

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
