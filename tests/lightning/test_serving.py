import multiprocessing
import os
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.request import urlopen

import pytest
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger

from gpt import GPTModule
from mfu_callback import MFUCallback
from mfu_callback.meter.tags import TAGS
from tests.helpers.runs import ABSENT_TAGS, PEAK, TINY, make_trainer, tiny_data

LAST_STEP = "mfu_last_step_timestamp_seconds"
RATE = "mfu_throughput_tokens_per_sec"
CLIENT = "prometheus_client"
TAKEN = r"cannot be listened on \(OSError: .*so Prometheus gets no values of this run"


@pytest.fixture
def port():
    """A port that was free a moment ago."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def scraped(port, host="127.0.0.1"):
    """The gauges of an endpoint: by name, the labels and the value."""
    from prometheus_client.parser import text_string_to_metric_families

    text = urlopen(f"http://{host}:{port}/metrics", timeout=10).read().decode()
    return {
        sample.name: (sample.labels, sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def is_open(port):
    with socket.socket() as client:
        client.settimeout(10)
        return client.connect_ex(("127.0.0.1", port)) == 0


class Scrapes(Callback):
    """Scrapes at the start of each batch what the steps before it have left."""

    def __init__(self, port):
        self.port, self.seen, self.logged, self.clock = port, [], [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seen.append(scraped(self.port))
        self.logged.append(dict(trainer.callback_metrics))
        self.clock.append(time.time())


def fit(*callbacks, port, module=None, data=None, trainer=None, **options):
    callback = MFUCallback(peak=PEAK, warmup_steps=1, prometheus_port=port, **options)
    fitting = make_trainer(callback, *callbacks, **(trainer or {}))
    fitting.fit(module or GPTModule(TINY), data or tiny_data())
    return callback


def test_every_logged_value_is_a_gauge_during_training_and_the_port_is_closed_afterwards(port, tmp_path):
    pytest.importorskip(CLIENT)
    scrapes = Scrapes(port)
    fit(scrapes, port=port, trainer={"logger": CSVLogger(tmp_path, name="mine")})
    first, last = scrapes.seen[0], scrapes.seen[-1]
    assert first == {}
    names = {"mfu_" + tag.name.replace("/", "_") for tag in TAGS if tag.name not in ABSENT_TAGS}
    assert {re.sub("_ratio$", "", name) for name in last} == names | {LAST_STEP}
    assert all(labels == {"run": "mine/version_0"} for labels, _ in last.values())
    assert last[RATE][1] == pytest.approx(scrapes.logged[-1]["throughput/tokens_per_sec"].item(), rel=1e-6)
    assert last["mfu_waterfall_data_ratio"][1] == pytest.approx(scrapes.logged[-1]["waterfall/data"].item(), rel=1e-6)
    assert not is_open(port)


def test_the_time_of_the_last_step_moves_with_every_step_whether_it_is_logged_or_not(port):
    pytest.importorskip(CLIENT)
    scrapes = Scrapes(port)
    began = time.time()
    fit(scrapes, port=port, trainer={"log_every_n_steps": 100})
    assert [set(seen) for seen in scrapes.seen] == [set()] + [{LAST_STEP}] * 7
    times = [seen[LAST_STEP][1] for seen in scrapes.seen[1:]]
    assert times == sorted(set(times))
    assert all(began < ended < clock for ended, clock in zip(times, scrapes.clock[1:], strict=True))


def test_two_fits_in_a_row_serve_at_the_same_port(port):
    pytest.importorskip(CLIENT)
    threads = threading.active_count()
    for _ in range(2):
        scrapes = Scrapes(port)
        fit(scrapes, port=port)
        assert RATE in scrapes.seen[-1]
        assert not is_open(port)
    assert threading.active_count() == threads


class Raises(Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx == 3:
            raise RuntimeError("on purpose")


def test_a_run_that_ends_by_an_exception_closes_the_port(port):
    pytest.importorskip(CLIENT)
    scrapes = Scrapes(port)
    with pytest.raises(RuntimeError, match="on purpose"):
        fit(scrapes, Raises(), port=port)
    assert RATE in scrapes.seen[-1]
    assert not is_open(port)


class Forks(Callback):
    """Starts a process that lives on after fit, and holds what was open in this one."""

    def on_train_start(self, trainer, pl_module):
        self.child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
        self.child.start()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no process can be forked here")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_process_that_was_forked_meanwhile_does_not_hold_the_port(port):
    pytest.importorskip(CLIENT)
    scrapes, forks = Scrapes(port), Forks()
    try:
        fit(scrapes, forks, port=port)
        assert RATE in scrapes.seen[-1]
        assert forks.child.is_alive()
        assert not is_open(port)
        fit(scrapes, port=port)
        assert RATE in scrapes.seen[-1]
    finally:
        forks.child.kill()
        forks.child.join()


def test_port_zero_takes_any_free_one_and_the_log_names_it(caplog):
    pytest.importorskip(CLIENT)
    found = []

    class Finds(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            (port,) = re.findall(r"http://127\.0\.0\.1:(\d+)/metrics", caplog.text)
            found.append(set(scraped(port)))

    with caplog.at_level("INFO", "lightning.pytorch.utilities.rank_zero"):
        fit(Finds(), port=0)
    assert len(found) == 8
    assert RATE in found[-1]


def test_a_port_that_is_taken_is_told_and_the_run_goes_on(port):
    pytest.importorskip(CLIENT)
    with socket.create_server(("127.0.0.1", port)), pytest.warns(UserWarning, match=TAKEN) as warned:
        callback = fit(port=port)
    (message,) = [str(warning.message) for warning in warned if "Prometheus" in str(warning.message)]
    assert message.startswith(f"127.0.0.1:{port} ")
    assert message.endswith(
        "Pass prometheus_port=0 for any free port, or an address of this machine as prometheus_host=."
    )
    assert callback.summary.steps == 7


def test_an_address_of_no_machine_is_told_and_the_run_goes_on(port):
    pytest.importorskip(CLIENT)
    with pytest.warns(UserWarning, match=r"^203\.0\.113\.1:\d+ cannot be listened on .*prometheus_host="):
        callback = fit(port=port, prometheus_host="203.0.113.1")
    assert callback.summary.steps == 7


def test_without_the_package_the_run_goes_on(port, monkeypatch):
    monkeypatch.setitem(sys.modules, CLIENT, None)
    told = "prometheus_client is not installed, so .* of this run. Run: pip install prometheus-client"
    with pytest.warns(UserWarning, match=told):
        callback = fit(port=port)
    assert callback.summary.steps == 7


def test_nothing_is_served_unless_asked_for(port):
    threads = threading.active_count()
    seen = []

    class Counts(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            seen.append(threading.active_count())

    fit(Counts(), port=None)
    assert set(seen) == {threads}


TWO_RANKS = """
import sys
from pathlib import Path
from lightning.pytorch import Callback
from gpt import GPTModule
from mfu_callback import MFUCallback
from tests.helpers.runs import PEAK, TINY, make_trainer, tiny_data
from tests.lightning.test_serving import RATE, scraped

directory, port = Path(sys.argv[1]), int(sys.argv[2])
callback = MFUCallback(peak=PEAK, warmup_steps=1, prometheus_port=port)

class Looks(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        rank, serves = trainer.global_rank, callback._run._prometheus._server is not None
        text = f"serves {serves}" + (f", all devices {RATE in scraped(port)}" if rank == 0 else "")
        (directory / f"rank{rank}").write_text(text)

trainer = make_trainer(callback, Looks(), devices=2, strategy="ddp", max_steps=4)
trainer.fit(GPTModule(TINY), tiny_data())
"""


def test_only_global_rank_zero_serves(port, tmp_path):
    pytest.importorskip(CLIENT)
    (tmp_path / "script.py").write_text(TWO_RANKS)
    command = [sys.executable, "-W", "ignore", tmp_path / "script.py", tmp_path, str(port)]
    root = str(Path(__file__).parents[2])
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": root}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    told = {rank: (tmp_path / f"rank{rank}").read_text() for rank in (0, 1)}
    assert told == {0: "serves True, all devices True", 1: "serves False"}


@pytest.mark.parametrize("port", [-1, 65536, 9400.0, "9400", True])
def test_a_port_that_does_not_exist_is_refused(port):
    with pytest.raises(ValueError, match=f"prometheus_port={port!r} must be a port from 1 to 65535"):
        MFUCallback(prometheus_port=port)


@pytest.mark.parametrize("host", ["", None, 127])
def test_a_host_that_is_no_address_is_refused(host):
    with pytest.raises(ValueError, match=f"prometheus_host={host!r} must be an address"):
        MFUCallback(prometheus_host=host)
