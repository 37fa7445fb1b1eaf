"""Messages of a loop that has no log of its own, on the first rank alone."""

from __future__ import annotations

import logging
import sys
import warnings

from mfu_callback.meter.messages import Messages
from mfu_callback.meter.ranks import Ranks


def messages_of(ranks: Ranks, name: str) -> Messages:
    """Messages that go to the logger "mfu_callback", and as warnings.

    Args:
        ranks: The processes of the run.
        name: Who says it.
    """

    def inform(line: str) -> None:
        if ranks.index != 0:
            return
        logger = logging.getLogger("mfu_callback")
        if logger.hasHandlers():
            logger.info(line)
        else:  # logging that nobody has set up shows no information
            print(line, file=sys.stderr)

    def warn(message: str) -> None:
        if ranks.index == 0:
            warnings.warn(message, stacklevel=2)

    return Messages(inform, warn, name=name)
