"""The dashboard, the card, HParams and the record, in the event files of real runs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from gpt import GPTModule
from mfu_callback import BatchSizeFinder, MFUCallback
from mfu_callback.meter.tags import TAGS
from tests.helpers.board_runs import WithoutHParams, trained
from tests.helpers.event_files import LAYOUT_TAG, cards, event_files, hparams, layouts, records, tag_counts
from tests.helpers.runs import PEAK, TINY, TINY_FLOPS


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run with everything."""
    return trained(tmp_path_factory.mktemp("board"))


def test_the_dashboard_is_written_once_and_has_a_chart_for_every_tag_that_is_logged(run: Path) -> None:
    (layout,) = layouts(run)
    logged = tag_counts(run)
    titles = [category.title for category in layout.category]
    categories = ("utilization", "throughput", "step time", "where the machine went", "memory", "totals")
    assert titles == [f"MFU: {title}" for title in categories]
    charts = [list(chart.multiline.tag) for category in layout.category for chart in category.chart]
    for tag in TAGS:  # of a logger with a prefix too; TensorBoard matches from the beginning on
        shown = [
            sum(bool(re.match(pattern, name)) for chart in charts for pattern in chart)
            for name in (tag.name, f"mine-{tag.name}")
        ]
        assert shown == ([1, 1] if tag.name in logged else [0, 0])


def test_the_card_is_there_from_the_first_step_and_says_at_the_end_what_it_came_to(run: Path) -> None:
    first, last = cards(run)
    assert "over 7 steps" not in first
    assert "over 7 steps" in last
    for text in (first, last):
        assert "| model | GPTModule, 7,744 parameters |" in text
        assert "| precision | 32-true |" in text
        assert "| batch | 4 samples on each device |" in text
        assert "| peak | 1 TFLOP/s, " in text
        assert "given: peak=" in text
        assert "| counter | thop |" in text
        assert "| conventions | attention full, backward 2 x |" in text
        assert "| model.blocks.&#42;.mlp.expand | 2 | 1.3107e+05 | 26.67% |" in text
        assert "Every compute operation was counted." in text
        assert f"| torch | {torch.__version__} |" in text


def test_the_record_holds_facts_and_figures(run: Path) -> None:
    first, last = records(run)
    assert first["steps"] == 0
    assert first["mfu"] is None
    assert first["run"] == last["run"]
    assert last["steps"] == 7
    assert last["flops"]["forward"] == TINY_FLOPS
    assert 0 < last["mfu"] < 1
    facts = last["run"]
    assert facts["batch_size"] == 4
    assert facts["batch_flops"] == 3 * TINY_FLOPS
    assert facts["parameter_bytes"] == 4 * 7744
    assert facts["finder"] is None
    assert sum(module["flops"] for module in facts["modules"]) == TINY_FLOPS
    assert json.loads((run / "mfu_summary.json").read_text()) == last


def test_nothing_stays_on_the_loggers(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, name="", version="run")
    writers: list[Any] = []

    class Looks(GPTModule):
        def on_train_start(self) -> None:
            writers.append(self.logger.experiment._get_file_writer())

    trained(tmp_path, module=Looks(TINY), logger=logger)
    assert "add_summary" not in vars(writers[0])


def test_several_loggers_get_the_same_and_others_nothing_of_it(tmp_path: Path) -> None:
    loggers = [
        TensorBoardLogger(tmp_path, name="", version="run"),
        CSVLogger(tmp_path, name="csv"),
        TensorBoardLogger(tmp_path, name="", version="other", prefix="mine"),
    ]
    trained(tmp_path, logger=loggers)
    for directory in (tmp_path / "run", tmp_path / "other"):
        assert len(layouts(directory)) == 1
        assert len(cards(directory)) == len(records(directory)) == 2
    assert tag_counts(tmp_path / "other")["mine-throughput/mfu"] == 7
    assert hparams(tmp_path / "other")[2][1:] == ["mine-throughput/mfu", "mine-throughput/tokens_per_sec"]
    assert {path.name for path in (tmp_path / "csv" / "version_0").iterdir()} == {"hparams.yaml", "metrics.csv"}


def test_a_run_that_goes_on_under_its_version_keeps_one_layout_and_gets_new_figures(tmp_path: Path) -> None:
    trained(tmp_path)
    run = trained(tmp_path, logger=TensorBoardLogger(tmp_path, name="", version="run"))
    assert len(event_files(run)) == 2
    assert len(layouts(run)) == 1
    assert [record["steps"] for record in records(run)] == [0, 7, 0, 7]


def test_a_second_fit_with_the_same_logger_and_callback(tmp_path: Path) -> None:
    logger, callback = TensorBoardLogger(tmp_path, name="", version="run"), MFUCallback(peak=PEAK, warmup_steps=1)
    for _ in range(2):
        run = trained(tmp_path, logger=logger, callback=callback)
    assert len(layouts(run)) == 1
    assert len(records(run)) == 4


def test_a_layout_of_the_users_is_left_as_it_is(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, name="", version="run")
    logger.experiment.add_custom_scalars({"mine": {"loss": ["Multiline", ["train/loss"]]}})
    run = trained(tmp_path, logger=logger)
    assert [category.title for layout in layouts(run) for category in layout.category] == ["mine"]


class LogsALayout(GPTModule):
    """Writes a layout when training starts."""

    def on_train_start(self) -> None:
        self.logger.experiment.add_custom_scalars({"mine": {"loss": ["Multiline", ["train/loss"]]}})


def test_a_layout_that_the_user_writes_in_a_hook_stays_the_last(tmp_path: Path) -> None:
    run = trained(tmp_path, module=LogsALayout(TINY))
    assert [category.title for layout in layouts(run) for category in layout.category] == ["mine"]


def test_without_the_board_only_values_are_logged(tmp_path: Path) -> None:
    run = trained(tmp_path, callback=MFUCallback(peak=PEAK, warmup_steps=1, board=False), module=WithoutHParams())
    counts = tag_counts(run)
    assert counts["throughput/mfu"] == 7
    assert not {tag for tag in counts if tag.startswith(("mfu_callback", "_hparams_", LAYOUT_TAG))}
    assert (run / "mfu_summary.json").is_file()


def test_a_run_without_tensorboard_trains_and_writes_none_of_it(tmp_path: Path) -> None:
    script = f"""
import sys
for name in ("tensorboard", "tensorboardX", "google_crc32c", "plotly"):
    sys.modules[name] = None
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from tests.helpers.runs import PEAK, TINY, make_trainer, tiny_data
from gpt import GPTModule
from lightning.pytorch.loggers import CSVLogger
from mfu_callback import MFUCallback
callback = MFUCallback(peak=PEAK, warmup_steps=1)
trainer = make_trainer(callback, logger=CSVLogger({str(tmp_path)!r}, name="csv"))
trainer.fit(GPTModule(TINY), datamodule=tiny_data())
assert callback.summary.steps == 7
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "was not written" not in done.stderr
    written = {path.name for path in (tmp_path / "csv" / "version_0").iterdir()}
    assert written == {"hparams.yaml", "metrics.csv", "mfu_summary.json"}


def test_a_board_that_cannot_be_written_ends_no_run_and_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(SummaryWriter, "add_text", full)
    with pytest.warns(UserWarning, match="No space left on device") as warned:
        run = trained(tmp_path)
    assert sum("No space left" in str(warning.message) for warning in warned) == 1
    assert tag_counts(run)["throughput/mfu"] == 7
    assert (run / "mfu_summary.json").is_file()


class WithLazyPart(WithoutHParams):
    """A module a part of which never runs, and has no shape."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.LazyLinear(3)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.model.parameters())


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature", "ignore:The total number of parameters")
def test_a_part_without_a_shape_is_left_out_of_the_parameters(tmp_path: Path) -> None:
    run = trained(tmp_path, module=WithLazyPart())
    assert records(run)[-1]["run"]["parameters"] == 7744


def test_a_fast_dev_run_has_no_board(tmp_path: Path) -> None:
    trained(tmp_path, fast_dev_run=True)
    assert not list(tmp_path.rglob("*tfevents*"))


def test_the_card_and_the_record_have_the_finders_trials(tmp_path: Path) -> None:
    run = trained(tmp_path, BatchSizeFinder(max_size=4, budget=2**30))
    assert "### Batch size\n\n**batch&#95;size" not in cards(run)[-1]
    assert "**batch_size = 4**" in cards(run)[-1]
    assert [trial["size"] for trial in records(run)[-1]["run"]["finder"]["trials"]][-1] == 4


@pytest.mark.parametrize(
    ("flops", "counter"),
    [("dispatch", "dispatch"), (6e3, "given: 6000 per token"), (lambda batch: 1e6, "given by a function of the batch")],
)
def test_the_card_names_the_counter(tmp_path: Path, flops: Any, counter: str) -> None:
    run = trained(tmp_path, callback=MFUCallback(peak=PEAK, flops=flops))
    assert f"| counter | {counter} |" in cards(run)[0]
    assert records(run)[-1]["run"]["counter"] == counter
