"""The tab's plugin behind TensorBoard's own data provider: its routes, and what it says of damaged files."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import time
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.tensorboard import SummaryWriter
from werkzeug.test import Client

from gpt import GPTModule
from mfu_callback import MFUCallback, board
from mfu_callback.board.health import FileHealth
from mfu_callback.board.plugin import MFUPlugin
from mfu_callback.logs.run_log import Series
from mfu_callback.meter.tags import WATERFALL
from mfu_callback.report.page.assets import STATIC, plotly_file
from mfu_callback.report.page.views import waterfall_view
from mfu_callback.report.parts import as_plain_data
from tests.helpers.event_files import cut_off, damage, event_files
from tests.helpers.records import record_of_several, write_record
from tests.helpers.runs import PEAK, TINY, make_trainer, tiny_data
from tests.helpers.served_tab import get, plugin_on


@pytest.fixture(scope="module")
def logdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has ended, one that was cut short, one with a prefix, and one of another tool."""
    directory = tmp_path_factory.mktemp("plugin")
    for name, prefix in (("ended", ""), ("short", ""), ("prefixed", "mine")):
        logger = TensorBoardLogger(directory, name="", version=name, prefix=prefix)
        callback = MFUCallback(peak=PEAK, warmup_steps=1, board=name != "short")
        make_trainer(callback, logger=logger, max_steps=20).fit(GPTModule(TINY), datamodule=tiny_data())
    with SummaryWriter(str(directory / "foreign")) as writer:
        writer.add_scalar("loss", 1.0, 1)
    return directory


def test_the_runs_with_their_figures(logdir: Path) -> None:
    answer = get(plugin_on(logdir), "/runs")
    runs = {run["name"]: run for run in answer["runs"]}
    assert list(runs) == ["ended", "prefixed", "short"]
    assert answer["problems"] == []
    ended = runs["ended"]
    assert ended["figures"]["steps"] == 19
    assert ended["step_time_sec"] == json.loads((logdir / "ended" / "mfu_summary.json").read_text())["step_time_sec"]
    assert ended["figures"]["run"]["batch_size"] == 4
    roofline = ended["roofline"]
    assert roofline["flops_per_sec"] == pytest.approx(ended["figures"]["mfu"] * PEAK)
    assert roofline["intensity"] == pytest.approx(ended["figures"]["run"]["batch_flops"] / (3 * 4 * 7744))
    assert (roofline["peak"], roofline["bandwidth"]) == (PEAK, None)
    # One without a record has the figures of its points.
    assert runs["short"]["roofline"] is None
    assert 0 < runs["short"]["figures"]["mfu"] < 1
    assert sum(runs["short"]["figures"]["waterfall"].values()) == pytest.approx(1)


def test_the_curves_of_all_runs(logdir: Path) -> None:
    curves = get(plugin_on(logdir), "/curves", tag="throughput/mfu")
    assert sorted(curves) == ["ended", "prefixed", "short"]
    for curve in curves.values():
        assert curve["steps"] == list(range(1, 20))
        assert len(curve["values"]) == len(curve["wall_times"]) == 19
    assert get(plugin_on(logdir), "/curves", tag="loss") == {}
    assert get(plugin_on(logdir), "/curves") == {}


def test_the_waterfall_of_one_run(logdir: Path) -> None:
    for run in ("ended", "prefixed"):
        waterfall = get(plugin_on(logdir), "/waterfall", run=run)
        assert waterfall["steps"] == list(range(1, 20))
        assert [sum(shares) for shares in zip(*waterfall["parts"].values(), strict=True)] == pytest.approx([1] * 19)
    for run in ("none", "foreign", "../ended", ""):
        assert get(plugin_on(logdir), "/waterfall", run=run) == {"steps": [], "wall_times": [], "parts": {}}


def test_the_details_of_one_run(logdir: Path) -> None:
    plugin = plugin_on(logdir)
    for run in ("ended", "prefixed", "short"):  # the last has no record
        details = get(plugin, "/details", run=run)
        assert sum(details["waterfall"].values()) == pytest.approx(1)
        assert (details["devices"], details["operators"], details["pace"]) == (None, None, None)
        assert details["step_sec"] > 0
    for run in ("none", "foreign", "../ended", ""):
        assert get(plugin, "/details", run=run)["waterfall"] is None


def test_the_details_of_a_run_on_several_devices(tmp_path: Path) -> None:
    write_record(tmp_path / "several", record_of_several(devices=1000, operators=1000))
    details = get(plugin_on(tmp_path), "/details", run="several")
    assert [len(details[name]) for name in ("devices", "operators", "kernels")] == [64, 100, 5]
    assert details["pace"].startswith("Rank 1 on node sets the pace: ")
    (run,) = get(plugin_on(tmp_path), "/runs")["runs"]
    assert len(json.dumps(run)) < 5_000  # with any number of runs, only what is shown of all of them


def test_long_curves_are_thinned(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path / "long")) as writer:
        for step in range(5000):
            writer.add_scalar("throughput/mfu", 0.5, step)
    curve = get(plugin_on(tmp_path), "/curves", tag="throughput/mfu")["long"]
    assert len(curve["steps"]) == 300
    assert curve["steps"][-1] == 4999


def test_a_waterfall_has_the_steps_that_all_of_its_parts_have() -> None:
    scalars = {name: Series(steps=[1, 2], wall_times=[10.0, 20.0], values=[0.1, 0.2]) for name in WATERFALL.values()}
    scalars["waterfall/data"] = Series(steps=[2, 3], wall_times=[20.0, 30.0], values=[0.3, 0.4])
    view = waterfall_view(scalars)
    assert (view["steps"], view["wall_times"]) == ([2], [20.0])
    assert view["parts"]["data"] == [0.3]
    assert view["parts"]["mfu"] == [0.2]


def test_the_tab_is_active_where_a_run_has_the_tags(logdir: Path, tmp_path: Path) -> None:
    assert plugin_on(logdir).is_active()
    assert not plugin_on(tmp_path).is_active()
    assert not plugin_on(logdir / "foreign").is_active()
    assert get(plugin_on(tmp_path), "/runs") == {"runs": [], "problems": [], "parts": as_plain_data()}


def test_tensorboard_finds_the_plugin_by_its_entry_point() -> None:
    (found,) = (point for point in entry_points(group="tensorboard_plugins") if point.name == "mfu")
    assert found.load() is MFUPlugin


def test_tensorboard_need_not_load_torch_for_it() -> None:
    script = "import sys; sys.modules['torch'] = sys.modules['lightning'] = None; import mfu_callback.board.plugin"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_every_file_of_the_page_is_served_and_nothing_else(logdir: Path) -> None:
    apps = plugin_on(logdir).get_plugin_apps()
    files = [*STATIC.iterdir(), *(Path(board.__file__).parent / "static").iterdir()]
    assert {route[1:] for route in apps} == {path.name for path in files} | {
        "plotly.js",
        "runs",
        "curves",
        "waterfall",
        "details",
    }
    for path in files:
        answer = Client(apps[f"/{path.name}"]).get("/")
        assert answer.data == path.read_bytes()
        assert answer.content_type.startswith("text/css" if path.suffix == ".css" else "text/javascript")


def test_plotly_is_that_of_the_installed_package(logdir: Path) -> None:
    file = plotly_file()
    assert file is not None
    app = plugin_on(logdir).get_plugin_apps()["/plotly.js"]
    answer = Client(app).get("/", headers={"Accept-Encoding": "gzip"})
    assert gzip.decompress(answer.data) == file.read_bytes()


def test_without_plotly_the_rest_is_served(logdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mfu_callback.board.plugin._plotly", lambda: None)
    plugin = plugin_on(logdir)
    assert Client(plugin.get_plugin_apps()["/plotly.js"]).get("/").status_code == 404
    assert len(get(plugin, "/runs")["runs"]) == 3


def copied(logdir: Path, tmp_path: Path, *, age_sec: float = 3600) -> Path:
    (source,) = event_files(logdir / "ended")
    (tmp_path / "run").mkdir()
    file = tmp_path / "run" / source.name
    file.write_bytes(source.read_bytes())
    age(file, age_sec)
    return file


def age(file: Path, seconds: float) -> None:
    os.utime(file, (time.time() - seconds,) * 2)


def problems(directory: Path) -> list[str]:
    health = FileHealth(directory)
    health.look()
    return health.problems()


def test_sound_files_have_no_problem(logdir: Path) -> None:
    assert problems(logdir) == []


def test_damaged_cut_off_foreign_and_empty_files_are_named(logdir: Path, tmp_path: Path) -> None:
    file = copied(logdir, tmp_path)
    cut_off(file, 3)
    age(file, 3600)
    (tmp_path / "empty.tfevents").touch()
    age(tmp_path / "empty.tfevents", 3600)
    (tmp_path / "foreign.tfevents").write_text("<html>this is something else</html>")
    found = problems(tmp_path)
    assert [problem.split(" ")[0] for problem in found] == [
        "empty.tfevents",
        "foreign.tfevents",
        f"run/{file.name}",
    ]
    assert found[0].endswith("is empty")
    assert "is not an event file" in found[1]
    assert "ends in the middle of a record" in found[2]


def test_a_file_that_is_gone_has_no_problem_any_more(tmp_path: Path) -> None:
    (tmp_path / "foreign.tfevents").write_text("<html>this is something else</html>")
    health = FileHealth(tmp_path)
    health.look()
    assert len(health.problems()) == 1
    (tmp_path / "foreign.tfevents").unlink()
    health.look()
    assert health.problems() == []


def test_a_file_that_is_being_written_has_no_problem(logdir: Path, tmp_path: Path) -> None:
    file = copied(logdir, tmp_path)
    cut_off(file, 3)
    (tmp_path / "new.tfevents").touch()
    health = FileHealth(tmp_path)
    health.look()
    assert health.problems() == []
    for path in (file, tmp_path / "new.tfevents"):  # nobody has gone on with them
        age(path, 3600)
    health.look()
    assert len(health.problems()) == 2


def test_a_problem_goes_when_the_file_is_mended_and_comes_when_it_is_damaged(logdir: Path, tmp_path: Path) -> None:
    file = copied(logdir, tmp_path)
    whole, health = file.read_bytes(), FileHealth(tmp_path)
    file.write_bytes(whole[:-3])
    age(file, 3600)
    health.look()
    assert len(health.problems()) == 1
    file.write_bytes(whole)
    health.look()
    assert health.problems() == []
    file.write_bytes(whole + whole[:50])
    damage(file, len(whole) + 2)
    health.look()
    (problem,) = health.problems()
    assert f"is damaged at byte {len(whole):,}" in problem


def test_the_tab_is_told_of_problems_by_a_thread_of_its_own(logdir: Path, tmp_path: Path) -> None:
    damage(copied(logdir, tmp_path), 0)
    plugin = plugin_on(tmp_path)
    for _ in range(200):
        found = get(plugin, "/runs")["problems"]
        if found:
            break
        time.sleep(0.05)
    assert "is not an event file" in found[0]
