"""Under what conditions a result was measured: the command, the versions, the revision of this checkout."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
import time
from contextlib import suppress
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("torch", "lightning", "thop", "transformers", "mfu-callback")


def command() -> str:
    """Returns the command line of this process, as one would type it."""
    return shlex.join(["python", *sys.argv])


def version_of(package: str) -> str | None:
    """Returns the version of an installed package, or None."""
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return None


def revision(root: Path = ROOT) -> str | None:
    """Returns the git revision of a checkout, with a mark if files differ from it; None if there is none.

    Args:
        root: The directory of the checkout.
    """
    run = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(run, capture_output=True, text=True, check=True, timeout=20)
        return done.stdout.strip().replace("-dirty", " with changes")
    return None


def line(device: str) -> str:
    """Returns the conditions as a sentence for below a table.

    Args:
        device: The device's name.
    """
    versions = [f"{name} {version}" for name in PACKAGES if (version := version_of(name)) is not None]
    at = "" if (found := revision()) is None else f" at {found}"
    system = f"Python {platform.python_version()}, {platform.system()}"
    return f"`{command()}` on {device}, {time.strftime('%Y-%m-%d')}; {', '.join(versions)}{at}, {system}."
