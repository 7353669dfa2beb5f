"""Coefficients that see the width of the cell as well as t."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from odeformer.basis.mlp import MLP, low_frequencies
from odeformer.basis.smooth_mlp import SmoothMLP


class StepAware(nn.Module):
    """Coefficients that see the step size as well as t: the model is then a family of flow maps.

    Adds 2 · |λ| · MLP(f, λf, λ) with λ = log2(D·h), held within ±1, and low frequencies f of t to another
    basis. The correction starts at zero and vanishes at N = D for good. From N = 2D on λ stays −1, so that
    refining the grid further solves one ODE. Conditioning on the step size is the idea of shortcut models
    (Frans et al. 2024, arXiv 2410.12557).
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
