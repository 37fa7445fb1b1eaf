"""Makes Trainers with several values of MFU_CALLBACK: `environment_run.py PACKAGE`; prints what they ended with.

The distribution whose entry points Lightning reads stands on the PYTHONPATH.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from importlib import import_module
from typing import Any

PACKAGE = sys.argv[1]
pl = import_module(PACKAGE)
BoringModel = import_module(f"{PACKAGE}.demos.boring_classes").BoringModel


def trainer(asked: str | None, *callbacks: Any) -> tuple[Any, list[str]]:
    """A Trainer made with this value of the variable, and the warnings of the making."""
    os.environ.pop("MFU_CALLBACK", None)
    if asked is not None:
        os.environ["MFU_CALLBACK"] = asked
    quiet = {
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "logger": False,
    }
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        made = pl.Trainer(accelerator="cpu", max_steps=8, log_every_n_steps=1, callbacks=[*callbacks], **quiet)
    return made, [str(one.message) for one in seen]


def names(made: Any) -> list[str]:
    """The classes of a Trainer's callbacks."""
    return [type(one).__name__ for one in made.callbacks]


def fitted(asked: str | None, *callbacks: Any) -> dict[str, Any]:
    """What a fit ends with."""
    made, seen = trainer(asked, *callbacks)
    before = names(made)
    made.fit(BoringModel())
    after = names(made)
    (callback,) = made.callbacks
    made.fit_loop.epoch_loop.max_steps = 12
    made.fit(BoringModel())  # a second fit of the same Trainer
    summary = callback.summary
    return {
        "warnings": seen,
        "before": before,
        "after": after,
        "steps": summary.steps,
        "peak": summary.peak.flops_per_sec,
        "is_users": callback in callbacks,
        "metrics": sorted(made.callback_metrics),
    }


def main() -> None:
    """Make and train them."""
    off = {str(asked): names(trainer(asked)[0]) for asked in (None, "", "0", "false", "OFF")}
    imported = sorted(name for name in sys.modules if name.partition(".")[0] == "mfu_callback")
    outcome: dict[str, Any] = {"off": off, "imported": imported}
    outcome["on"] = {asked: names(trainer(asked)[0]) for asked in ("1", "true", "ON")}
    outcome["defaults"] = fitted("1")
    outcome["options"] = fitted("peak=3e12, warmup_steps=1")
    outcome["wrong"] = fitted("peak=3e12,sync=windw")
    outcome["unknown"] = trainer("pek=3e12")[1]
    from mfu_callback import MFUCallback

    outcome["own"] = fitted("1", MFUCallback(peak=7e12))
    sys.modules["mfu_callback.lightning.from_environment"] = None  # type: ignore[assignment]  # as if it were broken
    broken, seen = trainer("1")
    broken.fit(BoringModel())
    outcome["broken"] = [names(broken), broken.global_step, *seen]
    print(json.dumps(outcome))


if __name__ == "__main__":
    main()
