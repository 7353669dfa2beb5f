"""Learned low-frequency coefficient functions, the default."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from odeformer.basis.mlp import MLP, low_frequencies


class SmoothMLP(nn.Module):
    """Learned low-frequency coefficients: bumps along t, plus an MLP on [2t − 1, sin πjt, cos πjt], j = 1…4.

    c_k(t) = g_k(t) / Σ_j g_j(t) + MLP_k(t), where g_k is a Gaussian of standard deviation 0.6/K around the
    midpoint of the k-th of K equal intervals. The MLP's output starts at zero: in a new model each weight set
    has its own part of [0, 1], blended smoothly into the next; training can then mix all sets at every t. At
    K = D/2 neither term has frequencies above what a grid of D/2 cells resolves, so W(t) is well determined
    between grid points. This is why such a model can change its depth.
    """

    width = 0.6
    """Standard deviation of the Gaussians, as a multiple of 1/K."""
    frequencies = 4
    """Number of frequencies that the MLP sees."""
    hidden = 32
    """Hidden units of the MLP."""

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
