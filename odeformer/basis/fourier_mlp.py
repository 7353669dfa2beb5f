"""The coefficient functions published by Tong et al. (2025)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from odeformer.basis.mlp import MLP


class FourierMLP(nn.Module):
    """The coefficients of Tong et al. (2025): an MLP on t and sinusoids of 1000·t, plus a constant term.

    For their embedding dimension T there are K = T + 1 weight sets: c_1 = 1, and c_2 … c_K are the outputs of
    the MLP, whose hidden layer also has T units. For a node at the midpoint of a cell, the MLP is evaluated
    at the cell's right end. A third of its frequencies lie above the Nyquist limit of a grid of 12 cells, so
    W(t) is nearly unconstrained between grid points.
    """

    sinusoids = 128
    """Number of frequencies."""

    def __init__(self, tensors: int, size: int) -> None:
        super().__init__()
        self.mlp = MLP(tensors, 1 + 2 * self.sinusoids, size - 1, size - 1)

    def forward(self, t: Tensor, h: Tensor) -> Tensor:
        t = t + h / 2
        exponents = torch.arange(self.sinusoids, dtype=t.dtype, device=t.device) / self.sinusoids
        angles = 1000 * t[:, None] * 10000**-exponents
        mixed = self.mlp(torch.cat([t[:, None], angles.sin(), angles.cos()], dim=1))
        return torch.cat([torch.ones_like(mixed[..., :1]), mixed], dim=-1)
