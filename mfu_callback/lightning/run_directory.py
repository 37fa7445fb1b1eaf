"""Finds the directory of a run, where ``mfu_summary.json`` goes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer


def run_directory(trainer: Trainer) -> Path | None:
    """The directory on this machine that belongs to the run alone, as far as its loggers can tell.

    It is the ``log_dir`` of the first logger that has one, beside what `mfu_callback.report` reads. The other loggers
    write where no file may be added, or to a server; the run then has the directory in which Lightning puts its
    checkpoints: ``save_dir/name/version`` of the first logger.

    Args:
        trainer: A Trainer that fits.

    Returns:
        The directory, which may not exist yet; None without a logger, in a ``fast_dev_run``, whose loggers write
        nothing, and where the loggers only have directories on other machines.
    """
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        return None
    directories = [_local(getattr(logger, "log_dir", None)) for logger in trainer.loggers]
    directories += [_beside_checkpoints(logger, trainer.default_root_dir) for logger in trainer.loggers]
    return next((directory for directory in directories if directory is not None), None)


def _beside_checkpoints(logger: Any, default_root: str) -> Path | None:
    name, version = logger.name, logger.version
    if logger.save_dir is None and version is None:  # tells neither where it writes nor which run this is
        return None
    root = _local(logger.save_dir or default_root)
    parts = [] if name is None else [str(name)]
    if version is not None:
        parts.append(version if isinstance(version, str) else f"version_{version}")
    return None if root is None else root.joinpath(*parts)


def _local(directory: object) -> Path | None:
    """The directory as a path; None if it is none, or the address of one on another machine."""
    is_path = isinstance(directory, str | os.PathLike) and "://" not in str(directory)
    return Path(directory) if is_path else None  # type: ignore[arg-type]
