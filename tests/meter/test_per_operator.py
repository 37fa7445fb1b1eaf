"""Operators beside what they compute, from made-up times."""

import pytest

from mfu_callback.flops.operator_calls import Calls
from mfu_callback.meter.operator_times import Operator, Times, Took
from mfu_callback.meter.per_operator import kernels_split, operator_figures

MM, ADD, COPY = (("aten::mm", ((4, 4), (4, 4))), ("aten::add", ((4,),)), ("aten::_to_copy", ((4,),)))
KNOWN = {
    MM: Calls("matmul", "float32", (4, 4, 4), calls=2, flops=20.0, bytes=100.0),
    ADD: Calls("memory", "float32", None, calls=1, flops=0.0, bytes=40.0),
    COPY: Calls("transfer", "float32", None, calls=1, flops=0.0, bytes=8.0),
}
# Two batches: 6 s in the matmul, 2 s in the sum, 1 s in a copy, 1 s in an operator that was not counted, 4 s in none.
TIMES = Times(
    2,
    {
        Operator(*MM, "forward"): Took(4, 6.0),
        Operator(*ADD, "backward"): Took(2, 2.0),
        Operator(*COPY, "backward"): Took(2, 1.0),
        Operator("lib::kernel", (), "backward"): Took(2, 1.0),
        Operator(*ADD, "optimizer"): Took(2, 2.0),
    },
    {"forward": 8.0, "backward": 6.0},
)


def best_sec(one):
    return {"matmul": 0.75, "memory": 0.5}.get(one.kind)


def test_figures_are_of_one_batch():
    figures = {(one.name, one.phase): one for one in operator_figures(TIMES, KNOWN, best_sec)}
    mm = figures["aten::mm", "forward"]
    assert (mm.calls, mm.sec, mm.share, mm.flops, mm.bytes, mm.roofline) == (2, 3.0, 6 / 16, 20.0, 100.0, 0.5)
    unknown = figures["lib::kernel", "backward"]
    assert (unknown.kind, unknown.flops, unknown.bytes, unknown.roofline) == ("other", None, None, None)
    assert figures["aten::add", "optimizer"].phase == "optimizer"


def test_the_operators_of_a_phase_and_the_time_in_which_none_ran_sum_to_it():
    figures = operator_figures(TIMES, KNOWN, best_sec)
    gaps = {one.phase: (one.sec, one.kind, one.calls) for one in figures if one.name == "no operator"}
    assert gaps == {"forward": (1.0, "gap", 0), "backward": (1.0, "gap", 0)}
    for phase in ("forward", "backward"):
        assert sum(one.sec for one in figures if one.phase == phase) == TIMES.phases_sec[phase] / TIMES.steps
    assert sum(one.share for one in figures) == pytest.approx(1)


def test_operators_that_run_beside_each_other_leave_no_gap():
    figures = operator_figures(TIMES._replace(phases_sec={"forward": 5.0}), KNOWN, best_sec)
    assert "no operator" not in {one.name for one in figures}
    assert sum(one.share for one in figures) == pytest.approx(1)


def test_no_matmul_is_faster_than_the_best_one_and_a_cache_is_faster_than_memory():
    figures = operator_figures(TIMES, KNOWN, lambda one: 9.0)
    roofs = {one.name: one.roofline for one in figures}
    assert (roofs["aten::mm"], roofs["aten::add"]) == (1.0, 9.0)


def test_the_kernels_are_split_by_what_is_lost_in_each():
    split = kernels_split(TIMES, KNOWN, 0.5, achievable_sec=lambda one: 0.5)
    # Lost: 6 - 4 x 0.5 s in matmuls, 2 s in memory, 1 s in transfers, 14 - 9 s in none that is known.
    assert split == pytest.approx(
        {"matmuls": 4 / 24, "attention": 0, "memory": 2 / 24, "transfers": 1 / 24, "gaps": 5 / 24}
    )


def test_nothing_is_negative_and_nothing_known_is_none():
    split = kernels_split(TIMES, KNOWN, 0.5, achievable_sec=lambda one: 100.0)
    assert split["matmuls"] == 0
    assert sum(split.values()) == pytest.approx(0.5)
    assert kernels_split(TIMES, {}, 0.5, achievable_sec=lambda one: 0.0) is None


def test_what_was_not_recorded_is_sorted_by_its_name():
    """A kernel of a compiler and a sum move memory, a view takes the host's time, a matmul's loss is not known."""
    more = {"triton_poi_fused_gelu_0": 3.0, "aten::mul_": 2.0, "aten::t": 0.5, "aten::bmm": 0.25}
    operators = TIMES.operators | {Operator(name, ((9, 9),), "forward"): Took(2, sec) for name, sec in more.items()}
    times = TIMES._replace(operators=operators, phases_sec={"forward": 13.75, "backward": 6.0})
    split = kernels_split(times, KNOWN, 0.5, achievable_sec=lambda one: 0.5)
    # As above, with 5 s more in memory; the view and what is not known are gaps, the batched matmul is neither.
    lost = {"matmuls": 4, "attention": 0, "memory": 7, "transfers": 1, "gaps": 5.5}
    assert split == pytest.approx({kind: 0.5 * seconds / 17.5 for kind, seconds in lost.items()})


def test_the_roofline_is_of_the_calls_of_which_it_is_known():
    operators = TIMES.operators | {Operator("aten::mm", ((9, 9), (9, 9)), "forward"): Took(2, 30.0)}
    figures = operator_figures(TIMES._replace(operators=operators), KNOWN, best_sec)
    mm = next(one for one in figures if one.name == "aten::mm")
    assert (mm.sec, mm.flops, mm.roofline) == (18.0, None, 0.5)


def test_an_operator_without_time_is_not_shown():
    """On a GPU, views start no kernel."""
    operators = TIMES.operators | {Operator("aten::t", ((4, 4),), "forward"): Took(2, 0.0)}
    figures = operator_figures(TIMES._replace(operators=operators), KNOWN, best_sec)
    assert "aten::t" not in {one.name for one in figures}
