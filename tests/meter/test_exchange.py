"""How ranks exchange their windows, and that none of them waits for another where it sends."""

import contextlib

import pytest
import torch

from mfu_callback.meter import gathering
from mfu_callback.meter.exchange import Exchange
from mfu_callback.meter.totals import Totals
from tests.helpers import exchange_run
from tests.helpers.launched import Launched


class LateRanks:
    """Another process, whose row comes when it is asked for."""

    size, index, on_this_machine = 2, 0, 2

    def __init__(self):
        self.begun, self.read = 0, 0

    def begin_gather(self, row, device):
        self.begun += 1

        def read():
            self.read += 1
            return torch.stack([row, 2 * row])

        return read


def test_a_window_is_read_where_the_next_one_ends_and_with_its_own_place():
    ranks = LateRanks()
    exchange = Exchange(ranks, torch.device("cpu"))
    assert exchange.take() is None
    exchange.begin(Totals(steps=5, tokens=7), "step 50")
    assert (ranks.begun, ranks.read) == (1, 0)
    place, totals = exchange.take()
    assert (place, [(one.steps, one.tokens) for one in totals]) == ("step 50", [(5, 7), (10, 14)])
    assert exchange.take() is None
    assert (ranks.begun, ranks.read) == (1, 1)


def test_a_rank_that_sends_goes_on_before_the_other_has_come(tmp_path):
    for rank in Launched(exchange_run.__file__, tmp_path).ends("in-turn"):
        assert rank == [None, *((f"window {window}", [10 * window, 10 * window + 1]) for window in range(3))]


class FakeStreams:
    """What an accelerator does for a gather, in the order in which it was asked for."""

    def __init__(self, monkeypatch):
        self.done = []
        monkeypatch.setattr(gathering.accelerators, "side_stream", self.side_stream)
        monkeypatch.setattr(gathering.accelerators, "event", lambda device: self)
        monkeypatch.setattr(gathering, "_gathered", self.gathered)
        monkeypatch.setattr(torch.Tensor, "pin_memory", lambda row: row)
        monkeypatch.setattr(gathering.accelerators, "pinned", lambda *shape, dtype: torch.zeros(*shape, dtype=dtype))

    @contextlib.contextmanager
    def side_stream(self, device):
        self.done.append("into the side stream")
        yield
        self.done.append("out of it")

    def gathered(self, row):
        self.done.append("gather")
        return [torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])], self

    def wait(self):
        self.done.append("the stream waits")

    def record(self):
        self.done.append("record")

    def synchronize(self):
        self.done.append("the host waits")


def test_on_an_accelerator_the_gather_is_on_a_stream_of_its_own_and_the_host_waits_when_it_reads(monkeypatch):
    streams = FakeStreams(monkeypatch)
    read = gathering.begin_gather(torch.tensor([1.0, 2.0]), torch.device("meta"))
    on_the_stream = ["gather", "the stream waits", "record"]
    assert streams.done == ["into the side stream", *on_the_stream, "out of it"]
    assert read().tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert streams.done[-1] == "the host waits"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_real_gpu_gathers_on_its_own_stream(tmp_path):
    store = f"file://{tmp_path / 'store'}"
    torch.distributed.init_process_group("nccl", init_method=store, rank=0, world_size=1)
    try:
        read = gathering.begin_gather(torch.tensor([1.0, 2.0], dtype=torch.float64), torch.device("cuda", 0))
        assert read().tolist() == [[1.0, 2.0]]
    finally:
        torch.distributed.destroy_process_group()
