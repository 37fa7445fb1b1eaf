"""Imports timm even if torchvision is missing or fails to load, such as a build for CUDA beside a torch for the CPU.

When timm is imported, it needs from torchvision the names of datasets and image transforms, and one class of batch norm
that none of its models use by default. Stand-ins provide these names and are removed afterwards, so that other code
that looks for torchvision still finds none. If torchvision loads, no stand-ins are used.
"""

import sys
from unittest.mock import MagicMock

stand_ins: dict[str, MagicMock] = {}
try:
    import torchvision  # noqa: F401
except (ImportError, RuntimeError):
    names = ("ops", "ops.misc", "transforms", "transforms.functional", "datasets")
    stand_ins = {name: MagicMock() for name in ("torchvision", *(f"torchvision.{name}" for name in names))}

sys.modules.update(stand_ins)
try:
    import timm
finally:
    for name in stand_ins:
        del sys.modules[name]

__all__ = ["timm"]
