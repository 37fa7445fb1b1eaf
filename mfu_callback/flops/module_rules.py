"""How many multiply-accumulates a module's forward takes: thop's rules, and ours where thop's are wrong."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

from torch import nn

ModuleRule = Callable[[nn.Module, tuple[Any, ...], Any], int]


def thop_macs(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> int:
    """The MACs that thop's own rule for this type of module counts.

    thop's rules add to ``module.total_ops``. They are handed a stand-in that has the module's attributes and takes
    that sum, so that the module itself is never touched.

    Args:
        module: A module whose exact type has a rule in thop.
        inputs: The positional inputs of the call.
        output: What the call returned.
    """
    if not isinstance(module, nn.Linear) and inputs[0].dim() != module.weight.dim():  # type: ignore[operator]
        return int(output.numel() * module.weight[0].numel())  # type: ignore[index]
    stand_in = _StandIn(module)
    _thop_rules()[type(module)](stand_in, inputs, output)
    return int(stand_in.total_ops)


@cache
def _thop_rules() -> dict[type[nn.Module], Callable[..., None]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # thop imports distutils
        import thop  # noqa: F401 - fills sys.modules["thop.profile"], which thop's function of that name hides

    rules: dict[type[nn.Module], Callable[..., None]] = sys.modules["thop.profile"].register_hooks
    return rules


class _StandIn:
    def __init__(self, module: nn.Module) -> None:
        self.total_ops: Any = 0
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def transposed_convolution_macs(module: Any, inputs: tuple[Any, ...], output: Any) -> int:
    """Each input element meets every kernel element of its group's output channels once."""
    return int(inputs[0].numel() * module.weight[0].numel())


def recurrent_macs(module: Any, inputs: tuple[Any, ...], output: Any) -> int:
    """Each real time step multiplies every weight matrix once; padding of packed sequences is not a time step.

    The weight matrices hold the 4 gates of an LSTM, the 3 of a GRU or the one of an RNN, the input and hidden part
    of every layer and direction, and an LSTM's projection.
    """
    sequence = inputs[0]
    elements = sequence.data if hasattr(sequence, "batch_sizes") else sequence
    steps: int = elements.numel() // module.input_size
    matrices = [weight for weight in module.parameters(recurse=False) if weight.dim() == 2]
    macs: int = steps * sum(matrix.numel() for matrix in matrices)
    return macs


THOP_TYPES: frozenset[type[nn.Module]] = frozenset({nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d})

OWN_RULES: dict[type[nn.Module], ModuleRule] = {
    nn.ConvTranspose1d: transposed_convolution_macs,
    nn.ConvTranspose2d: transposed_convolution_macs,
    nn.ConvTranspose3d: transposed_convolution_macs,
    nn.RNN: recurrent_macs,
    nn.GRU: recurrent_macs,
    nn.LSTM: recurrent_macs,
}


def has_rule(module: nn.Module) -> bool:
    """Whether a rule fits this module: its exact type is in a table and no one has replaced its forward."""
    return "forward" not in vars(module) and (type(module) in THOP_TYPES or type(module) in OWN_RULES)
