"""The words and colors of the parts, which the terminal, the comparison, the tab and the page share."""

from __future__ import annotations

import re

import pytest

from mfu_callback.meter import remedies
from mfu_callback.meter.facts import Facts
from mfu_callback.meter.tags import WATERFALL_PARTS
from mfu_callback.report.parts import KERNELS, PARTS, PHASES, as_plain_data, shown_parts


def test_every_part_has_its_row_in_the_order_in_which_it_is_stacked() -> None:
    assert tuple(part.name for part in PARTS) == WATERFALL_PARTS


def test_every_loss_has_its_remedy_and_every_part_its_meaning() -> None:
    assert [part.name for part in (*PARTS, *KERNELS) if part.remedy is None] == ["mfu"]
    assert all(part.meaning and part.label for part in (*PARTS, *KERNELS))


def test_the_remedies_are_those_of_the_advice() -> None:
    said = {part.name: part.remedy for part in (*PARTS, *KERNELS)}
    assert said["data"] == remedies.for_data(Facts())
    assert said["waiting"] == remedies.EVEN_BATCHES
    assert said["gaps"] == remedies.for_gaps(Facts())


@pytest.mark.parametrize("parts", [PARTS, PHASES])
def test_each_has_a_color_of_its_own(parts: tuple[object, ...]) -> None:
    colors = [part.color for part in parts]  # type: ignore[attr-defined]
    assert len(set(colors)) == len(parts)
    assert all(re.fullmatch("#[0-9a-f]{6}", color) for color in colors)


def test_a_part_of_a_devices_step_has_the_color_that_it_has_in_the_waterfall() -> None:
    colors = {part.name: part.color for part in PARTS}
    assert {part.name: part.color for part in PHASES if part.name in colors} == {
        name: colors[name] for name in ("data", "optimizer", "other")
    }


def test_the_parts_of_several_devices_are_shown_if_there_is_something_in_them() -> None:
    old = dict.fromkeys(("mfu", "data", "optimizer", "other", "kernels", "unreachable"), 1 / 6)
    of_one = old | {"communication": 0.0, "waiting": 0.0}
    several = of_one | {"communication": 0.1}
    six = ("mfu", "unreachable", "kernels", "data", "optimizer", "other")
    assert shown_parts(old) == shown_parts(of_one) == six
    assert shown_parts(old, several) == ("mfu", "unreachable", "kernels", "communication", "data", "optimizer", "other")
    assert shown_parts({"no part of ours": 1.0}) == ()


def test_as_plain_data_they_have_all_that_the_page_draws() -> None:
    rows = as_plain_data()
    assert {name: len(parts) for name, parts in rows.items()} == {"waterfall": 8, "kernels": 5, "phases": 6}
    assert rows["waterfall"][5] == {
        **{"name": "data", "label": "waiting for data", "color": "#d55e00", "meaning": "waiting for data"},
        **{"remedy": "more workers (num_workers), or pin_memory"},
    }
