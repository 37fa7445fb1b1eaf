"""What the tab shows of the selected run alone: its parts, its devices, its operators, its memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from scripts.pictures import browser
from scripts.pictures.browser import Browser, chromium, tensorboard, wait_for_runs
from tests.helpers.records import record_of_several, write_record
from tests.helpers.tab_runs import is_drawn, operators, our_errors, sorted_by, traces

pytestmark = pytest.mark.skipif(not browser.IS_INSTALLED, reason="needs chromium and chromium-driver")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """TensorBoard on a run on several devices whose operators were measured: its address."""
    logdir = tmp_path_factory.mktemp("details") / "logs"
    write_record(logdir / "several", record_of_several(operators=12))
    with tensorboard(logdir) as address:
        wait_for_runs(address, 1)
        yield address


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    """One browser for all tests of this file."""
    with chromium() as opened:
        yield opened


@pytest.fixture
def several(window: Browser, served: str) -> Browser:
    """The tab, opened anew, with that run selected."""
    window.errors()
    window.open_tab(served)
    window.until(lambda: is_drawn(window, "devices"))
    return window


def test_the_parts_of_several_devices_and_what_the_kernels_consist_of(several: Browser) -> None:
    assert traces(several, "waterfall")[3:5] == ["communication", "waiting for each other"]
    colors = several.run("return document.querySelector('#waterfall .plot').data.map((t) => t.line.color)")
    assert len(set(colors)) == 8
    several.until(lambda: is_drawn(several, "kernels"))
    assert several.run("return document.querySelector('#kernels .plot').data[0].x") == [0.05, 0.02, 0.08, 0.01, 0.04]
    assert several.texts("#kernels p")[0].startswith("Of the machine: matmuls 5.0 %, attention 2.0 %, ")
    assert our_errors(several) == []


def test_a_bar_for_each_device_and_the_slow_one_is_marked(several: Browser) -> None:
    assert traces(several, "devices") == [
        *("waiting for data", "forward", "backward", "optimizer", "other", "waiting in collectives")
    ]
    bars = several.run("return document.querySelector('#devices .plot').data.map((t) => t.x)")
    assert bars[0] == [0.01, 0.05, 0.01, 0.01]
    assert [sum(of_device) for of_device in zip(*bars, strict=True)] == pytest.approx([0.1] * 4)
    labels = several.run("return [...document.querySelectorAll('#devices .ytick text')].map((t) => t.textContent)")
    assert labels == ["rank 0 on node", "rank 1 on node (sets the pace)", "rank 2 on node", "rank 3 on node"]
    assert several.texts("#pace") == [
        "Rank 1 on node sets the pace: the others wait 40 ms a step for it. It takes longer in data, in all steps:"
        " it is slow all the time."
    ]
    text = several.texts("#devices-text")[0]
    assert text.startswith(
        "Seconds of a step by device: rank 0 on node 100 ms, 40 ms of it waiting; rank 1 on node (sets"
    )


def test_each_part_has_its_share_its_seconds_and_what_to_do(several: Browser) -> None:
    rows = several.run(
        "return [...document.querySelectorAll('.parts tbody tr')].map((r) => [...r.children].map((c) => c.textContent))"
    )
    texts = {name.strip(): cells for name, *cells in rows}
    assert texts["waiting for data"] == [
        "30.0 %",
        "30 ms",
        "waiting for data",
        "more workers (num_workers), or pin_memory",
    ]
    assert texts["gaps"][:2] == ["4.0 %", "4 ms"]
    assert texts["MFU"][-1] == texts["kernels below the best matmul"][-1] == "\N{EN DASH}"
    assert len(rows) == 8 + 5


def test_the_operators_sort_by_every_column_also_by_the_keyboard(several: Browser) -> None:
    assert operators(several) == [f"aten::op{number}" for number in range(12)]  # those that take longest first
    assert several.texts(".operators tbody tr:first-child td")[1:] == [
        *("matmul", "forward", "2", "100 ms", "10.0 %", "1.000e+9", "1.000e+6", "50.0 %")
    ]
    marked = '.operators th:is([aria-sort="ascending"], [aria-sort="descending"])'
    for index, head in enumerate(several.texts(".operators th button")):
        several.click(f'[data-focus="operators {index}"]')
        several.until(lambda head=head: several.texts(f"{marked} button") == [head])
    several.run("document.querySelector('[data-focus=\"operators 0\"]').focus()")
    ActionChains(several.driver).send_keys(Keys.ENTER).perform()
    several.until(lambda: several.texts(f"{marked} button") == ["operator"])
    assert operators(several) == [f"aten::op{number}" for number in range(12)]  # as numbers: op2 before op10
    assert several.run("return document.activeElement.dataset.focus") == "operators 0"
    ActionChains(several.driver).send_keys(Keys.ENTER).perform()
    several.until(lambda: operators(several) == [f"aten::op{number}" for number in reversed(range(12))])
    several.click('[data-focus="operators 6"]')  # those without FLOPs come last, also in the other direction
    several.until(lambda: operators(several)[:4] == ["aten::op0", "aten::op3", "aten::op6", "aten::op9"])
    assert sorted_by(several) == ["MFU"]  # the table of runs is as it was


def test_what_is_known_of_the_memory_is_said(several: Browser) -> None:
    assert several.texts("#facts-section dd") == ["1 GiB resident of 16 GiB (6%)"]
