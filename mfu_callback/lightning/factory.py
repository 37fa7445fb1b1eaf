"""Gives every Trainer an MFUCallback where the environment variable MFU_CALLBACK asks for it.

Lightning calls `callbacks_from_environment` for each Trainer, through the entry points of this package. So this module
imports everything else only where it is asked for.
"""

from __future__ import annotations

import os
from typing import Any

VARIABLE = "MFU_CALLBACK"
_OFF = ("", "0", "false", "no", "off")
_ON = ("1", "true", "yes", "on")


def callbacks_from_environment() -> list[Any]:
    """The callbacks to add to a Trainer: an MFUCallback if ``MFU_CALLBACK`` asks for one, else none.

    ``MFU_CALLBACK=1`` adds it with its defaults, ``MFU_CALLBACK="peak=312e12,sync=window"`` with these arguments. If
    one of them is wrong, a warning names it, and the callback is added with its defaults. A Trainer that has an
    MFUCallback of its own keeps that one alone.
    """
    asked = os.environ.get(VARIABLE, "").strip()
    if asked.lower() in _OFF:
        return []
    from lightning_utilities.core.rank_zero import rank_zero_warn

    try:
        from mfu_callback.lightning.from_environment import callback_of

        options = "" if asked.lower() in _ON else asked
        return [callback_of(options, lambda message: rank_zero_warn(f"{VARIABLE}={message}"))]
    except Exception as error:  # a script that does not know of this package must not end here
        rank_zero_warn(
            f"{VARIABLE} is set, but MFUCallback could not be made ({type(error).__name__}: {error}), so no MFU is"
            f" logged. Repair the installation of mfu-callback, or unset {VARIABLE}."
        )
        return []
