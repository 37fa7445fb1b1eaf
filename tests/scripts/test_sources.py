import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mfu_callback.peaks.tables.device import Architecture, Device
from mfu_callback.peaks.tables.devices import DEVICES
from scripts.checks.sources import complaint, main, urls_of


class Vendor(BaseHTTPRequestHandler):
    """Has one datasheet, one that moved there, and no other."""

    def do_GET(self):
        status = {"/sheet": 200, "/moved": 302}.get(self.path, 404)
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/sheet")
        self.end_headers()
        self.wfile.write(b"312 TFLOPS")

    def log_message(self, *_):
        pass


@pytest.fixture
def vendor():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Vendor)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def device(name, source, architecture=None):
    return Device(name=name, reported=(name,), source=source, dense={"float16": 1}, architecture=architecture)


def test_a_source_that_answers_and_one_that_does_not(vendor):
    assert complaint(f"{vendor}/sheet", timeout_sec=5) is None
    assert complaint(f"{vendor}/moved", timeout_sec=5) is None
    assert complaint(f"{vendor}/gone", timeout_sec=5) == "HTTP 404"
    assert "refused" in complaint("http://127.0.0.1:9/sheet", timeout_sec=5)
    assert complaint("no url", timeout_sec=5).startswith("ValueError")


def test_the_command_names_what_a_dead_source_is_the_source_of(vendor, capsys):
    chip = Architecture(name="chip", flops_per_clock={"float16": 1}, source=f"{vendor}/sheet")
    assert main([], [device("A", f"{vendor}/sheet", chip)]) == 0
    assert "1 of 1 sources answer" in capsys.readouterr().out
    assert main([], [device("A", f"{vendor}/sheet"), device("B", f"{vendor}/gone"), device("C", f"{vendor}/gone")]) == 1
    out = capsys.readouterr().out
    assert "1 of 2 sources answer" in out
    assert "HTTP 404" in out
    assert "B, C" in out


def test_every_source_of_the_table_is_asked_once():
    urls = urls_of(DEVICES)
    assert {device.source for device in DEVICES} <= set(urls)
    assert sum(device.name in names for device in DEVICES for names in urls.values()) == len(DEVICES)
