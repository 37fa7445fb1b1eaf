"""FLOPs of matmuls: dense, batched, grouped, quantized, sparse, nested.

A product of (M, K) and (K, N) is M K N multiply-accumulates, for every operator.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch

from mfu_callback.flops.rules.call import Call, Rule, UncountableError, Work, is_readable

_BATCHED = 3  # dimensions of a batch of matrices


def _product(left: Any, right: Any) -> int:
    """(..., M, K) x (..., K, N) with equal batch dimensions, or nested tensors of such matrices."""
    if is_nested(left) or is_nested(right):
        return sum(int(2 * prod(a) * b[-1]) for a, b in zip(sizes(left), sizes(right), strict=True))
    if _is_sparse(left) and _is_sparse(right):
        raise UncountableError("the number of products depends on the sparsity patterns of both matrices")
    if _is_sparse(left):
        return int(2 * _stored(left) * right.shape[-1])
    if _is_sparse(right):
        return int(2 * _stored(right) * left.shape[-2])
    return int(2 * left.numel() * right.shape[-1])


def _matmul(call: Call) -> int:
    return _product(call["self"], call.get("mat2", "other"))


def _matmul_with_addition(call: Call) -> int:
    return _product(call.get("mat1", "batch1"), call.get("mat2", "batch2"))


def _linear(call: Call) -> int:
    weight = call["weight"]  # (O, C), or (C) for a single output
    return int(2 * call.get("input", "self").numel() * (weight.shape[0] if weight.dim() == 2 else 1))


def _linear_backward(call: Call) -> int:
    weight, mask = call["weight"], call["output_mask"]
    return int(2 * call["self"].numel() * weight.shape[0]) * int(sum(mask[:2]))


def _matmul_backward(call: Call) -> int:
    return _product(call["self"], call["other"]) * int(sum(call["mask"]))


def _rows_times_columns(call: Call) -> int:
    """A weight in a packed format: (..., K) rows in, (..., N) columns out."""
    rows = call.get("self", "input", "X", "inp")
    return int(2 * rows.numel() * call.out.shape[-1])


def _matrix_vector(call: Call) -> int:
    matrix = call.get("mat", "self")  # mv(self, vec); addmv(self, mat, vec)
    return int(2 * (_stored(matrix) if _is_sparse(matrix) else matrix.numel()))


def _dot(call: Call) -> int:
    return int(2 * call["self"].numel())


def _outer(call: Call) -> int:
    return int(2 * call["vec1"].numel() * call["vec2"].numel())


def _grouped(call: Call) -> int:
    """2-d operands are split into groups along one dimension, so each row (or column) is multiplied by one matrix.

    ``offs`` holds where each group ends. What lies behind the last group is skipped.
    """
    left, right = call.get("self", "mat_a", "input"), call.get("mat2", "mat_b", "weight")
    rows, inner, columns = left.shape[-2], left.shape[-1], right.shape[-1]
    if left.dim() == right.dim() == _BATCHED:
        return int(2 * left.shape[0] * rows * inner * columns)
    split = inner if left.dim() == right.dim() else rows if right.dim() == _BATCHED else columns
    return int(2 * rows * inner * columns // max(1, split) * _used(call, split))


def _used(call: Call, split: int) -> int:
    """How much of the split dimension the groups hold."""
    ends = call.get("offs", "offsets")
    if ends is None or not ends.numel():
        return split
    if not is_readable(ends):
        call.notes.add("the sizes of the groups of a grouped product could not be read, so all rows count")
        return split
    return min(split, int(ends[-1]))


def _grouped_backward(call: Call) -> int:
    return 2 * _grouped(call)


def _each_product(call: Call) -> int:
    return sum(_product(left, right) for left, right in zip(call["self"], call["mat2"], strict=True))


def _trilinear(call: Call) -> int:
    """nn.Bilinear: x1 (N, in1) times W (out, in1, in2), then the result times x2 (N, in2)."""
    left, weight, right = call["i1"], call["i2"], call["i3"]
    batch = left.numel() // left.shape[-1] if left.dim() else 1
    return int(2 * batch * (weight.numel() + weight.shape[0] * right.shape[-1]))


def _distances(call: Call) -> int:
    """Cdist of (..., P, M) and (..., R, M): one multiply-accumulate for each pair and coordinate if p is 2."""
    if call.get("p") not in (None, 2):
        return 0
    return int(2 * call["x1"].numel() * call["x2"].shape[-2])


def _own_distances(call: Call) -> int:
    if call["p"] != 2:
        return 0
    points, coordinates = call["self"].shape
    return int(points * (points - 1) * coordinates)


def _affine_grid(call: Call) -> int:
    """Each point of a grid (N, H, W, 2) is theta (N, 2, 3) times its homogeneous coordinates; the same in 3-d."""
    return int(2 * call.out.numel() * call["theta"].shape[-1])


def _sampled_product(call: Call) -> int:
    return int(2 * _stored(call["self"]) * call["mat1"].shape[-1])


def _linear_cross_entropy(call: Call) -> Work:
    """(N, D) x (V, D): with a scalar loss, the forward already computes both gradients."""
    product = int(2 * call["input"].numel() * call["linear_weight"].shape[0])
    gradients = int(bool(call.get("compute_input_grad"))) + int(bool(call.get("compute_linear_weight_grad")))
    return Work(product, backward=gradients * product)


def is_nested(tensor: Any) -> bool:
    """Whether this is a nested tensor of the strided layout, whose shape cannot be read."""
    return isinstance(tensor, torch.Tensor) and tensor.is_nested and tensor.layout is torch.strided


def sizes(tensor: Any) -> list[list[int]]:
    """The shape of each component of a nested tensor, or of each item of a batch."""
    if is_nested(tensor):
        rows: list[list[int]] = tensor._nested_tensor_size().tolist()
        return rows
    return [list(tensor.shape[1:])] * tensor.shape[0]


def _is_sparse(tensor: Any) -> bool:
    return isinstance(tensor, torch.Tensor) and tensor.layout is not torch.strided and not tensor.is_mkldnn


def _stored(tensor: torch.Tensor) -> int:
    values = tensor._values() if tensor.layout is torch.sparse_coo else tensor.values()
    return values.numel()


MATMUL_RULES: dict[str, Rule] = {
    **dict.fromkeys(("aten::mm", "aten::bmm", "aten::matmul", "aten::_int_mm", "aten::_scaled_mm"), _matmul),
    **dict.fromkeys(("aten::_scaled_mm_v2", "aten::_sparse_mm_reduce_impl"), _matmul),
    **dict.fromkeys(("aten::addmm", "aten::baddbmm", "aten::addbmm", "aten::_addmm_activation"), _matmul_with_addition),
    **dict.fromkeys(("aten::_sparse_addmm", "aten::sspaddmm", "aten::hspmm"), _matmul_with_addition),
    **dict.fromkeys(("aten::linear", "aten::mkldnn_linear"), _linear),
    **dict.fromkeys(("aten::linear_backward", "aten::mkldnn_linear_backward"), _linear_backward),
    "aten::matmul_backward": _matmul_backward,
    **dict.fromkeys(("aten::mv", "aten::addmv"), _matrix_vector),
    **dict.fromkeys(("aten::dot", "aten::vdot"), _dot),
    "aten::addr": _outer,
    **dict.fromkeys(("aten::_weight_int8pack_mm", "aten::_weight_int4pack_mm"), _rows_times_columns),
    **dict.fromkeys(
        ("aten::_weight_int4pack_mm_for_cpu", "aten::_weight_int4pack_mm_with_scales_and_zeros"), _rows_times_columns
    ),
    **dict.fromkeys(("aten::_dyn_quant_matmul_4bit", "aten::_mixed_dtypes_linear"), _rows_times_columns),
    **dict.fromkeys(("mkldnn::_linear_pointwise", "mkl::_mkl_linear"), _rows_times_columns),
    **dict.fromkeys(("aten::_grouped_mm", "aten::_scaled_grouped_mm", "aten::_scaled_grouped_mm_v2"), _grouped),
    "transformers::grouped_mm_fallback": _grouped,
    "transformers::grouped_mm_fallback_backward": _grouped_backward,
    "aten::_foreach_mm": _each_product,
    "aten::_trilinear": _trilinear,
    **dict.fromkeys(("aten::_euclidean_dist", "aten::_cdist_forward", "aten::_cdist_backward"), _distances),
    **dict.fromkeys(("aten::_pdist_forward", "aten::_pdist_backward"), _own_distances),
    "aten::affine_grid_generator": _affine_grid,
    "aten::sparse_sampled_addmm": _sampled_product,
    "torch_nn::_linear_cross_entropy_batch_chunked": _linear_cross_entropy,
    "torch_nn::_linear_cross_entropy_batch_chunked_no_reduction": _linear_cross_entropy,
}
