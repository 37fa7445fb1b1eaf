"""Two parts of a GPT's training step for which torch has no quick operator: attention in bf16 on a CPU, and the loss.

Shapes: N tokens of B sequences, T tokens each, C channels, H heads of D channels, V token ids. What each part gains
stands in docs/gpt.md.
"""

# No `from __future__ import annotations`: torch 2.4 reads the annotations of an operator, and not as text.
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import register_flop_formula

ATTENTION_ROWS = 256  # queries of a head at once: fewer make smaller matmuls, more compute more of what is masked
LOSS_ROWS = 512  # tokens at once whose logits are held
_SMALLEST = 1e-38  # of a probability: below, its logarithm would be infinite


def causal_attention(q: Tensor, k: Tensor, v: Tensor, *, dropout: float = 0.0) -> Tensor:
    """Attend from every token to itself and to the tokens before it, each (B, H, T, D) -> (B, H, T, D)."""
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and not dropout:
        out: Tensor = _attention(q, k, v)  # torch's fused kernel takes 1.7 to 4 times as long on a CPU in bf16
        return out
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)


@torch.library.custom_op("gpt::causal_attention", mutates_args=())
def _attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    q, k, v, y = (part.flatten(0, 1) for part in (q, k, v, out))  # (B * H, T, D)
    for start, end in _row_blocks(q):
        torch.bmm(_weights(q, k, start, end), v[:, :end], out=y[:, start:end])
    return out


@torch.library.custom_op("gpt::causal_attention_backward", mutates_args=())
def _attention_backward(grad: Tensor, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    scale, shape = q.shape[-1] ** -0.5, q.shape
    grad, q, k, v = (part.flatten(0, 1) for part in (grad, q, k, v))  # (B * H, T, D)
    grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
    for start, end in _row_blocks(q):
        rows, weights = slice(start, end), _weights(q, k, start, end)  # made again: to keep them takes T / D times q
        grad_v[:, :end].baddbmm_(weights.mT, grad[:, rows])
        grad_weights = grad[:, rows] @ v[:, :end].mT
        grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
        torch.bmm(grad_scores, k[:, :end], out=grad_q[:, rows])
        grad_k[:, :end].baddbmm_(grad_scores.mT, q[:, rows], alpha=scale)
    return grad_q.mul_(scale).view(shape), grad_k.view(shape), grad_v.view(shape)


def _row_blocks(q: Tensor) -> list[tuple[int, int]]:
    length = q.shape[1]
    return [(start, min(start + ATTENTION_ROWS, length)) for start in range(0, length, ATTENTION_ROWS)]


def _weights(q: Tensor, k: Tensor, start: int, end: int) -> Tensor:
    """Attention weights of the queries from start to end, (B * H, rows, end)."""
    mask = torch.full((end - start, end), float("-inf"), dtype=q.dtype).triu_(start + 1)
    scores = torch.baddbmm(mask.expand(len(q), -1, -1), q[:, start:end], k[:, :end].mT, alpha=q.shape[-1] ** -0.5)
    return torch.softmax(scores, -1, out=scores)


_attention.register_fake(lambda q, k, v: torch.empty_like(q, memory_format=torch.contiguous_format))
_attention_backward.register_fake(lambda grad, q, k, v: tuple(q.new_empty(q.shape) for _ in range(3)))
_attention.register_autograd(
    lambda ctx, grad: _attention_backward(grad, *ctx.saved_tensors),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
)


@register_flop_formula(torch.ops.gpt.causal_attention)
def _attention_flops(q: Any, k: Any, v: Any, **_: Any) -> int:
    """Two products with the whole T x T square, as torch counts its own kernels that skip what is masked."""
    return 4 * int(math.prod(q)) * int(q[-2])


@register_flop_formula(torch.ops.gpt.causal_attention_backward)
def _attention_backward_flops(grad: Any, q: Any, k: Any, v: Any, **_: Any) -> int:
    """Four products; the scores that are computed again are not the model's."""
    return 2 * _attention_flops(q, k, v)


def head_loss(x: Tensor, head: nn.Linear, targets: Tensor) -> Tensor:
    """Mean cross-entropy, in nats per token, of the logits ``head(x)``, which never exist as a whole.

    Args:
        x: (N, C).
        head: From C to V, without a bias.
        targets: (N,) token ids.
    """
    loss: Tensor = _HeadLoss.apply(x, head.weight, head, targets, torch.is_grad_enabled())  # type: ignore[no-untyped-call]
    return loss


class _HeadLoss(torch.autograd.Function):
    """Makes the gradients in the forward pass, chunk by chunk, while the logits of a chunk are there."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, head: nn.Linear, targets: Tensor, needs_grad: bool) -> Tensor:
        needed = [needs_grad and needs for needs in ctx.needs_input_grad[:2]]
        losses, grad_x, grad_weight = [], torch.empty_like(x) if needed[0] else None, None
        for start in range(0, len(x), LOSS_ROWS):
            chunk = slice(start, start + LOSS_ROWS)
            with torch.enable_grad():
                rows = x[chunk].detach().requires_grad_(needed[0])  # (rows, C)
                logits = head(rows)  # (rows, V)
            loss, grad_logits = _loss_in_place(logits.detach(), targets[chunk])
            losses.append(loss)
            if any(needed):  # by autograd, so that whoever counts FLOPs sees a backward pass
                wanted = [tensor for tensor, needs in zip((rows, weight), needed, strict=True) if needs]
                grads = list(torch.autograd.grad(logits, wanted, grad_logits))
                if grad_x is not None:
                    grad_x[chunk] = grads.pop(0)
                if grads:
                    grad_weight = grads[0] if grad_weight is None else grad_weight.add_(grads[0])
        ctx.grads, ctx.tokens = (grad_x, grad_weight), len(x)
        return torch.cat(losses).mean()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.grads is None:
            raise RuntimeError("The GPT's loss makes its gradients once: call loss() again for a second backward pass.")
        grads, ctx.grads = ctx.grads, None
        scale = grad / ctx.tokens
        return *(None if one is None else one.mul_(scale) for one in grads), None, None, None


def _loss_in_place(logits: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Losses (N,) in fp32, and N times the gradient of their mean, (N, V), in the memory of the logits.

    From a probability in bf16, a loss is exact to 0.002; a logarithm in bf16 would be off by 0.03.
    """
    probabilities = torch.softmax(logits, -1, out=logits)
    targets = torch.arange(len(ids), device=ids.device), ids
    of_target = probabilities[targets]  # (N,)
    probabilities[targets] = of_target - 1.0  # by index: scatter_ goes through all of them
    return of_target.float().clamp_min(_SMALLEST).log().neg(), probabilities
