"""Applies thop's own rules to real calls, without touching the module."""

from __future__ import annotations

import importlib.metadata
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any

from torch import nn
from torch.utils._python_dispatch import _disable_current_modes

# The modules with a matmul or convolution that thop knows; its other rules count norms, activations and so on.
THOP_TYPES: frozenset[type[nn.Module]] = frozenset(
    {
        *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
        *(nn.RNN, nn.GRU, nn.LSTM, nn.RNNCell, nn.GRUCell, nn.LSTMCell),
    }
)


def has_thop_rule(module: nn.Module) -> bool:
    """Whether thop has any rule for this module's exact type."""
    return type(module) in _thop_rules()


def thop_macs(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> int:
    """The MACs that thop's own rule for this type of module counts.

    thop's rules add to ``module.total_ops``. They receive a stand-in that has the module's attributes and stores the
    sum, so the module itself is never changed.

    Args:
        module: A module whose exact type has a rule in thop.
        inputs: The positional inputs of the call.
        output: What the call returned.

    Raises:
        Exception: Any exception of thop's rule, for a call that it does not understand.
    """
    stand_in = _StandIn(module)
    with _disable_current_modes():  # the rules compute with tensors, which are not the model's and must not be fake
        _thop_rules()[type(module)](stand_in, inputs, output)
        return int(stand_in.total_ops)


class ThopProfile:
    """Computes what `thop.profile` returns for a module, from the calls of one forward pass.

    thop hooks a module once for each of its places in the module tree, and then sums over the places. So a module with
    two parents counts four times. A module with a rule hides its children. This class reproduces all of that.

    Args:
        module: The module that would be profiled.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        places = (part for _, part in module.named_modules(remove_duplicate=False))
        self._places = Counter(id(part) for part in places)
        self._macs: Counter[int] = Counter()

    def add(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        """Add one call of a module."""
        if id(module) in self._places and has_thop_rule(module):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # thop's rules for norms call functions that it deprecates
                macs = thop_macs(module, inputs, output)
            self._macs[id(module)] += self._places[id(module)] * macs

    def macs(self) -> int:
        """The MACs that `thop.profile` would return."""
        return self._of(self._module)

    def _of(self, module: nn.Module) -> int:
        own = self._macs[id(module)]
        return own + sum(self._of_child(child) for _, child in module.named_children())

    def _of_child(self, child: nn.Module) -> int:
        hides_children = has_thop_rule(child) and not isinstance(child, nn.Sequential | nn.ModuleList)
        return self._macs[id(child)] if hides_children else self._of(child)


def conflict_with_thop() -> str | None:
    """A warning about another package that provides the module `thop`, or None if there is none.

    `ultralytics-thop` (AGPL-3.0) installs a module of that name, and overwrites thop's own if both are installed. Its
    rules are not used where they differ from the operators that run. The user must know which of the two licences is in
    force.
    """
    try:
        importlib.metadata.distribution("ultralytics-thop")
    except importlib.metadata.PackageNotFoundError:
        return None
    return (
        "ultralytics-thop (AGPL-3.0) is installed and provides or overwrites the module `thop`. FLOPs are counted with"
        " its rules. To use thop itself, run: pip uninstall ultralytics-thop thop, then pip install thop."
    )


def why_no_thop() -> str | None:
    """Why thop cannot be imported; None if it can."""
    return _imported()[1]


def check_thop(option: str) -> None:
    """Check that thop can be imported, for an option that asks for exactly its figures.

    Args:
        option: The name of the option whose value is "thop-modules".

    Raises:
        ValueError: If it cannot.
    """
    if (why := why_no_thop()) is not None:
        raise ValueError(
            f"{option}='thop-modules' is what thop itself counts, and thop could not be imported ({why}). Install it:"
            f" pip install thop setuptools. Or use {option}='thop', which counts by the rules of mfu-callback then."
        )


def _thop_rules() -> dict[type[nn.Module], Callable[..., None]]:
    """The rules of thop by type of module; none if thop cannot be imported."""
    return _imported()[0]


@cache
def _imported() -> tuple[dict[type[nn.Module], Callable[..., None]], str | None]:
    """The rules of thop, and why there are none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # thop imports distutils
            import thop  # noqa: F401 - fills sys.modules["thop.profile"], which thop.profile (the function) hides
        return sys.modules["thop.profile"].register_hooks, None
    except Exception as error:  # nobody maintains it: what it imports may be missing or raise
        return {}, f"{type(error).__name__}: {error}"


class _StandIn:
    def __init__(self, module: nn.Module) -> None:
        self.total_ops: Any = 0
        self.training = False  # thop switches the model to eval() for its count
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)
