"""Skips tests of what the installed torch, or another library, lacks, by asking it for the feature."""

import sys
from importlib import import_module

import pytest
import torch


def found(path):
    """What a dotted name leads to; None if there is no such module or attribute."""
    home, _, name = path.rpartition(".")
    # A function may have the name of its module, which it hides in their package.
    for owner in (found(home), sys.modules.get(home)) if home else ():
        if hasattr(owner, name):
            return getattr(owner, name)
    try:
        return import_module(path)
    except ImportError:
        return None


fully_shard = found("torch.distributed.fsdp.fully_shard") or found("torch.distributed._composable.fsdp.fully_shard")


def skip_what_cannot_be_sharded(how):
    """Skip a run with FSDP2 on the CPU of a torch that has no streams there.

    Args:
        how: The run in words joined by hyphens.
    """
    if "fsdp2" in how.split("-") and not hasattr(torch.cpu.Stream, "record_event"):
        pytest.skip("this torch cannot shard on a CPU (FSDP2)")


def needs(path, since, of="torch"):
    """A mark for tests of something that came with a version of torch, or of another library."""
    return pytest.mark.skipif(found(path) is None, reason=f"{of} {since} or later has {path}")


def has_kernel(operator, device="CPU"):
    """Whether torch computes an operator on a device."""
    keys = (device, "CompositeExplicitAutograd")
    return any(torch._C._dispatch_has_kernel_for_dispatch_key(operator, key) for key in keys)


def global_hooks():
    """The hooks on all modules, of every kind."""
    found = (hooks for name, hooks in vars(torch.nn.modules.module).items() if name.endswith("hooks"))
    return [hook for hooks in found if isinstance(hooks, dict) for hook in hooks]


def aten(name, *arguments):
    """An operator of torch; None if this torch has none of that name, or not with these arguments."""
    packet = getattr(torch.ops.aten, name, None)
    if packet is None or not {*arguments} <= {argument.name for argument in packet.default._schema.arguments}:
        return None
    return packet.default
