"""The closed form of a dense transformer's FLOPs, from the paper that defines MFU."""

from __future__ import annotations

from mfu_callback.tools.options import Option, checked, whole

_NUMBER = Option("must be a whole number of at least 1.", whole(1))


def palm_flops_per_token(*, parameters: int, layers: int, heads: int, head_dim: int, length: int) -> int:
    """Model FLOPs of forward and backward for one token of a dense decoder: 6 N + 12 L H Q T.

    Attention counts as the full square of the sequence, causal or not. The backward pass is twice the forward pass.
    Divide by 3 for the forward pass alone, which is what `count_flops` counts.

    Source: Chowdhery et al., 2022, appendix B, https://arxiv.org/abs/2204.02311.

    Args:
        parameters: N, the number of parameters that every token is multiplied with: the matrices of all blocks and of
            the output head. The embedding look-up is not a multiplication. If the head uses the embedding matrix, count
            that matrix once. Including biases, norms and position embeddings in N is an approximation: they are not
            matrices.
        layers: L, the number of transformer blocks.
        heads: H, the number of query heads of one block.
        head_dim: Q, the number of channels of one head.
        length: T, the number of tokens of a sequence.

    Returns:
        FLOPs per token, with 2 for each multiply-accumulate.

    Raises:
        ValueError: If an argument is no whole number of at least 1.

    Example:
        >>> palm_flops_per_token(parameters=1000, layers=2, heads=4, head_dim=8, length=16)
        18288
    """
    given = {"parameters": parameters, "layers": layers, "heads": heads, "head_dim": head_dim, "length": length}
    of: dict[str, int] = checked(dict.fromkeys(given, _NUMBER), given)
    return 6 * of["parameters"] + 12 * of["layers"] * of["heads"] * of["head_dim"] * of["length"]
