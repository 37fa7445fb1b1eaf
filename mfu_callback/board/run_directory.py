"""Finds the directory of a run, where ``mfu_summary.json`` goes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from mfu_callback.board.logger_cards import takes_card


def directory_of(loggers: Sequence[Any], default_root: str | None = None) -> Path | None:
    """The directory on this machine that belongs to the run alone, as far as its loggers can tell.

    It is the ``log_dir`` of the first logger that has one, beside what `mfu_callback.report` reads. The other loggers
    write where no file may be added, or to a server; the run then has the directory in which Lightning puts its
    checkpoints: ``save_dir/name/version`` of the first logger.

    Args:
        loggers: The loggers of the run, of Lightning or Fabric, or TensorBoard's SummaryWriter.
        default_root: Where runs lie whose loggers have no directory of their own.

    Returns:
        The directory, which may not exist yet; None without a logger, and where the loggers only have directories on
        other machines.
    """
    beside_logs = (_local(getattr(logger, "log_dir", None)) for logger in loggers)
    beside_checkpoints = (_beside_checkpoints(logger, default_root) for logger in loggers)
    return next((path for path in chain(beside_logs, beside_checkpoints) if path is not None), None)


def name_and_version(logger: Any) -> list[str]:
    """The parts of a run's name that its logger knows, as Lightning writes them in the path of its checkpoints.

    Args:
        logger: A logger of the run.
    """
    name, version = logger.name, logger.version
    parts = [] if name is None else [str(name)]
    if version is not None:
        parts.append(version if isinstance(version, str) else f"version_{version}")
    return parts


def _beside_checkpoints(logger: Any, default_root: str | None) -> Path | None:
    # A logger of a service may have no directory of its own. Of others that have none nothing is known.
    save_dir = getattr(logger, "save_dir", None) or (default_root if takes_card(logger) else None)
    root = _local(save_dir)
    return None if root is None else root.joinpath(*name_and_version(logger))


def _local(directory: object) -> Path | None:
    """The directory as a path; None if it is none, or the address of one on another machine."""
    is_path = isinstance(directory, str | os.PathLike) and "://" not in str(directory)
    return Path(directory) if is_path else None  # type: ignore[arg-type]
