"""Finds the products that TorchScript's executor computes itself, without calling an operator."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

_OWN_KERNELS = ("prim::mkldnn_convolution",)
_FUSED = ("prim::TensorExprGroup", "prim::CudaFusionGroup", "prim::FusionGroup")
_PRODUCTS = tuple(f"aten::{name}" for name in ("mm", "bmm", "addmm", "matmul", "linear", "conv1d", "conv2d", "conv3d"))


def unseen_products(module: nn.Module) -> list[str]:
    """Names of the products in the last run of a TorchScript module that no operator computed.

    Args:
        module: A module whose call has just ended.
    """
    if not isinstance(module, torch.jit.ScriptModule):
        return []
    graph: Any = torch.jit.last_executed_optimized_graph()  # type: ignore[attr-defined]
    if graph is None:  # its forward is plain Python
        return []
    own = [kind for kind in _OWN_KERNELS if graph.findAllNodes(kind, recurse=True)]
    groups = [node.g("Subgraph") for kind in _FUSED for node in graph.findAllNodes(kind, recurse=True)]
    return own + [kind for kind in _PRODUCTS if any(group.findAllNodes(kind, recurse=True) for group in groups)]
