"""timm, also where torchvision is missing or does not load, as a build for CUDA beside torch's build for the CPU.

Of torchvision timm needs, when it is imported, the names of data sets and image transforms, and one class of batch
norm that none of its models use by default. Stand-ins give it those names and are gone again afterwards, so that
whoever else looks for torchvision still finds none. Where torchvision does load, nothing happens here.
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
