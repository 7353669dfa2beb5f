"""Small MLPs for learned coefficient functions, and their input features of t."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class MLP(nn.Module):
    """A two-layer SiLU MLP for each of the block's tensors: features [M, in] → [tensors, M, out]."""

    def __init__(self, tensors: int, features: int, hidden: int, size: int) -> None:
        super().__init__()
        self.first_weight = nn.Parameter(torch.empty(tensors, features, hidden))
        self.first_bias = nn.Parameter(torch.empty(tensors, 1, hidden))
        self.second_weight = nn.Parameter(torch.empty(tensors, hidden, size))
        self.second_bias = nn.Parameter(torch.empty(tensors, 1, size))
        # The initialization of nn.Linear: uniform in ±1/√(fan-in).
        for bound, parameters in (
            (1 / math.sqrt(features), (self.first_weight, self.first_bias)),
            (1 / math.sqrt(hidden), (self.second_weight, self.second_bias)),
        ):
            for parameter in parameters:
                nn.init.uniform_(parameter, -bound, bound)

    def forward(self, features: Tensor) -> Tensor:
        hidden = nn.functional.silu(features @ self.first_weight + self.first_bias)
        return hidden @ self.second_weight + self.second_bias


def low_frequencies(t: Tensor, frequencies: int) -> Tensor:
    """The features [2t − 1, sin πjt, cos πjt], j = 1 … frequencies: t [M] → [M, 1 + 2 · frequencies]."""
    harmonics = torch.arange(1, frequencies + 1, dtype=t.dtype, device=t.device)
    angles = math.pi * harmonics * t[:, None]
    return torch.cat([2 * t[:, None] - 1, angles.sin(), angles.cos()], dim=1)
