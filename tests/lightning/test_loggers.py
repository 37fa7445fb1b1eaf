import csv
import json
import sys
import zipfile
from collections import defaultdict
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
from lightning.pytorch.loggers import CometLogger, CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger

from gpt import GPTModule
from mfu_callback import MFUCallback
from mfu_callback.board.logger_cards import takes_card
from mfu_callback.meter.tags import TAGS
from tests.helpers.event_files import scalars
from tests.helpers.runs import ABSENT_TAGS, PEAK, TINY, fit, make_trainer, tiny_data
from tests.helpers.wandb_files import history

QUIET_AND_OFFLINE = {
    "WANDB_MODE": "offline",
    "WANDB_SILENT": "true",
    "WANDB_ERROR_REPORTING": "false",
    "MLFLOW_ALLOW_FILE_STORE": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # CometLogger(online=False) of Lightning 2.5 and 2.6 logs nothing at all.
    "COMET_START_ONLINE": "false",
    "COMET_DISABLE_AUTO_LOGGING": "1",
    "COMET_LOGGING_CONSOLE": "critical",
    "COMET_INTERNAL_SENTRY_DSN": "",
}
PLAIN = {"log_code": False, "log_git_metadata": False, "log_env_details": False, "display_summary_level": 0}
SUMMARY, EARLIER = "mfu_summary.json", "mfu_summary_1.json"


@pytest.fixture(scope="module", autouse=True)
def offline(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in QUIET_AND_OFFLINE.items():
            patch.setenv(name, value)
        for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
            patch.setenv(name, str(tmp_path_factory.mktemp("wandb")))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        before = psutil.Process().children(recursive=True)
        yield
    if "wandb" in sys.modules:
        sys.modules["wandb"].teardown()
    # The processes that the loggers have started would be taken for those of later tests.
    started = [child for child in psutil.Process().children(recursive=True) if child not in before]
    _, running = psutil.wait_procs(started, timeout=60)
    assert running == []


def wandb_logger(directory, **options):
    return WandbLogger(project="project", offline=True, save_dir=directory, **options)


def mlflow_logger(directory, **options):
    return MLFlowLogger("experiment", tracking_uri=directory.as_uri(), **options)


def comet_logger(directory, **options):
    directory.mkdir(exist_ok=True)
    return CometLogger(project="project", offline_directory=str(directory), **PLAIN, **options)


LOGGERS = {
    "wandb": ("wandb", wandb_logger),
    "mlflow": ("mlflow", mlflow_logger),
    "comet": ("comet_ml", comet_logger),
    "csv": (None, partial(CSVLogger, name="csv")),
    "tensorboard": ("tensorboard", partial(TensorBoardLogger, name="", version="run")),
}
SERVICES = ("wandb", "mlflow", "comet")


def logger_of(name, directory, **options):
    package, make = LOGGERS[name]
    if package is not None:
        pytest.importorskip(package)
    return make(directory / name, **options)


def end(*loggers):
    """End what outlives a fit, so that all is written."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()
        if isinstance(logger, CometLogger):
            logger.experiment.end()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One fit with every logger at once: its directory, and its summary."""
    directory = tmp_path_factory.mktemp("loggers")
    there = [name for name, (package, _) in LOGGERS.items() if package is None or find_spec(package)]
    loggers = [logger_of(name, directory) for name in there]
    callback, _ = fit(GPTModule(TINY), data=tiny_data(), logger=loggers)
    end(*loggers)
    return directory, callback.summary


def of_wandb(directory):
    rows = [row for row in history(directory) if "train/loss" in row]
    return {row.pop("trainer/global_step"): row for row in rows}


def of_mlflow(directory):
    client, run_id = only_mlflow_run(directory)
    points = defaultdict(dict)
    for tag in client.get_run(run_id).data.metrics:
        for point in client.get_metric_history(run_id, tag):
            points[point.step][tag] = point.value
    return points


def only_mlflow_run(directory):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(directory.as_uri())
    (found,) = client.search_runs([client.get_experiment_by_name("experiment").experiment_id])
    return client, found.info.run_id


def comet_messages(directory, kind):
    (file,) = directory.glob("*.zip")
    with zipfile.ZipFile(file) as archive:
        messages = [json.loads(line) for line in archive.read("messages.json").splitlines()]
    return [message["payload"] for message in messages if message["type"] == kind]


def of_comet(directory):
    points = defaultdict(dict)
    for message in comet_messages(directory, "metric_msg"):
        metric = message["metric"]
        points[metric["step"]][metric["metricName"]] = metric["metricValue"]
    return points


def of_csv(directory):
    with (directory / "csv" / "version_0" / "metrics.csv").open(newline="") as file:
        return {
            int(row.pop("step")): {tag: float(value) for tag, value in row.items() if value}
            for row in csv.DictReader(file)
        }


def of_tensorboard(directory):
    points = defaultdict(dict)
    for tag, step, value in scalars(directory / "run"):
        points[step][tag] = value
    return points


READERS = {
    "wandb": of_wandb,
    "mlflow": of_mlflow,
    "comet": of_comet,
    "csv": of_csv,
    "tensorboard": of_tensorboard,
}
OURS = {tag.name for tag in TAGS} - ABSENT_TAGS


def ours_and_loss(points):
    return {
        step: {tag: value for tag, value in values.items() if tag in OURS or tag == "train/loss"}
        for step, values in points.items()
    }


@pytest.mark.parametrize("name", LOGGERS)
def test_every_logger_gets_every_tag_at_the_step_of_the_users_metrics(run, name):
    if LOGGERS[name][0] is not None:
        pytest.importorskip(LOGGERS[name][0])
    directory, _ = run
    points = ours_and_loss(READERS[name](directory / name))
    assert sorted(points) == list(range(8))
    assert set(points[0]) == {"train/loss"}
    assert all(set(points[step]) == OURS | {"train/loss"} for step in range(1, 8))
    assert points == ours_and_loss(of_csv(directory / "csv"))


def mfu_row(summary):
    return f"<td>MFU</td>\n<td>{summary.mfu:.4f} over 7 steps</td>"


def test_wandb_shows_the_card_in_a_panel_that_adds_no_step_of_its_own(run):
    pytest.importorskip("wandb")
    directory, summary = run
    rows = history(directory / "wandb")
    shown = [row for row in rows if row.get("mfu_callback/card/_type") == "html-file"]
    assert [row["_step"] for row in rows] == list(range(9))
    assert [row["_step"] for row in shown] == [0, 8]
    (media,) = (directory / "wandb" / "wandb").glob("offline-run-*/files")
    first, last = [(media / row["mfu_callback/card/path"]).read_text() for row in shown]
    assert "<td>GPTModule, 7,744 parameters</td>" in first
    assert mfu_row(summary) not in first
    assert mfu_row(summary) in last


def test_mlflow_keeps_the_last_card_as_an_artifact(run):
    pytest.importorskip("mlflow")
    directory, summary = run
    client, run_id = only_mlflow_run(directory / "mlflow")
    assert [artifact.path for artifact in client.list_artifacts(run_id)] == ["mfu_card.html"]
    assert mfu_row(summary) in Path(client.download_artifacts(run_id, "mfu_card.html")).read_text()


def test_comet_shows_the_last_card_alone_in_its_tab_of_html(run):
    pytest.importorskip("comet_ml")
    directory, summary = run
    (message,) = comet_messages(directory / "comet", "html")
    assert mfu_row(summary) in message["html"]


def test_with_several_loggers_the_summary_lies_beside_the_first_log_that_the_report_reads(run):
    directory, summary = run
    (file,) = directory.rglob("mfu_summary*.json")
    assert file == directory / "csv" / "csv" / "version_0" / SUMMARY
    assert json.loads(file.read_text())["mfu"] == summary.mfu


@pytest.mark.parametrize("name", SERVICES)
def test_each_run_of_a_service_has_a_summary_of_its_own(name, tmp_path):
    where = []
    for _ in range(2):
        logger = logger_of(name, tmp_path)
        fit(GPTModule(TINY), data=tiny_data(), logger=logger)
        where.append(tmp_path / name / logger.name / logger.version / SUMMARY)
        end(logger)
    assert where[0] != where[1]
    assert set(tmp_path.rglob("mfu_summary*.json")) == set(where)
    if name == "mlflow":  # the folder of the run itself
        assert all((file.parent / "meta.yaml").is_file() for file in where)


def test_the_summary_of_a_service_without_a_directory_lies_beside_the_checkpoints(tmp_path):
    pytest.importorskip("mlflow")
    logger = MLFlowLogger("experiment", tracking_uri=str(tmp_path / "store"))
    assert logger.save_dir is None  # as with a server
    fit(GPTModule(TINY), data=tiny_data(), logger=logger, root=tmp_path / "root", enable_checkpointing=True)
    directory = tmp_path / "root" / logger.experiment_id / logger.run_id
    assert {path.name for path in directory.iterdir()} == {"checkpoints", SUMMARY}


@pytest.mark.parametrize("name", ["csv", "tensorboard"])
@pytest.mark.filterwarnings("ignore:Experiment logs directory .* exists and is not empty")
def test_a_run_under_the_version_of_another_leaves_the_summary_of_the_other(name, tmp_path):
    for steps in (4, 6):
        logger = logger_of(name, tmp_path, version="same")
        fit(GPTModule(TINY), data=tiny_data(), logger=logger, max_steps=steps)
    directory = Path(logger.log_dir)
    assert json.loads((directory / EARLIER).read_text())["steps"] == 3
    assert json.loads((directory / SUMMARY).read_text())["steps"] == 5


@pytest.mark.parametrize("options", [{"logger": False}, {"logger": True, "fast_dev_run": True}])
def test_a_run_that_logs_nothing_writes_no_summary(options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit(GPTModule(TINY), data=tiny_data(), root=tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_log_on_another_machine_gets_no_directory_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit(GPTModule(TINY), data=tiny_data(), root=tmp_path, logger=CSVLogger("memory://logs"))
    assert list(tmp_path.iterdir()) == []


def test_prefixes_of_the_loggers_are_kept(tmp_path):
    loggers = [logger_of(name, tmp_path, prefix="mine") for name in ("csv", "mlflow")]
    fit(GPTModule(TINY), data=tiny_data(), logger=loggers)
    for points in (of_csv(tmp_path / "csv"), of_mlflow(tmp_path / "mlflow")):
        assert {f"mine-{tag}" for tag in OURS} < set(points[7])


def test_a_card_that_cannot_be_written_ends_no_run_and_is_told_once(tmp_path, monkeypatch):
    logger = logger_of("mlflow", tmp_path)

    def full(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr(type(logger.experiment), "log_text", full)
    with pytest.warns(UserWarning, match="No space left on device") as warned:
        fit(GPTModule(TINY), data=tiny_data(), logger=logger)
    assert sum("No space left" in str(warning.message) for warning in warned) == 1
    assert set(of_mlflow(tmp_path / "mlflow")[7]) > OURS


def test_without_the_board_a_logger_gets_the_values_alone(tmp_path):
    logger = logger_of("mlflow", tmp_path)
    trainer = make_trainer(MFUCallback(peak=PEAK, warmup_steps=1, board=False), logger=logger)
    trainer.fit(GPTModule(TINY), datamodule=tiny_data())
    client, run_id = only_mlflow_run(tmp_path / "mlflow")
    assert client.list_artifacts(run_id) == []
    assert set(of_mlflow(tmp_path / "mlflow")[7]) > OURS


def test_a_logger_is_known_by_the_class_that_it_derives_from_and_not_by_a_name_alone():
    class Mine(WandbLogger):
        pass

    class MLFlowLogger:
        pass

    assert takes_card(object.__new__(Mine))
    assert not takes_card(MLFlowLogger())
    assert not takes_card(object.__new__(CSVLogger))
