"""Work under tensor parallelism: an operator may see a whole tensor of the group, or one device's shard.

A ``DTensor`` has the shape of the whole tensor, so an operator on it counts the work of all devices of the group.
Between two such operators, in attention for example, models compute with plain tensors. A plain tensor holds a shard
(the heads of one device) or a copy of the whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from mfu_callback.flops.passes import Pass, next_node_number
from mfu_callback.tools.nested import tensors_in

# The mesh dimension over which the work is split, as Lightning's ModelParallelStrategy names it.
MESH_DIMENSION = "tensor_parallel"


def group_size(module: nn.Module) -> int:
    """Number of devices of the tensor-parallel group that a model's parameters are sharded over; 1 without one."""
    for parameter in module.parameters():
        mesh = getattr(parameter, "device_mesh", None)  # a DTensor's
        if MESH_DIMENSION in (getattr(mesh, "mesh_dim_names", None) or ()):
            return int(mesh[MESH_DIMENSION].size())  # type: ignore[index]
    return 1


class Shards:
    """Finds how many devices of the group do the work of an operator, each on a different shard.

    Plain tensors are shards in a module if its parameters, or those of its submodules, are sharded over the group.
    They are also shards in the backward of such work, which is recognised by the sequence numbers of its autograd
    nodes.

    Args:
        devices: Number of devices of a tensor-parallel group.
    """

    def __init__(self, devices: int) -> None:
        self._devices = devices
        self._nodes: set[int] = set()

    def times(self, args: tuple[Any, ...], module: nn.Module | None, running: Pass) -> int:
        """Number of devices that do this work, each on its own shard; 1 if the operator sees whole tensors.

        Args:
            args: Arguments of the operator.
            module: The innermost module that is running, if one is known.
            running: The pass that it runs in.
        """
        if self._devices == 1 or any(_is_dtensor(tensor) for tensor in tensors_in(args)):
            return 1
        if running is Pass.BACKWARD:
            node = torch._C._current_autograd_node()
            return self._devices if node is not None and node._sequence_nr() in self._nodes else 1
        if module is None or not _is_sharded(module.parameters()):
            return 1
        self._nodes.add(next_node_number() - 1)  # the node of this operator, which exists already
        return self._devices


def _is_sharded(parameters: Iterable[nn.Parameter]) -> bool:
    return any(_is_dtensor(parameter) and _is_shard(parameter) for parameter in parameters)


def _is_dtensor(tensor: torch.Tensor) -> bool:
    return hasattr(tensor, "device_mesh")  # not every build of torch has the class DTensor


def _is_shard(tensor: Any) -> bool:
    names = tensor.device_mesh.mesh_dim_names or ()
    placements = zip(names, tensor.placements, strict=False)
    return any(name == MESH_DIMENSION and placement.is_shard() for name, placement in placements)
