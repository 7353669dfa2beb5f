"""Coefficient functions: how K stored weight sets become W(t) = Σ_k c_k(t) B_k.

A basis is a module ``(t [M], h [M]) → coefficients [tensors, M, K]`` in float32, with its own
coefficients for each of the block's tensors. ``h`` is the width of the cell that t lies in.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from odeformer.config import BasisConfig


class SmoothMLP(nn.Module):
    """Learned low-frequency coefficients: a small MLP per tensor on [2t − 1, sin πjt, cos πjt], j = 1…4.

    All sets take part at every t, so every batch trains all of them. The highest frequency, 4π, is below
    the Nyquist limit of a grid of 4 cells: between grid points there is nothing to be unconstrained,
    which is why such a model can change its depth.
    """

    frequencies = 4
    hidden = 32

    def __init__(self, tensors: int, size: int) -> None:
        super().__init__()
        features = 1 + 2 * self.frequencies
        self.first_weight = nn.Parameter(torch.empty(tensors, features, self.hidden))
        self.first_bias = nn.Parameter(torch.empty(tensors, 1, self.hidden))
        self.second_weight = nn.Parameter(torch.empty(tensors, self.hidden, size))
        self.second_bias = nn.Parameter(torch.empty(tensors, 1, size))
        with torch.no_grad():
            for parameter, fan_in in (
                (self.first_weight, features),
                (self.first_bias, features),
                (self.second_weight, self.hidden),
                (self.second_bias, self.hidden),
            ):
                parameter.uniform_(-1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))

    def forward(self, t: Tensor, h: Tensor) -> Tensor:
        angles = math.pi * torch.arange(1, self.frequencies + 1, device=t.device) * t[:, None]
        features = torch.cat([2 * t[:, None] - 1, angles.sin(), angles.cos()], dim=1)
        hidden = nn.functional.silu(features @ self.first_weight + self.first_bias)
        mixed = 2 * (hidden @ self.second_weight + self.second_bias)
        # Starting near B_1 alone gives W(t) a common part for all t, as residual layers have.
        first = torch.zeros_like(mixed[0, 0])
        first[0] = 1
        return mixed + first


class Independent(nn.Module):
    """One weight set per layer: W(t) = B_k for t in the k-th of K equal intervals.

    At N = K cells this is the ordinary transformer; fewer cells drop layers, more repeat them.
    """

    def __init__(self, tensors: int, size: int) -> None:
        super().__init__()
        self.tensors, self.size = tensors, size

    def forward(self, t: Tensor, h: Tensor) -> Tensor:
        # t is rounded: a time on an edge between two intervals belongs to the right one, also when it is
        # a hair before it.
        index = (t.double() * self.size + 1e-4).long().clamp(max=self.size - 1)
        one_hot = nn.functional.one_hot(index, self.size).to(t.dtype)
        return one_hot.expand(self.tensors, *one_hot.shape)


BASES = {"smooth_mlp": SmoothMLP, "none": Independent}


def build_basis(config: BasisConfig, tensors: int) -> nn.Module:
    """The basis named by ``config.kind`` for a block of so many tensors."""
    return BASES[config.kind](tensors, config.size)
