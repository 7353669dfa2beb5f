"""A projection with low-rank pairs: y = x Wᵀ + b + (x Aᵀ) Bᵀ, everything added in place.

As products and a sum, autograd would make one more tensor of the size of y forward and one of the size of x
backward, for a change of a hundredth of the arithmetic; on a CPU it is such tensors, fresh from the
allocator, that cost the time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def adapted_linear(x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    """x [batch, ..., in] → [batch, ..., out].

    Args:
        weight: [out, in].
        bias: [out].
        a: [r, in]; or [J, r, in], a pair for each of J equal parts of the batch.
        b: [out, r], or [J, out, r].
    """
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    a, b = (pair.to(dtype) if pair.ndim == 3 else pair[None].to(dtype) for pair in (a, b))
    parts, weight = x.to(dtype).reshape(len(a), -1, x.shape[-1]), weight.to(dtype)
    y: Tensor = _LowRank.apply(parts, weight, bias if bias is None else bias.to(dtype), a, b)
    y = _Whole.apply(y, parts.detach(), weight.detach())
    return y.view(*x.shape[:-1], -1)


class _LowRank(torch.autograd.Function):
    """b + (x Aᵀ) Bᵀ: [J, tokens, out]. Its backward is of the whole sum, which :class:`_Whole` makes of it.

    What a backward pass needs is known here, before the large product: a cell that is computed again by
    ``checkpoint`` ends here, as it does before an ordinary product at its end.
    """

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
            # Transposed afterwards: the long dimension goes through the product as it lies.
            (xa.mT @ grad).mT if needs_b else None,
        )


class _Whole(torch.autograd.Function):
    """Adds x Wᵀ in place. The gradient passes as it is: :class:`_LowRank` takes it for the whole sum's."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        ctx.mark_dirty(y)
        y.flatten(0, 1).addmm_(x.flatten(0, 1), weight.T)
        return y

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        return outputs[0], None, None
