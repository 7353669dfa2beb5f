"""Learned low-frequency coefficients."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from odeformer.basis.mlp import MLP, low_frequencies


class SmoothMLP(nn.Module):
    """Learned low-frequency coefficients: bumps along t, plus an MLP on [2t − 1, sin πjt, cos πjt], j = 1…4.

    c_k(t) = g_k(t) / Σ_j g_j(t) + MLP_k(t), where g_k is a Gaussian of width 0.6/K around the middle of
    the k-th of K equal cells. The MLP starts at zero: a fresh model has a weight set for each part of the
    way, blended smoothly, and the layers of neighbouring t resemble each other; training then mixes all
    sets at every t. Neither part has frequencies that the grid of D/2 cells could not follow at K = D/2:
    between grid points there is nothing to be unconstrained, which is why such a model can change its
    depth.
    """

    width = 0.6
    frequencies = 4
    hidden = 32

    def __init__(self, tensors: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.mlp = MLP(tensors, 1 + 2 * self.frequencies, self.hidden, size)
        nn.init.zeros_(self.mlp.second_weight)
        nn.init.zeros_(self.mlp.second_bias)

    def forward(self, t: Tensor, h: Tensor) -> Tensor:
        offset = t[:, None] * self.size - 0.5 - torch.arange(self.size, device=t.device)
        bumps = (-offset.square() / (2 * self.width**2)).softmax(dim=1)
        return bumps + self.mlp(low_frequencies(t, self.frequencies))
