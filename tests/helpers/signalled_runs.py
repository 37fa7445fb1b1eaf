"""Runs that send their process a signal: `signalled_runs.py with|without DIRECTORY` prints as JSON how each ended."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from mfu_callback import MFUCallback
from tests.helpers.faulty_runs import Validated, run
from tests.helpers.runs import PEAK

PHASES = ("setup", "counted forward", "forward", "backward", "optimizer", "validation", "epoch end")


def signalled(sent: signal.Signals, phase: str) -> type[Validated]:
    """The model, which sends this process a signal in a phase."""

    def send(now: str) -> None:
        if now == phase:
            os.kill(os.getpid(), sent)

    class Signalled(Validated):
        def on_fit_start(self) -> None:
            send("setup")

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            send({0: "counted forward", 4: "forward"}.get(batch_idx, ""))
            return super().training_step(batch, batch_idx)

        def on_after_backward(self) -> None:
            send("backward" if self.global_step == 4 else "")

        def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
            send("optimizer" if self.global_step == 4 else "")

        def validation_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            send("" if self.trainer.sanity_checking else "validation")
            return super().validation_step(batch, batch_idx)

        def on_train_epoch_end(self) -> None:
            send("epoch end")

    return Signalled


def end_of(how: str, sent: signal.Signals, phase: str, left: Any) -> dict[str, Any]:
    """How a run has ended."""
    ours = MFUCallback(peak=PEAK, modules=True, validation=True, warmup_steps=0, summary=None)
    end = run(signalled(sent, phase), [ours] if how == "with" else [], left=left).end
    weights = [parameter.tolist() for parameter in end.weights]
    return {"error": end.error, "steps": end.steps, "weights": weights, "left": repr(end.left)}


def main(how: str, directory: Path) -> None:
    """Run with each signal in each phase, each in a process of its own, which the signal may end."""
    from tests.lightning.test_traces import marks

    ends: dict[str, Any] = {}
    for sent in (signal.SIGINT, signal.SIGTERM):
        for phase in PHASES:
            file = directory / f"{how}.json"
            file.write_text("null")
            child = os.fork()
            if not child:
                file.write_text(json.dumps(end_of(how, sent, phase, marks)))
                os._exit(0)
            ends[f"{sent.name} {phase}"] = [os.waitpid(child, 0)[1], json.loads(file.read_text())]
    print(json.dumps(ends))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
