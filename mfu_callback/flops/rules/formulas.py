"""FLOP formulas that come from elsewhere: the user's, and those in torch's own registry.

Libraries (NATTEN, fla, Liger and others) put formulas for their kernels into `torch.utils.flop_counter.flop_registry`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrizations import _Orthogonal, _SpectralNorm
from torch.utils.flop_counter import flop_registry

from mfu_callback.flops.rules.call import UncountableError
from mfu_callback.tools.options import Option, checked, one_of

Function = Callable[..., int]

OWN_SOURCE = "mfu-callback"
REGISTERED_SOURCE = "register_flop_formula"
TORCH_SOURCE = "torch.utils.flop_counter"
_IMPLICIT = torch._C.DispatchKey.CompositeImplicitAutograd


@dataclass(frozen=True, slots=True)
class Formula:
    """The FLOPs of one call, as functions of its arguments.

    Attributes:
        source: Who gives it: "register_flop_formula", "torch.utils.flop_counter", or "mfu-callback".
        forward: Called with the arguments of the call.
        backward: The same for the gradients; None if they are counted by the operators that compute them.
    """

    source: str
    forward: Function
    backward: Function | None = None

    def flops(self, args: Iterable[Any], kwargs: dict[str, Any], out: Any) -> int:
        """FLOPs of the call itself.

        Raises:
            UncountableError: If the formula raises, or returns something else than a number of FLOPs.
        """
        return self._value(self.forward, args, kwargs, out)

    def backward_flops(self, args: Iterable[Any], kwargs: dict[str, Any], out: Any) -> int | None:
        """FLOPs of its gradients; None if the formula does not give them.

        Raises:
            UncountableError: If the formula raises, or returns something else than a number of FLOPs.
        """
        return None if self.backward is None else self._value(self.backward, args, kwargs, out)

    def _value(self, function: Function, args: Iterable[Any], kwargs: dict[str, Any], out: Any) -> int:
        if self.source == TORCH_SOURCE:
            kwargs = kwargs | {"out_val": out}  # torch passes it to every formula
        elif _wants_out(function, args, kwargs):
            kwargs = kwargs | {"out": out}
        try:
            flops = int(function(*args, **kwargs))
        except Exception as error:
            raise UncountableError(f"its formula in {self.source}: {type(error).__name__}: {error}") from error
        if flops < 0:
            raise UncountableError(f"its formula in {self.source} returned {flops}")
        return flops


_RULE = "cannot be called. Give a function of the call's arguments"
_OPTIONS = {
    "forward": Option(f"{_RULE}.", callable, error=TypeError),
    "backward": Option(f"{_RULE}, or None.", one_of(None), callable, error=TypeError),
}


class RegisteredFormula:
    """A registration, which `remove` ends.

    Args:
        target: What the formula was registered for.
        formula: The formula.
    """

    def __init__(self, target: Any, formula: Formula) -> None:
        self._target = target
        self._formula = formula

    def remove(self) -> None:
        """Remove the formula, unless another one has taken its place."""
        if _REGISTERED.get(self._target) is self._formula:
            del _REGISTERED[self._target]


_REGISTERED: dict[Any, Formula] = {}
# Parametrizations that compute a weight with matmuls, which are not the model's.
_NOTHING = Formula(OWN_SOURCE, lambda *args: 0, lambda *args: 0)
_OF_CLASSES: dict[type, Formula] = {_SpectralNorm: _NOTHING, _Orthogonal: _NOTHING}


def register_flop_formula(target: Any, *, forward: Function, backward: Function | None = None) -> RegisteredFormula:
    """Tell how many FLOPs a call has, for work that has no rule or whose rule is not wanted.

    A formula takes the arguments of the call (tensors, numbers, ...) and returns model FLOPs: 2 for each
    multiply-accumulate. An operator's formula takes all arguments of its schema, also those that equal their defaults.
    If a formula has a parameter named ``out``, it also receives what the call returned. It may run on
    tensors without values (meta device, compiled code), so it should read shapes alone. The last registration for a
    target counts.

    Args:
        target: One of these:

            * an operator: ``torch.ops.mylib.attention``, one overload, or what ``torch.library.custom_op`` gives;
            * a subclass of ``torch.autograd.Function``; the formulas take the arguments of ``apply``;
            * a subclass of ``nn.Module``; the formulas take the module and the arguments of its call. The nearest
              registered class of a module's bases counts;
            * a Triton kernel; the formulas take its arguments, and ``grid`` if they have such a parameter.
        forward: FLOPs of the call. They replace those of all operators that run inside a module or Function.
        backward: FLOPs of its gradients. They replace those of all operators that run in its backward. Without it,
            these operators are counted by their own rules. A Triton kernel has no backward of its own.

    Returns:
        A handle whose ``remove()`` ends the registration.

    Raises:
        TypeError: If the target is none of these, or a formula cannot be called.
        ValueError: If the operator never reaches a counter, because torch always runs it as other operators, or if a
            Triton kernel is given a ``backward``.

    Example:
        >>> class Doubled(nn.Linear):
        ...     pass
        >>> handle = register_flop_formula(Doubled, forward=lambda module, x: 2 * x.numel() * module.out_features)
        >>> handle.remove()
    """
    checked(_OPTIONS, {"forward": forward, "backward": backward})
    key = _key(target)
    if is_triton_kernel(key) and backward is not None:
        raise ValueError(
            f"backward={backward!r} cannot be used. A Triton kernel has no backward. Register the kernel that computes"
            " the gradients itself."
        )
    formula = _REGISTERED[key] = Formula(REGISTERED_SOURCE, forward, backward)
    return RegisteredFormula(key, formula)


def formula_of_operator(func: Any) -> Formula | None:
    """The formula that was registered for an operator's overload or for all of its overloads."""
    if not _REGISTERED:
        return None
    return _REGISTERED.get(func) or _REGISTERED.get(getattr(func, "overloadpacket", None))


def formula_of_class(kind: type) -> Formula | None:
    """The formula that was registered for a class or the nearest of its bases."""
    if not _REGISTERED:
        return _OF_CLASSES.get(kind)
    found = next((_REGISTERED[base] for base in kind.__mro__ if base in _REGISTERED), None)
    return found or _OF_CLASSES.get(kind)


def formula_of_kernel(kernel: Any) -> Formula | None:
    """The formula of a Triton kernel: the registered one, or that of torch's registry."""
    kernel = unwrapped(kernel)
    return _REGISTERED.get(kernel) or _of_torch(kernel)


def formula_of_torch(func: Any) -> Formula | None:
    """The formula for an operator in torch's registry."""
    return _of_torch(getattr(func, "overloadpacket", func))


def is_triton_kernel(target: Any) -> bool:
    """Whether this is a kernel of Triton: one of its classes that launch a kernel."""
    return type(target).__module__.startswith("triton.") and callable(getattr(target, "run", None))


def kernel_name(kernel: Any) -> str:
    """The name of a Triton kernel's function."""
    function = getattr(unwrapped(kernel), "fn", None)
    return str(getattr(function, "__name__", type(kernel).__name__))


def kernel_arguments(
    kernel: Any, args: tuple[Any, ...], kwargs: dict[str, Any], formula: Formula
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a launch as a formula takes them: without options of the launch such as ``num_warps``.

    A formula in torch's registry takes those of the operator that launches kernels in compiled code.
    """
    names = getattr(unwrapped(kernel), "arg_names", ())
    grid = {"grid": kwargs["grid"]} if "grid" in kwargs else {}
    named = {name: value for name, value in kwargs.items() if name in names}
    if formula.source == REGISTERED_SOURCE:
        return args, named | (grid if _takes(formula.forward, "grid") else {})
    options: dict[str, Any] = {"kernel_idx": None, "constant_args_idx": None, "tma_descriptor_metadata": {}}
    return (), options | grid | {"kwargs": dict(zip(names, args, strict=False)) | named}


def unwrapped(kernel: Any) -> Any:
    """The kernel inside Triton's autotuners and heuristics."""
    while is_triton_kernel(getattr(kernel, "fn", None)):
        kernel = kernel.fn
    return kernel


def _of_torch(target: Any) -> Formula | None:
    formula = flop_registry.get(target)
    return None if formula is None else Formula(TORCH_SOURCE, formula)


def _key(target: Any) -> Any:
    target = getattr(target, "_opoverload", target)  # of torch.library.custom_op
    if isinstance(target, type) and issubclass(target, nn.Module | torch.autograd.Function):
        return target
    if isinstance(target, torch._ops.OpOverload | torch._ops.OpOverloadPacket):
        overloads = [target] if isinstance(target, torch._ops.OpOverload) else _overloads(target)
        if all(one.has_kernel_for_dispatch_key(_IMPLICIT) for one in overloads):
            raise ValueError(
                f"target={target} runs as other operators, which are counted by their own rules. Register a formula"
                " for these, or for the module that calls it."
            )
        return target
    if isinstance(target, torch._ops.HigherOrderOperator):
        return target
    if is_triton_kernel(target):
        return unwrapped(target)
    raise TypeError(
        f"target={target!r} cannot have a FLOP formula. Give an operator (torch.ops.mylib.attention), a subclass of"
        " torch.autograd.Function or of nn.Module, or a Triton kernel."
    )


def _overloads(packet: Any) -> list[Any]:
    return [getattr(packet, name) for name in packet.overloads()]


def _takes(function: Function, name: str) -> bool:
    """Whether a formula has a parameter of this name, or takes any keywords."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # some builtins have no signature
        return False
    return name in parameters or any(one.kind is one.VAR_KEYWORD for one in parameters.values())


def _wants_out(function: Function, args: Iterable[Any], kwargs: dict[str, Any]) -> bool:
    """Whether a formula has a parameter ``out`` that the arguments of the call do not fill already."""
    try:
        signature = inspect.signature(function)
        return "out" in signature.parameters and "out" not in signature.bind_partial(*args, **kwargs).arguments
    except (TypeError, ValueError):  # some builtins have no signature, and the arguments may not fit
        return False
