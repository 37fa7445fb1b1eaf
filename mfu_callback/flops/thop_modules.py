"""Decides which part of the count is attributed to thop's rules for modules."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.utils.spectral_norm import SpectralNorm

from mfu_callback.flops.flop_count import FlopCount
from mfu_callback.flops.module_stack import Frame, ModuleStack
from mfu_callback.flops.rules.call import multiplied_dtype
from mfu_callback.flops.rules.thop import THOP_TYPES, ThopProfile, has_thop_rule, thop_macs
from mfu_callback.flops.tally import Tally


class ModuleRules(Protocol):
    """Decides whether the operators in a module are attributed to thop's rules or to their own rules."""

    def operator(self, name: str, modules: ModuleStack) -> None:
        """Record that an operator of the forward was counted.

        Args:
            name: The name of the operator.
            modules: The stack of modules that it ran in.
        """

    def leave(self, frame: Frame, inputs: tuple[Any, ...], output: Any) -> None:
        """Record that a module's call has ended.

        Args:
            frame: The call, and what was counted in it.
            inputs: The positional inputs of the call.
            output: What the call returned; None if it raised or was not part of the forward.
        """

    def result(self, attention: str) -> FlopCount:
        """Return the count so far."""


class OperatorsAlone:
    """Attributes nothing to thop.

    Args:
        tally: The tally that the operators are added to.
    """

    def __init__(self, tally: Tally) -> None:
        self._tally = tally

    def operator(self, name: str, modules: ModuleStack) -> None:
        """Do nothing: the operator is already in the tally."""

    def leave(self, frame: Frame, inputs: tuple[Any, ...], output: Any) -> None:
        """Add the operators of the call that have no rule to the uncounted ones."""
        self._tally.uncounted |= frame.uncounted

    def result(self, attention: str) -> FlopCount:
        """The count of the operators."""
        return self._tally.result(attention=attention)


class ThopWhereItAgrees(OperatorsAlone):
    """Attributes a module's call to thop if thop's rule agrees with its operators, or if these have no rule.

    Args:
        tally: The tally that the operators are added to.
    """

    def leave(self, frame: Frame, inputs: tuple[Any, ...], output: Any) -> None:
        """Attribute the call; if thop gets it, its operators without a rule are not listed as uncounted."""
        flops = None if output is None else self._flops(frame.module, inputs, output)
        if flops is not None and (frame.uncounted or flops == frame.flops or _has_spectral_norm(frame.module)):
            self._tally.file_as_thops(flops, frame, dtype=multiplied_dtype(inputs or (output,)))
        else:
            super().leave(frame, inputs, output)

    @staticmethod
    def _flops(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> int | None:
        if type(module) not in THOP_TYPES:
            return None
        try:
            flops_per_mac = 8 if isinstance(output, torch.Tensor) and output.is_complex() else 2
            return flops_per_mac * thop_macs(module, inputs, output)
        except Exception:  # thop's rule does not understand the call; the count of its operators stays
            return None


class ThopAlone:
    """Counts exactly what `thop.profile` would return, times 2; operators outside thop's modules are uncounted.

    Args:
        module: The module that would be profiled.
        tally: Holds the names of what could not be counted.
    """

    def __init__(self, module: nn.Module, tally: Tally) -> None:
        self._profile = ThopProfile(module)
        self._tally = tally

    def operator(self, name: str, modules: ModuleStack) -> None:
        """List the operator as uncounted if it ran in no module that thop has a rule for."""
        if not modules.any_type(has_thop_rule):
            self._tally.uncounted.add(name)

    def leave(self, frame: Frame, inputs: tuple[Any, ...], output: Any) -> None:
        """Add the call, unless it raised; a call on which thop's rule fails is listed as uncounted."""
        if output is None:
            return
        try:
            self._profile.add(frame.module, inputs, output)
        except Exception as error:  # `thop.profile` would raise; a training step must not
            name = f"{type(frame.module).__name__} {frame.name}".rstrip()
            self._tally.uncounted.add(f"{name} (thop's rule: {type(error).__name__}: {error})")

    def result(self, attention: str) -> FlopCount:
        """The count that thop would give."""
        flops = 2 * self._profile.macs()
        return FlopCount(
            forward=flops,
            thop=flops,
            functional=0,
            attention=attention,
            uncounted=tuple(sorted(self._tally.uncounted)),
            rule_errors=tuple(sorted(self._tally.rule_errors)),
            notes=("thop's rules count no attention, whatever attention= says",) if attention == "causal" else (),
            per_rule={"thop": flops} if flops else {},
        )


def _has_spectral_norm(module: nn.Module) -> bool:
    """Whether a hook normalises the weight by its spectral norm, with matmuls that are not model FLOPs."""
    return any(isinstance(hook, SpectralNorm) for hook in module._forward_pre_hooks.values())
