"""Check that every source URL in the device table still answers.

    python scripts/checks/sources.py

Exits with 1 if one does not. A vendor's server may refuse a script but answer a browser: open the URLs that are named
here in a browser before you change a row.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from rich.console import Console
from rich.progress import track
from rich.table import Table

from mfu_callback.peaks.tables.device import Device
from mfu_callback.peaks.tables.devices import DEVICES

_AT_ONCE = 8
_AGENT = "Mozilla/5.0 (compatible; mfu-callback source check)"


def urls_of(devices: Iterable[Device]) -> dict[str, list[str]]:
    """Returns every source URL, with the names of the devices and architectures that cite it."""
    urls: dict[str, list[str]] = {}
    for device in devices:
        urls.setdefault(device.source, []).append(device.name)
        if device.architecture is not None:
            names = urls.setdefault(device.architecture.source, [])
            if device.architecture.name not in names:
                names.append(device.architecture.name)
    return urls


def complaint(url: str, *, timeout_sec: float) -> str | None:
    """Returns what is wrong with a URL, or None if it answers."""
    try:
        with urlopen(Request(url, headers={"User-Agent": _AGENT}), timeout=timeout_sec) as answer:
            answer.read(1)
    except HTTPError as error:
        return f"HTTP {error.code}"
    except (OSError, HTTPException, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def main(arguments: Sequence[str] | None = None, devices: Sequence[Device] = DEVICES) -> int:
    """Run the command; returns 1 if a source does not answer, else 0."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--timeout", type=float, default=20, metavar="SECONDS", help="time limit of one URL (default: %(default)s)"
    )
    timeout_sec = parser.parse_args(arguments).timeout
    urls = urls_of(devices)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        answers = pool.map(lambda url: complaint(url, timeout_sec=timeout_sec), urls)
        progress = track(answers, total=len(urls), description="asking", console=Console(stderr=True))
        wrong = {url: answer for url, answer in zip(urls, progress, strict=True) if answer is not None}
    if wrong:
        table = Table("source", "answer", "is the source of")
        for url, answer in wrong.items():
            table.add_row(url, answer, ", ".join(urls[url]))
        Console(width=None if sys.stdout.isatty() else 200).print(table)
    print(f"{len(urls) - len(wrong)} of {len(urls)} sources answer")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
