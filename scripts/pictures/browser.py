"""A real TensorBoard and a real headless Chromium, for tests and scripts that look at the rendered pages."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
IS_INSTALLED = CHROMIUM is not None and DRIVER is not None
_PATIENCE_SEC = 60
# These also turn off Chromium's requests to its vendor's servers, which no page here needs.
_QUIET = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--enable-precise-memory-info",
)


@contextmanager
def tensorboard(logdir: Path, *options: str) -> Iterator[str]:
    """Starts TensorBoard on a free port of this machine and yields its address."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", logdir.name, "--port", "0", *options]
    log = logdir.parent / f"{logdir.name}.tensorboard.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=logdir.parent)
        try:
            yield _address(log, process)
        finally:
            process.terminate()
            process.wait(timeout=20)


def _address(log: Path, process: subprocess.Popen[bytes]) -> str:
    for _ in range(_PATIENCE_SEC * 10):
        found = re.search(r"at (http://\S+?)/? ", log.read_text())
        if found:
            return found[1]
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise RuntimeError(f"TensorBoard did not start: {log.read_text()}")


def wait_for_runs(address: str, count: int) -> None:
    """Wait until TensorBoard has loaded this number of runs."""
    for _ in range(_PATIENCE_SEC * 10):
        try:
            with urlopen(f"{address}/data/runs") as answer:
                if answer.read().count(b'"') >= 2 * count:
                    return
        except URLError:
            pass
        time.sleep(0.1)
    raise RuntimeError(f"TensorBoard has not loaded {count} runs")


@contextmanager
def chromium(*options: str, width: int = 1400, height: int = 1600) -> Iterator[Browser]:
    """Starts a browser with an empty profile and yields it."""
    settings = webdriver.ChromeOptions()
    settings.binary_location = CHROMIUM or ""
    for option in (*_QUIET, f"--window-size={width},{height}", *options):
        settings.add_argument(option)
    settings.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=settings, service=webdriver.ChromeService(DRIVER))
    try:
        yield Browser(driver)
    finally:
        driver.quit()


class Browser:
    """The operations that tests and scripts need from a browser."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, address: str) -> None:
        """Go to an address."""
        self.driver.get(address)

    def open_tab(self, address: str) -> None:
        """Open the plugin's tab inside TensorBoard and wait until it is ready."""
        self.driver.get("about:blank")  # an address that differs only in its hash would load nothing
        self.driver.get(f"{address}/#mfu")
        frame = self.until(lambda: self.driver.find_elements(By.CSS_SELECTOR, "iframe"))[0]
        self.driver.switch_to.frame(frame)
        self.until(self.is_ready)

    def is_ready(self) -> bool:
        """Whether the page has shown its data at least once."""
        return self.run("return document.documentElement.dataset.ready === 'true'")

    def run(self, script: str, *arguments: Any) -> Any:
        """Run a script in the page."""
        return self.driver.execute_script(script, *arguments)

    def all(self, selector: str) -> list[Any]:
        """Returns the elements that match a selector."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        """Returns the texts of the elements that match a selector."""
        return self.run("return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)", selector)

    def click(self, selector: str) -> None:
        """Click on the first element that matches a selector."""
        self.all(selector)[0].click()

    def until(self, condition: Any) -> Any:
        """Wait until a condition returns a true value, and return that value."""
        return WebDriverWait(self.driver, _PATIENCE_SEC, poll_frequency=0.1).until(lambda _: condition())

    def errors(self) -> list[str]:
        """Returns the warnings and errors that the console has shown since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]

    def screenshot(self, file: Path) -> None:
        """Write a picture of the window."""
        self.driver.save_screenshot(str(file))
