"""What people see: TensorBoard's tabs and the report's page in a real browser, on the logs of real training runs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from torch.utils.tensorboard import SummaryWriter

from scripts.pictures import browser
from scripts.pictures.browser import Browser, chromium, tensorboard, wait_for_runs
from tests.helpers.event_files import damage, event_files, layouts
from tests.helpers.records import HOSTILE, record_of_several, write_hostile_record, write_record
from tests.helpers.runs import TINY_FLOPS
from tests.helpers.tab_runs import (
    CHARTS,
    CHARTS_OF_ONE_DEVICE,
    click_run,
    custom_scalars,
    is_drawn,
    names,
    operators,
    our_errors,
    reload,
    sorted_by,
    tokens,
    traces,
    train,
    train_found,
)

pytestmark = pytest.mark.skipif(not browser.IS_INSTALLED, reason="needs chromium and chromium-driver")


@pytest.fixture(scope="module")
def logdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs under a plain and a hostile name, one found, one of several devices; one of another tool, a damaged file."""
    directory = tmp_path_factory.mktemp("tab") / "logs"
    train(directory, "plain")
    train(directory, "precise", precision="bf16-true")
    train_found(directory, "found")
    shutil.copytree(directory / "plain", directory / HOSTILE)
    write_hostile_record(directory / "texts")
    write_record(directory / "several", record_of_several(operators=12) | {"mfu": None})  # not selected at first
    with SummaryWriter(str(directory / "foreign")) as writer:
        writer.add_scalar("loss", 1.0, 1)
    shutil.copytree(directory / "plain", directory / "damaged")
    damage(event_files(directory / "damaged")[0], -1)
    return directory


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    """One browser for all tests of this file."""
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def served(logdir: Path) -> Iterator[str]:
    """TensorBoard on the runs: its address."""
    with tensorboard(logdir, "--reload_interval", "1") as address:
        wait_for_runs(address, 8)
        yield address


@pytest.fixture
def tab(window: Browser, served: str) -> Browser:
    """The tab, opened anew."""
    window.errors()
    window.open_tab(served)
    window.until(lambda: names(window))
    return window


def test_every_chart_is_drawn(tab: Browser) -> None:
    click_run(tab, "select", "found")
    tab.until(lambda: tab.texts("#finder p") != [""])
    for chart in CHARTS_OF_ONE_DEVICE:
        tab.until(lambda chart=chart: is_drawn(tab, chart))
    assert traces(tab, "waterfall") == [
        "MFU",
        "unreachable",
        "kernels below the best matmul",
        "waiting for data",
        "optimizer",
        "other",
    ]
    assert not any(shown for chart in ("devices", "kernels") for shown in (tab.all(f"#{chart}")[0].is_displayed(),))
    assert not tab.all("#operators-section")[0].is_displayed()
    assert traces(tab, "finder") == ["tokens/s", "MFU", "peak memory, GiB"]
    assert len(traces(tab, "mfu")) == 5
    assert our_errors(tab) == []


def test_nothing_is_fetched_from_elsewhere(tab: Browser, served: str) -> None:
    loaded = tab.run("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert len(loaded) >= 10
    assert [address for address in loaded if not address.startswith(f"{served}/data/plugin/mfu/")] == []
    buttons = tab.run("return [...document.querySelectorAll('.modebar-btn')].map((b) => b.dataset.title)")
    assert not {button for button in buttons if "hare" in button or "loud" in button}


def test_the_table_sorts_by_every_column_and_says_so(tab: Browser) -> None:
    heads = tab.texts(".runs th button")
    assert heads[:3] == ["run", "MFU", "tokens/s"]
    for index, head in enumerate(heads):
        tab.click(f'[data-focus="sort {index}"]')
        tab.until(lambda head=head: sorted_by(tab) == [head])
    tab.click('[data-focus="sort 0"]')
    tab.until(lambda: names(tab) == sorted(names(tab), key=str.lower))
    before = names(tab)
    tab.click('[data-focus="sort 0"]')
    tab.until(lambda: names(tab) == before[::-1])
    tab.click('[data-focus="sort 2"]')
    tab.until(lambda: (rates := tokens(tab)) == sorted(rates, reverse=True))


def test_another_run_is_looked_into(tab: Browser) -> None:
    click_run(tab, "select", "precise")
    tab.until(lambda: tab.texts("main > h2") == ["Selected run: precise"])
    assert tab.texts('tr[aria-selected="true"] td.name') == ["precise"]
    shares = tab.run("return document.querySelector('#last .plot').data[0].x")
    assert sum(shares) == pytest.approx(1, abs=1e-6)
    assert not tab.all("#finder")[0].is_displayed()


def test_a_run_is_left_out_of_the_charts(tab: Browser) -> None:
    assert "precise" in traces(tab, "mfu")
    click_run(tab, "show", "precise")
    tab.until(lambda: "precise" not in traces(tab, "mfu"))
    assert len(names(tab)) == 7
    click_run(tab, "show", "precise")
    tab.until(lambda: "precise" in traces(tab, "mfu"))


def test_the_axis_and_the_smoothing(tab: Browser) -> None:
    points = "return document.querySelector('#mfu .plot').data.find((t) => t.name === 'precise')"
    before = tab.run(points)
    assert before["x"] == list(range(1, 20))
    tab.run("const s = document.querySelector('#axis'); s.value = 'time'; s.dispatchEvent(new Event('change'))")
    tab.until(lambda: tab.run(points)["x"][0] == 0)
    assert tab.run(points)["x"][-1] < 5
    tab.run("const s = document.querySelector('#smoothing'); s.value = 0.9; s.dispatchEvent(new Event('input'))")
    tab.until(lambda: tab.run(points)["y"] != before["y"])
    after = tab.run(points)["y"]
    assert after[0] == pytest.approx(before["y"][0])
    assert max(after) - min(after) < max(before["y"]) - min(before["y"])


@pytest.mark.parametrize(
    ("axis", "title", "of_step"),
    [
        ("total/tokens", "tokens since the job began", 32),
        ("total/samples", "samples since the job began", 4),
        ("total/flops", "model FLOPs since the job began", 3 * TINY_FLOPS),
    ],
)
def test_sums_since_the_job_began_are_axes(tab: Browser, axis: str, title: str, of_step: float) -> None:
    chosen = "const s = document.querySelector('#axis'); s.value = arguments[0]; s.dispatchEvent(new Event('change'))"
    tab.run(chosen, axis)
    charts = "['mfu', 'tokens', 'waterfall'].map((id) => document.querySelector(`#${id} .plot`))"
    titles = f"return {charts}.map((chart) => chart.layout.xaxis.title.text)"
    tab.until(lambda: tab.run(titles) == [title] * 3)
    points = "return document.querySelector('#mfu .plot').data.find((t) => t.name === 'precise')"
    assert tab.run(points)["x"] == pytest.approx([of_step * step for step in range(2, 21)], rel=1e-6)
    assert our_errors(tab) == []


def test_the_keyboard_is_enough(tab: Browser) -> None:
    tab.run("document.querySelector('#axis').focus()")
    for _ in range(4):  # the smoothing, the table, and the heads of its first columns
        ActionChains(tab.driver).send_keys(Keys.TAB).perform()
    focus = "return document.activeElement.dataset.focus"
    assert tab.run(focus) == "sort 1"
    ActionChains(tab.driver).send_keys(Keys.ENTER).perform()
    tab.until(lambda: tab.run("return document.querySelectorAll('th')[3].ariaSort") == "ascending")
    assert tab.run(focus) == "sort 1"  # the table was made anew; the focus stays


def test_a_screen_reader_is_told_what_the_charts_show(tab: Browser) -> None:
    texts = dict(zip(CHARTS, tab.texts("figure p.muted"), strict=True))
    assert texts["mfu"].startswith("MFU of 5 runs, the last values: ")
    assert texts["last"].startswith("At step 7: MFU ")
    for chart in ("mfu", "waterfall"):
        plot = tab.all(f"#{chart} .plot")[0]
        assert plot.get_attribute("role") == "img"
        described = plot.get_attribute("aria-describedby")
        assert tab.texts(f"#{described}") == [texts[chart]]
    labelled = "return [...document.querySelectorAll('input, select')].map((i) => i.ariaLabel || i.labels[0])"
    assert all(tab.run(labelled))
    assert tab.run("return document.documentElement.lang") == "en"


def test_the_theme_is_tensorboards(tab: Browser) -> None:
    def background() -> str:
        return tab.run("return getComputedStyle(document.body).backgroundColor")

    assert background() == "rgb(255, 255, 255)"
    tab.run("window.parent.document.body.classList.add('dark-mode')")
    tab.until(lambda: background() == "rgb(48, 48, 48)")
    tab.until(lambda: tab.run("return document.querySelector('#mfu .plot').layout.font.color") == "#f1f3f4")
    tab.run("window.parent.document.body.classList.remove('dark-mode')")
    tab.until(lambda: background() == "rgb(255, 255, 255)")


def test_hostile_names_are_text(tab: Browser) -> None:
    assert HOSTILE in names(tab)
    click_run(tab, "select", HOSTILE)
    tab.until(lambda: tab.texts("main > h2") == [f"Selected run: {HOSTILE}"])
    tab.until(lambda: is_drawn(tab, "waterfall"))
    legend = tab.run("return [...document.querySelectorAll('#mfu .legendtext')].map((t) => t.textContent)")
    assert HOSTILE in legend
    assert tab.all("main img") == []
    assert tab.run("return window.top.hit") is None


def test_hostile_texts_are_text(tab: Browser) -> None:
    click_run(tab, "select", "texts")
    tab.until(lambda: tab.texts("#advice") == [HOSTILE])
    tab.until(lambda: is_drawn(tab, "modules"))
    labels = tab.run("return [...document.querySelectorAll('#modules .ytick text')].map((t) => t.textContent)")
    assert sorted(labels) == [f"{HOSTILE}.a x 2", f"{HOSTILE}.b x 2"]
    legend = tab.run("return [...document.querySelectorAll('#roofline .legendtext')].map((t) => t.textContent)")
    assert f"{HOSTILE}, {HOSTILE}: peak" in legend
    assert HOSTILE in tab.texts("tbody td")
    assert tab.all("main img") == []
    assert tab.run("return window.top.hit") is None
    assert our_errors(tab) == []
    assert tab.texts(".operators tbody td")[:3] == [HOSTILE] * 3
    labels = tab.run("return [...document.querySelectorAll('#devices .ytick text')].map((t) => t.textContent)")
    assert labels[0] == f"rank 0 on {HOSTILE}"[:39] + "\N{HORIZONTAL ELLIPSIS}"
    assert HOSTILE in tab.texts("#pace")[0]


def test_a_damaged_file_is_named_and_the_rest_is_shown(tab: Browser) -> None:
    tab.until(lambda: reload(tab) and tab.texts("[aria-label=Problems] li"))
    (problem,) = tab.texts("[aria-label=Problems] li")
    assert problem.startswith("damaged/events.out.tfevents.")
    assert "is damaged at byte" in problem
    assert {"plain", "damaged"} <= set(names(tab))


def test_a_new_run_appears_when_tensorboard_reloads(tab: Browser, logdir: Path) -> None:
    try:
        shutil.copytree(logdir / "plain", logdir / "new")
        tab.until(lambda: reload(tab) and "new" in names(tab))
    finally:
        shutil.rmtree(logdir / "new")


def test_the_custom_scalars_tab_draws_every_chart(window: Browser, served: str, logdir: Path) -> None:
    window.open(f"{served}/#custom_scalars")
    (layout,) = layouts(logdir / "plain")
    titles = [chart.title for category in layout.category for chart in category.chart]
    assert len(titles) >= 7
    window.until(lambda: set(titles) <= set(custom_scalars(window)))
    window.until(lambda: all(custom_scalars(window)[title] >= 1 for title in titles))


def test_where_no_run_has_logged_mfu_the_tab_says_what_to_do(window: Browser, tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path / "logs" / "foreign")) as writer:
        writer.add_scalar("loss", 1.0, 1)
    with tensorboard(tmp_path / "logs") as address:
        wait_for_runs(address, 1)
        window.open(f"{address}/data/plugin_entry.html?name=mfu")
        window.until(window.is_ready)
        assert window.texts("#empty") == [
            "No run here has logged MFU: add MFUCallback() to the callbacks of your Trainer."
        ]
        assert window.all("#empty")[0].is_displayed()
        assert not window.all("main")[0].is_displayed()


@pytest.fixture
def blocking(window: Browser) -> Iterator[Any]:
    """Keeps the browser from fetching what fits a pattern."""
    window.driver.execute_cdp_cmd("Network.enable", {})
    yield lambda pattern: window.driver.execute_cdp_cmd("Network.setBlockedURLs", {"urls": [pattern]})
    window.driver.execute_cdp_cmd("Network.setBlockedURLs", {"urls": []})


def test_without_plotly_the_table_is_there_and_the_remedy(window: Browser, served: str, blocking: Any) -> None:
    blocking("*plotly.js*")
    window.open_tab(served)
    assert len(names(window)) == 7
    (status,) = window.texts("[role=status]")
    assert "pip install plotly" in status


def test_data_that_cannot_be_fetched_are_said_to_be_missing(window: Browser, served: str, blocking: Any) -> None:
    blocking("*/curves*")
    window.open_tab(served)
    (status,) = window.texts("[role=status]")
    assert status.startswith("The data could not be read: ")


def test_a_batch_size_that_was_found_without_an_mfu_callback_is_shown(window: Browser, tmp_path: Path) -> None:
    logs, page = tmp_path / "logs", tmp_path / "page.html"
    train_found(logs, "alone", is_measured=False)
    subprocess.run([sys.executable, "-m", "mfu_callback.report", str(logs), "--html", str(page)], check=True)

    def is_shown() -> bool:
        window.until(lambda: names(window) == ["alone"])
        return window.until(lambda: is_drawn(window, "finder"))

    window.errors()
    window.open(page.as_uri())
    assert is_shown()
    with tensorboard(logs) as address:
        wait_for_runs(address, 1)
        window.open_tab(address)
        assert is_shown()
    assert our_errors(window) == []


def test_the_page_of_the_report_needs_no_server(window: Browser, logdir: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    command = [sys.executable, "-m", "mfu_callback.report", str(logdir), "--run", "found", "--html", str(page)]
    command += ["--compare", str(logdir), "--compare-run", "plain"]
    subprocess.run(command, check=True, capture_output=True)
    window.driver.get("about:blank")
    window.errors()
    window.open(page.as_uri())
    window.until(window.is_ready)
    click_run(window, "select", "found")
    for chart in CHARTS_OF_ONE_DEVICE:
        window.until(lambda chart=chart: is_drawn(window, chart))
    click_run(window, "select", "several")
    for chart in ("devices", "kernels"):
        window.until(lambda chart=chart: is_drawn(window, chart))
    window.until(lambda: len(operators(window)) == 12)
    assert HOSTILE in names(window)
    assert len(window.texts("#notes p")) == 1
    assert "damaged" in window.texts("[aria-label=Problems] li")[0]
    assert our_errors(window) == []
    assert window.run("return window.hit") is None
