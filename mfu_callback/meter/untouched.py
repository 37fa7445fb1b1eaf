"""Whether a call that has failed left everything as it was, so that it can be made again."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from mfu_callback.tools import accelerators
from mfu_callback.tools.nested import parts_of, tensors_in

_CONTAINERS = (list, dict, set, deque)


class _Seen(NamedTuple):
    """A value, which is kept so that no other takes its address, and what tells whether it was changed in place."""

    value: Any
    state: int | None

    def is_same(self, later: _Seen) -> bool:
        return self.value is later.value and self.state == later.state


class Untouched:
    """What a call may change, as it is before the call: attributes, tensors, gradients, its arguments, random states.

    Nothing else is seen: what lies in files, in globals and deep inside of the user's own objects.

    Args:
        modules: The modules that the call may change.
        logged: What it has logged by name, which are modules too.
        arguments: The arguments of the call.
        device: The device whose random state it may use.
    """

    def __init__(
        self, modules: Iterable[nn.Module], logged: dict[str, Any], arguments: Any, device: torch.device
    ) -> None:
        self._modules = [*modules, *logged.values()]
        self._logged = logged
        self._arguments = arguments
        self._device = device
        self._before = list(self._look())
        self._random = random.getstate(), np.random.get_state(), torch.get_rng_state()
        self._of_device = None if device.type == "cpu" else accelerators.random_state(device)

    def is_still_so(self) -> bool:
        """Whether nothing was changed but random states, and no argument is an iterator, which a call uses up."""
        now = list(self._look())
        return (
            len(now) == len(self._before)
            and all(before.is_same(later) for before, later in zip(self._before, now, strict=True))
            and not _has_iterator(self._arguments)
        )

    def restore_random_states(self) -> None:
        """Set the random states to what they were."""
        python, array, cpu = self._random
        random.setstate(python)
        np.random.set_state(array)
        torch.set_rng_state(cpu)
        if self._of_device is not None:
            accelerators.set_random_state(self._device, self._of_device)

    def _look(self) -> Iterator[_Seen]:
        for module in self._modules:
            for holder in (vars(module), module._parameters, module._buffers, module._modules):
                yield from map(_seen, holder.values())
            yield from (_seen(parameter.grad) for parameter in module._parameters.values() if parameter is not None)
        yield _seen(self._logged)
        yield from map(_seen, tensors_in(self._arguments))


def _seen(value: Any) -> _Seen:
    if isinstance(value, torch.Tensor):
        return _Seen(value, None if value.is_inference() else value._version)
    return _Seen(value, len(value) if isinstance(value, _CONTAINERS) else None)


def _has_iterator(value: Any) -> bool:
    return isinstance(value, Iterator) or any(_has_iterator(part) for _, part in parts_of(value) or ())
