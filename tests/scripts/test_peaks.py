import sys

import pytest

from scripts.comparisons import peaks as compare_peaks
from scripts.comparisons.peak_parts.device_names import NAMES, Named
from scripts.comparisons.peaks import judged, lightnings, main, make_look_ups, names_for, ours, torchtitans


@pytest.mark.parametrize(
    ("expected", "answer", "verdict"),
    [
        (312, 312e12, "right"),
        (312, 306e12, "right"),
        (312, 305e12, "wrong"),
        (312, 624e12, "wrong"),
        (312, None, "missing"),
        (None, None, "right"),
        (None, 312e12, "wrong"),
    ],
)
def test_an_answer_is_judged(expected, answer, verdict):
    assert judged(Named("X", expected), answer) == verdict


def test_ours_is_right_on_every_name():
    assert [named.name for named in NAMES if judged(named, ours(named)) != "right"] == []


def test_the_other_look_ups_are_really_asked():
    a100, laptop = Named("NVIDIA A100-SXM4-40GB", 312), Named("NVIDIA GeForce RTX 4080 Laptop GPU", None)
    assert lightnings(a100) == torchtitans(a100) == 312e12
    assert judged(laptop, lightnings(laptop)) == "wrong"
    assert torchtitans(laptop) == 312e12


def test_each_look_up_is_counted_on_the_names_that_it_can_be_asked(capsys):
    assert main(["--names"]) == 0
    out = capsys.readouterr().out
    assert out.count(" wrong ") >= 10
    assert [name.split()[0] for name in make_look_ups()] == ["mfu-callback", "lightning", "torchtitan"]
    assert not any(named.name.startswith("TPU") for named in names_for("lightning 2.6"))
    assert len(names_for("ours")) == len(NAMES)


def test_a_tool_that_is_not_installed_is_left_out(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torchtitan.tools.utils", None)
    assert [name.split()[0] for name in compare_peaks.make_look_ups()] == ["mfu-callback", "lightning"]
    assert "torchtitan is left out" in capsys.readouterr().err
