"""The classes of sharded tensors and modules, by the names that they have in this torch."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch

# The newest name first: they have moved, and some builds of torch have none.
_TENSORS = ("torch.distributed.tensor", "torch.distributed._tensor")
_MODULES = ("torch.distributed.fsdp", "torch.distributed._composable.fsdp")


def _named(name: str, homes: tuple[str, ...]) -> tuple[type, ...]:
    for home in homes if torch.distributed.is_available() else ():
        found: Any = getattr(import_module(home), name, None)
        if found is not None:
            return (found,)
    return ()


SHARDED_TENSORS = _named("DTensor", _TENSORS)  # for isinstance
SHARDED_MODULES = _named("FSDPModule", _MODULES)  # those of FSDP2
FSDP2_PARAM_GROUPS = ("torch.distributed.fsdp._fully_shard._fsdp_param_group", f"{_MODULES[1]}._fsdp_param_group")
