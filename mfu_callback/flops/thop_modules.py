"""What runs in modules whose rule thop has, and which part of the count is thop's."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.utils._python_dispatch import _disable_current_modes

from mfu_callback.flops.flop_count import FlopCount
from mfu_callback.flops.module_stack import Frame, ModuleStack
from mfu_callback.flops.rules.thop import THOP_TYPES, ThopProfile, has_thop_rule, thop_macs
from mfu_callback.flops.tally import Tally


class ModuleRules(Protocol):
    """Decides what the operators in modules are filed under: thop's rules, or their own."""

    def operator(self, name: str, modules: ModuleStack) -> None:
        """An operator of the forward was counted.

        Args:
            name: The operator's.
            modules: Those that it ran in.
        """

    def leave(self, frame: Frame, inputs: tuple[Any, ...], output: Any, *, is_replay: bool) -> None:
        """A module's call is over.

        Args:
            frame: The call, and what was counted in it.
            inputs: Its positional inputs.
            output: What it returned; None if it raised, or is no part of the forward.
            is_replay: Whether it ran on fake tensors.
        """

    def result(self, attention: str) -> FlopCount:
        """The count so far."""


class OperatorsAlone:
    """Files nothing as thop's.

    Args:
        tally: What the operators are added to.
    """

    def __init__(self, tally: Tally) -> None:
        self._tally = tally

    def operator(self, name: str, modules: ModuleStack) -> None:
        """Nothing to do: it is in the tally."""

    def leave(self, frame: Frame, inputs: tuple[Any, ...], output: Any, *, is_replay: bool) -> None:
        """Operators that had no rule stay named."""
        self._tally.uncounted |= frame.uncounted

    def result(self, attention: str) -> FlopCount:
        """The operators' count."""
        return self._tally.result(attention=attention)


class ThopWhereItAgrees(OperatorsAlone):
    """Files a call as thop's where thop's rule says what its operators do, or where these have no rule.

    Args:
        tally: What the operators are added to.
    """

    def leave(self, frame: Frame, inputs: tuple[Any, ...], output: Any, *, is_replay: bool) -> None:
        """File the call; where it is thop's, operators without a rule are not named."""
        flops = None if output is None else self._flops(frame.module, inputs, output, is_replay)
        if flops is not None and (frame.uncounted or flops == frame.flops or _has_spectral_norm(frame.module)):
            self._tally.file_as_thops(flops, instead_of=frame.flops, module=frame.name)
        else:
            super().leave(frame, inputs, output, is_replay=is_replay)

    @staticmethod
    def _flops(module: nn.Module, inputs: tuple[Any, ...], output: Any, is_replay: bool) -> int | None:
        if type(module) not in THOP_TYPES:
            return None
        try:
            flops_per_mac = 8 if isinstance(output, torch.Tensor) and output.is_complex() else 2
            # thop's rules compute with tensors of their own.
            with _disable_current_modes() if is_replay else nullcontext():
                return flops_per_mac * thop_macs(module, inputs, output)
        except Exception:  # thop's rule does not understand the call; the operators count
            return None


class ThopAlone:
    """Counts exactly what `thop.profile` would return, times 2; operators outside of its modules are named.

    Args:
        module: The module that would be profiled.
        tally: Has the names of what could not be counted.
    """

    def __init__(self, module: nn.Module, tally: Tally) -> None:
        self._profile = ThopProfile(module)
        self._tally = tally

    def operator(self, name: str, modules: ModuleStack) -> None:
        """Name it, if thop counts none of the modules that it ran in."""
        if not modules.any_type(has_thop_rule):
            self._tally.uncounted.add(name)

    def leave(self, frame: Frame, inputs: tuple[Any, ...], output: Any, *, is_replay: bool) -> None:
        """Add the call, unless it raised; a call that thop's rule does not understand is named."""
        if output is None:
            return
        try:
            self._profile.add(frame.module, inputs, output)
        except Exception as error:  # `thop.profile` would raise; a training step must not
            name = f"{type(frame.module).__name__} {frame.name}".rstrip()
            self._tally.uncounted.add(f"{name} (thop's rule: {type(error).__name__}: {error})")

    def result(self, attention: str) -> FlopCount:
        """What thop would count."""
        flops = 2 * self._profile.macs()
        return FlopCount(
            forward=flops,
            thop=flops,
            functional=0,
            uncounted=tuple(sorted(self._tally.uncounted)),
            rule_errors=tuple(sorted(self._tally.rule_errors)),
        )


def _has_spectral_norm(module: nn.Module) -> bool:
    """Whether a hook divides the weight by its spectral norm first, by matmuls that are not the model's own."""
    return any(isinstance(hook, SpectralNorm) for hook in module._forward_pre_hooks.values())
