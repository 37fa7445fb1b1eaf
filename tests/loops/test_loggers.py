"""Where a loop's values go: loggers of Fabric, TensorBoard's writer, Prometheus; and what is written besides them."""

import csv
import json
from urllib.request import urlopen

import pytest
import torch
from lightning.fabric import Fabric
from lightning.fabric.loggers import CSVLogger, TensorBoardLogger
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter

from mfu_callback import MFUMeter
from mfu_callback.logs.names import CARD_TAG, RECORD_TAG
from mfu_callback.meter.tags import TAGS
from tests.helpers.event_files import LAYOUT_TAG, tag_counts, tensors
from tests.helpers.loop_runs import loss_of, make_meter, tiny_batches, tiny_gpt, train
from tests.helpers.runs import ABSENT_TAGS, PEAK, TINY_FLOPS

LOGGED = {tag.name for tag in TAGS} - ABSENT_TAGS


def train_with_fabric(precision, loggers, **arguments):
    """Twelve steps under Fabric; values are logged at steps 4, 8 and 12."""
    fabric = Fabric(accelerator="cpu", devices=1, precision=precision, loggers=loggers)
    fabric.launch()
    model = tiny_gpt()
    model, optimizer = fabric.setup(model, torch.optim.AdamW(model.parameters()))
    loader = fabric.setup_dataloaders(DataLoader(tiny_batches(12), batch_size=None))
    meter = MFUMeter(model, fabric=fabric, warmup_steps=1, summary=None, **arguments)
    for step, batch in enumerate(meter.fetch(loader), start=1):
        with meter.step(batch):
            fabric.backward(loss_of(model, batch))
            fabric.clip_gradients(model, optimizer, max_norm=1.0)
            optimizer.step()
            optimizer.zero_grad()
        if meter.due(4):
            meter.log(step)
    return meter.close()


@pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")
def test_fabrics_loggers_get_the_values_the_card_and_the_summary(tmp_path):
    loggers = [TensorBoardLogger(tmp_path, name="board"), CSVLogger(tmp_path, name="rows", flush_logs_every_n_steps=1)]
    summary = train_with_fabric("32-true", loggers, peak=PEAK)
    assert (summary.steps, summary.tokens, summary.flops.forward) == (11, 11 * 32, TINY_FLOPS)
    with open(tmp_path / "rows" / "version_0" / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["4", "8", "12"]
    assert set(rows[0]) - {"step"} == LOGGED
    board = tmp_path / "board" / "version_0"
    counts = tag_counts(board)
    assert all(counts[tag] == 3 for tag in LOGGED)
    assert {CARD_TAG, RECORD_TAG, LAYOUT_TAG} <= {tag.removesuffix("/text_summary") for tag in tensors(board)} | set(
        tensors(board)
    )
    record = json.loads((board / "mfu_summary.json").read_text())
    assert (record["steps"], record["run"]["model"], record["run"]["versions"]["lightning"]) == (
        11,
        "GPT",
        pytest.importorskip("lightning").__version__,
    )


@pytest.mark.parametrize(
    ("precision", "dtype"), [("32-true", torch.float32), ("bf16-mixed", torch.bfloat16), ("64-true", torch.float64)]
)
def test_fabrics_precision_says_what_the_peak_is_for(precision, dtype, monkeypatch):
    found = []

    def resolve(asked, device, dtype, announce):
        found.append(dtype)
        raise RuntimeError("not known")

    monkeypatch.setattr("mfu_callback.meter.peak_of_run.resolve_peak", resolve)
    with pytest.warns(UserWarning, match="No peak was found"):
        train_with_fabric(precision, [])
    assert found[0] == dtype


def test_tensorboards_own_writer_gets_them_too(tmp_path):
    writer = SummaryWriter(tmp_path / "run")
    model = tiny_gpt()
    meter = make_meter(model, loggers=[writer])
    train(model, tiny_batches(12), meter, after_step=lambda _: meter.due(5) and meter.log())
    meter.close()
    writer.close()
    counts = tag_counts(tmp_path / "run")
    assert all(counts[tag] == 2 for tag in LOGGED)
    assert RECORD_TAG in tensors(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "mfu_summary.json").read_text())["steps"] == 11


def test_board_false_leaves_the_values_alone(tmp_path):
    writer = SummaryWriter(tmp_path / "run")
    model = tiny_gpt()
    meter = make_meter(model, loggers=[writer], board=False, directory=tmp_path / "elsewhere")
    train(model, tiny_batches(12), meter, after_step=lambda _: meter.due(5) and meter.log())
    meter.close()
    writer.close()
    assert tensors(tmp_path / "run") == {}
    assert tag_counts(tmp_path / "run")["throughput/mfu"] == 2
    assert (tmp_path / "elsewhere" / "mfu_summary.json").is_file()
    assert not (tmp_path / "run" / "mfu_summary.json").exists()


def test_an_object_that_is_no_logger_is_refused():
    with pytest.raises(TypeError, match="loggers= has a list, with neither"):
        make_meter(torch.nn.Linear(1, 1), loggers=[[]])


def test_the_values_can_be_scraped_while_the_loop_runs():
    pytest.importorskip("prometheus_client")
    from socket import socket

    with socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    model, seen = tiny_gpt(), []

    def scrape(_):
        if meter.due(5):
            meter.values()
            with urlopen(f"http://127.0.0.1:{port}/metrics") as page:
                seen.append(page.read().decode())

    meter = make_meter(model, prometheus_port=port)
    train(model, tiny_batches(12), meter, after_step=scrape)
    meter.close()
    assert "mfu_throughput_tokens_per_sec" in seen[1]
    with pytest.raises(OSError, match="refused"):
        urlopen(f"http://127.0.0.1:{port}/metrics")
