"""The two packages that Lightning comes as, each with classes of its own: `lightning.pytorch` and `pytorch_lightning`.

Only a package that is imported already is used. If there is none, the first that is installed is imported.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeGuard

# Their logger is that of the package that was imported last, as for Lightning's own messages.
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn

if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule
    from lightning.pytorch.utilities.exceptions import MisconfigurationException

__all__ = [
    "Callback",
    "MisconfigurationException",
    "classes",
    "distribution_of",
    "is_lightning_module",
    "of",
    "rank_zero_info",
    "rank_zero_warn",
]

# By the name of the package, that of what pip installs.
_DISTRIBUTIONS = {"lightning.pytorch": "lightning", "pytorch_lightning": "pytorch-lightning"}


def classes(module: str, name: str) -> tuple[Any, ...]:
    """The class of a name in each package that is imported, for ``isinstance``.

    Args:
        module: The module below the package, such as "loggers".
        name: The name of the class.
    """
    return tuple(getattr(import_module(f"{package}.{module}"), name) for package in _imported())


def of(owner: object, module: str, name: str) -> Any:
    """The object of a name in the package of a Trainer, a LightningModule or another object of Lightning's.

    Args:
        owner: The object; one of a class that derives from neither package's is taken for one of the first.
        module: The module below the package, such as "loggers".
        name: The name of the object.
    """
    return getattr(import_module(f"{_package_of(owner)}.{module}"), name)


def distribution_of(owner: object) -> str:
    """What pip installs the package of a Trainer by: "lightning" or "pytorch-lightning"."""
    return _DISTRIBUTIONS[_package_of(owner)]


def is_lightning_module(module: object) -> TypeGuard[LightningModule]:
    """Whether a module is a LightningModule of either package."""
    return isinstance(module, classes("core", "LightningModule"))


def _imported() -> list[str]:
    return [package for package in _DISTRIBUTIONS if package in sys.modules]


def _package_of(owner: object) -> str:
    modules = [f"{kind.__module__}." for kind in type(owner).__mro__]
    packages = _imported()
    named = (package for module in modules for package in packages if module.startswith(f"{package}."))
    return next(named, packages[0])


def _import_one() -> None:
    for package in _DISTRIBUTIONS:
        try:
            import_module(package)
            return
        except ModuleNotFoundError as error:
            if error.name not in (package, package.partition(".")[0]):  # it is there, and lacks something itself
                raise
    raise ModuleNotFoundError("mfu_callback needs Lightning, which is not installed. pip install lightning")


if not TYPE_CHECKING:
    if not _imported():
        _import_one()

    class Callback(*classes("callbacks", "Callback")):
        """The base of callbacks that the Trainers and the CLIs of all imported packages take for their own."""

        def __init__(self) -> None:
            _join_imported()
            super().__init__()

    class MisconfigurationException(*classes("utilities.exceptions", "MisconfigurationException")):
        """An error that is caught by the exception of this name of any imported package."""


def _join_imported() -> None:
    """Have both classes derive from those of a package that was imported after them."""
    if len(Callback.__bases__) < len(_imported()):
        Callback.__bases__ = classes("callbacks", "Callback")
        MisconfigurationException.__bases__ = classes("utilities.exceptions", "MisconfigurationException")
