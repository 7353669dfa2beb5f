"""Coefficient functions that depend on the cell width as well as on t."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from odeformer.basis.mlp import MLP, low_frequencies
from odeformer.basis.smooth_mlp import SmoothMLP


class StepAware(nn.Module):
    """A basis plus a correction that depends on the cell width h, so that the model is a family of flow maps.

    The correction is 2 · |λ| · MLP(f, λf, λ) with λ = log2(D·h) clamped to [−1, 1] and low-frequency features
    f of t. It is zero in a new model, and always at N = D. From N = 2D on λ is −1, so that finer grids solve
    the same ODE. Conditioning on the step size is the idea of shortcut models (Frans et al. 2024, arXiv
    2410.12557).
    """

    def __init__(self, basis: nn.Module, tensors: int, size: int, depth: int) -> None:
        super().__init__()
        self.basis, self.depth = basis, depth
        self.correction = MLP(tensors, 3 + 4 * SmoothMLP.frequencies, SmoothMLP.hidden, size)
        nn.init.zeros_(self.correction.second_weight)
        nn.init.zeros_(self.correction.second_bias)

    def forward(self, t: Tensor, h: Tensor) -> Tensor:
        refinement = torch.log2(self.depth * h).clamp(-1, 1)[:, None]
        features = low_frequencies(t, SmoothMLP.frequencies)
        correction = self.correction(torch.cat([features, features * refinement, refinement], dim=1))
        return self.basis(t, h) + 2 * refinement.abs() * correction
