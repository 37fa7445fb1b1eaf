"""Draws the README's pictures: trains a small GPT in several ways and saves screenshots of TensorBoard.

TensorBoard is shown in headless Chromium.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from gpt import GPTConfig, GPTModule, RandomTokens
from mfu_callback import BatchSizeFinder, MFUCallback
from scripts.pictures.browser import IS_INSTALLED, Browser, chromium, tensorboard, wait_for_runs

_COLORS = 256
PICTURES = Path(__file__).parent
_CONFIG = GPTConfig(n_layer=4, n_head=8, n_embd=256, vocab_size=8192, context_length=128)
_TWO_DEVICES = "two devices, one waits"
_SET_THEME = "localStorage.setItem('_tb_global_settings', JSON.stringify({theme: arguments[0]}))"  # TensorBoard's key


def main() -> int:
    """Draw the pictures and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60, help="optimizer steps of each run (default: %(default)s)")
    steps = parser.parse_args().steps
    if not IS_INSTALLED:
        print("scripts/pictures/draw.py needs chromium and its driver: apt-get install chromium chromium-driver")
        return 2
    warnings.filterwarnings("ignore")
    PICTURES.mkdir(exist_ok=True)
    with TemporaryDirectory() as directory:
        logdir = Path(directory) / "logs"
        train_all(logdir, steps)
        with tensorboard(logdir) as address:
            wait_for_runs(address, 5)
            picture_of_the_tab(address, "tab.png", run=_TWO_DEVICES, is_dark=False)
            picture_of_the_tab(address, "tab_dark.png", run="found batch", is_dark=True)
            picture_of_the_dashboard(address)
    return 0


def train_all(logdir: Path, steps: int) -> None:
    """Train the runs that the pictures show."""
    train(logdir, "batch 2, fp32", steps, batch_size=2)
    train(logdir, "batch 2, bf16", steps, batch_size=2, precision="bf16-true")
    train(logdir, "waits for data", steps, batch_size=8, wait_sec=0.02)
    train(logdir, "found batch", steps, batch_size=2, finds=True)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    command = [sys.executable, *launcher, "scripts.pictures.two_devices", str(logdir), _TWO_DEVICES, str(steps)]
    subprocess.run(command, check=True, cwd=PICTURES.parents[1], env=os.environ | {"OMP_NUM_THREADS": "1"})


def train(
    logdir: Path,
    name: str,
    steps: int,
    *,
    batch_size: int,
    precision: Any = "32-true",  # fast on every CPU
    wait_sec: float = 0.0,
    finds: bool = False,
    devices: int = 1,
) -> None:
    """Train one run; on several devices, this process's part of it."""
    seed_everything(0, verbose=False)
    finder = [BatchSizeFinder(budget=2**30, objective="throughput", max_size=32)] if finds else []
    trainer = Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        precision=precision,
        max_steps=steps,
        log_every_n_steps=2,
        logger=TensorBoardLogger(logdir, name="", version=name),
        callbacks=[*finder, MFUCallback(operators=finds)],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = RandomTokens(
        batch_size=batch_size, context_length=_CONFIG.context_length, vocab_size=_CONFIG.vocab_size, length=2**20
    )
    module = GPTModule(_CONFIG)
    if wait_sec:
        data.setup("fit")
        loader = DataLoader(Slow(data.train_dataloader().dataset, wait_sec), batch_size=batch_size)
        trainer.fit(module, loader)
    else:
        trainer.fit(module, datamodule=data)


class Slow(Dataset[torch.Tensor]):
    """A dataset that waits before it returns a sample.

    Args:
        dataset: The dataset that has the samples.
        wait_sec: Seconds to wait before each sample.
    """

    def __init__(self, dataset: Any, wait_sec: float) -> None:
        self._dataset = dataset
        self._wait_sec = wait_sec

    def __len__(self) -> int:
        """Returns the number of samples."""
        return len(self._dataset)

    def __getitem__(self, index: int) -> torch.Tensor:
        """Wait, then return a sample."""
        time.sleep(self._wait_sec)
        return self._dataset[index]


def picture_of_the_tab(address: str, name: str, *, run: str, is_dark: bool) -> None:
    """Save a picture of the tab with a run selected: its upper part, or in the dark theme its lower part."""
    with chromium(width=1280, height=1560 if is_dark else 2400) as browser:
        browser.open(address)
        browser.run(_SET_THEME, "dark" if is_dark else "light")
        browser.open_tab(address)
        browser.run("document.querySelector(`[data-focus='select ${arguments[0]}']`).click()", run)
        settle(browser)
        if is_dark:
            browser.run("window.scrollTo(0, document.body.scrollHeight)")
        save(browser, name)


def picture_of_the_dashboard(address: str) -> None:
    """Save a picture of the custom scalars tab."""
    with chromium(width=1280, height=1100) as browser:
        browser.open(f"{address}/#custom_scalars")
        settle(browser)
        save(browser, "dashboard.png")


def settle(browser: Browser) -> None:
    """Wait until the page has stopped changing."""
    time.sleep(5)


def save(browser: Browser, name: str) -> None:
    """Save a picture of the window at three quarters of its size."""
    file = PICTURES / name
    browser.screenshot(file)
    with Image.open(file) as picture:
        size = (picture.width * 3 // 4, picture.height * 3 // 4)
        smaller = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
        smaller.quantize(_COLORS, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(file, optimize=True)


if __name__ == "__main__":
    sys.exit(main())
