"""Polynomials of t as coefficients."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Chebyshev(nn.Module):
    """Polynomials in t: c_k(t) = T_{k−1}(2t − 1), the Chebyshev polynomials of the first kind."""

    def __init__(self, tensors: int, size: int) -> None:
        super().__init__()
        self.tensors, self.size = tensors, size

    def forward(self, t: Tensor, h: Tensor) -> Tensor:
        angle = torch.arccos((2 * t - 1).clamp(-1, 1))
        polynomials = torch.cos(angle[:, None] * torch.arange(self.size, device=t.device))
        return polynomials.expand(self.tensors, *polynomials.shape)
