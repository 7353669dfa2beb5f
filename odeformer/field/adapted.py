"""A projection with a LoRA pair, y = x Wᵀ + b + (x Aᵀ) Bᵀ, whose terms are added in place.

With separate matmuls and a sum, autograd would allocate one more tensor of the size of y in the forward pass
and one of the size of x in the backward pass. On a CPU these allocations, not the arithmetic, would make the
pair expensive.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def adapted_linear(x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    """A linear layer with a low-rank pair: x [batch, ..., in] → [batch, ..., out].

    The shapes are W [out, in], b [out], A [r, in] and B [out, r]; or A [J, r, in] and B [J, out, r], one pair
    for each of J equal parts of the batch.
    """
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    a, b = (pair.to(dtype) if pair.ndim == 3 else pair[None].to(dtype) for pair in (a, b))
    parts, weight = x.to(dtype).reshape(len(a), -1, x.shape[-1]), weight.to(dtype)
    y: Tensor = _LowRank.apply(parts, weight, bias if bias is None else bias.to(dtype), a, b)
    y = _AddLinear.apply(y, parts.detach(), weight.detach())
    return y.view(*x.shape[:-1], -1)


# Two functions, so that the small one can come first and save all that the backward pass of the sum needs:
# with gradient checkpointing, recomputation stops at the last saved tensor and thus skips the large matmul.
# The large function then only adds x Wᵀ in place, and passes its gradient through unchanged.
class _LowRank(torch.autograd.Function):
    """The terms b + (x Aᵀ) Bᵀ, [J, tokens, out], with the backward pass of the whole sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
        xa = x @ a.mT
        ctx.save_for_backward(x, weight, xa, a, b)
        return xa @ b.mT if bias is None else torch.baddbmm(bias, xa, b.mT)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        grad, (x, weight, xa, a, b) = outputs[0], ctx.saved_tensors
        needs_x, needs_weight, needs_bias, needs_a, needs_b = ctx.needs_input_grad
        through_b = grad @ b
        return (
            (grad @ weight).baddbmm_(through_b, a) if needs_x else None,
            grad.flatten(0, 1).T @ x.flatten(0, 1) if needs_weight else None,
            grad.sum(dim=(0, 1)) if needs_bias else None,
            through_b.mT @ x if needs_a else None,
            # Transposing the result, not the inputs, keeps the matmul contiguous along the long dimension.
            (xa.mT @ grad).mT if needs_b else None,
        )


class _AddLinear(torch.autograd.Function):
    """Adds x Wᵀ to y in place; its backward is the identity, as :class:`_LowRank` has the whole gradient."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        ctx.mark_dirty(y)
        y.flatten(0, 1).addmm_(x.flatten(0, 1), weight.T)
        return y

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        return outputs[0], None, None
