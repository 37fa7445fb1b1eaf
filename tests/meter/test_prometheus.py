import re
from urllib.request import urlopen

import pytest

from mfu_callback.meter.prometheus import PrometheusServer, gauge_name
from mfu_callback.meter.tags import TAGS

client = pytest.importorskip("prometheus_client")


@pytest.fixture
def told():
    return []


@pytest.fixture
def server(told):
    server = PrometheusServer(0, labels={"run": 'a "run"'}, warn=pytest.fail, say=told.append)
    yield server
    server.stop()


def text_of(told):
    (address,) = re.findall(r"http://\S+/metrics", told[0])
    return urlopen(address, timeout=10).read().decode()


def test_a_gauge_has_the_tags_value_its_unit_and_what_it_is(server, told):
    server.start()
    server.show({"time/step_sec": 0.25, "waterfall/data": 0.5})
    assert text_of(told) == (
        "# HELP mfu_time_step_sec seconds of a step. Unit: s.\n"
        "# TYPE mfu_time_step_sec gauge\n"
        'mfu_time_step_sec{run="a \\"run\\""} 0.25\n'
        "# HELP mfu_waterfall_data_ratio shares of the machine, sum 1: data. Unit: fraction.\n"
        "# TYPE mfu_waterfall_data_ratio gauge\n"
        'mfu_waterfall_data_ratio{run="a \\"run\\""} 0.5\n'
    )


def test_values_that_are_no_longer_logged_are_no_longer_served(server, told):
    server.start()
    server.show({"throughput/hfu": 0.5})
    server.show({"throughput/mfu": float("nan")})
    values = [line for line in text_of(told).splitlines() if not line.startswith("#")]
    assert values == ['mfu_throughput_mfu_ratio{run="a \\"run\\""} NaN']


def test_a_server_of_its_own_registry_has_nothing_of_the_process(server, told):
    client.Gauge("of_somebody_else", "in the registry of all").set(1)
    server.start()
    assert text_of(told) == ""


def test_starting_and_stopping_twice_is_the_same_as_once(server, told):
    server.start()
    server.start()
    assert len(told) == 1
    server.stop()
    server.stop()


def test_the_gauges_of_all_tags_have_names_of_their_own_that_prometheus_takes():
    names = [gauge_name(tag.name) for tag in TAGS]
    assert len(set(names)) == len(TAGS)
    assert all(re.fullmatch("[a-z][a-z0-9_]*", name) for name in names)
    assert gauge_name("throughput/tokens_per_sec") == "mfu_throughput_tokens_per_sec"
    assert gauge_name("memory/device_share") == "mfu_memory_device_share_ratio"
