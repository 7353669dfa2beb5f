"""Coefficient functions: how K stored weight sets become W(t) = Σ_k c_k(t) B_k.

A basis is a module ``(t [M], h [M]) → coefficients [tensors, M, K]`` in the dtype of t, with its own
coefficients for each of the block's tensors. ``h`` is the width of the cell that t lies in.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from odeformer.config import BasisConfig


class MLP(nn.Module):
    """One two-layer SiLU perceptron per tensor: features [M, in] → [tensors, M, out]."""

    def __init__(self, tensors: int, features: int, hidden: int, size: int) -> None:
        super().__init__()
        self.first_weight = nn.Parameter(torch.empty(tensors, features, hidden))
        self.first_bias = nn.Parameter(torch.empty(tensors, 1, hidden))
        self.second_weight = nn.Parameter(torch.empty(tensors, hidden, size))
        self.second_bias = nn.Parameter(torch.empty(tensors, 1, size))
        # nn.Linear's rule: uniform in ±1/√(fan-in).
        for bound, parameters in (
            (1 / math.sqrt(features), (self.first_weight, self.first_bias)),
            (1 / math.sqrt(hidden), (self.second_weight, self.second_bias)),
        ):
            for parameter in parameters:
                nn.init.uniform_(parameter, -bound, bound)

    def forward(self, features: Tensor) -> Tensor:
        hidden = nn.functional.silu(features @ self.first_weight + self.first_bias)
        return hidden @ self.second_weight + self.second_bias


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


class Linear(nn.Module):
    """Piecewise linear: B_k is W at the k-th of K cells' midpoints; constant beyond the first and last.

    At N = K it is the ordinary transformer of layers B_1 … B_K.
    """

    def __init__(self, tensors: int, size: int) -> None:
        super().__init__()
        self.tensors, self.size = tensors, size

    def forward(self, t: Tensor, h: Tensor) -> Tensor:
        position = (t * self.size - 0.5).clamp(0, self.size - 1)
        knots = torch.arange(self.size, device=t.device)
        hats = (1 - (position[:, None] - knots).abs()).clamp(min=0)
        return hats.expand(self.tensors, *hats.shape)


class Chebyshev(nn.Module):
    """Polynomials in t: c_k(t) = T_{k−1}(2t − 1), the Chebyshev polynomials of the first kind."""

    def __init__(self, tensors: int, size: int) -> None:
        super().__init__()
        self.tensors, self.size = tensors, size

    def forward(self, t: Tensor, h: Tensor) -> Tensor:
        angle = torch.arccos((2 * t - 1).clamp(-1, 1))
        polynomials = torch.cos(angle[:, None] * torch.arange(self.size, device=t.device))
        return polynomials.expand(self.tensors, *polynomials.shape)


class FourierMLP(nn.Module):
    """The published coefficients (Tong et al. 2025): an MLP on sinusoids of 1000·t, plus a constant term.

    K = T + 1 sets for their embedding dimension T: c_1 = 1, and c_2 … c_K are the MLP's T outputs, whose
    hidden layer also has T units. The grid is the right end of each cell. A third of its frequencies lie
    above the Nyquist limit of a grid of 12 cells: W(t) is nearly unconstrained between grid points.
    """

    sinusoids = 128

    def __init__(self, tensors: int, size: int) -> None:
        super().__init__()
        self.mlp = MLP(tensors, 1 + 2 * self.sinusoids, size - 1, size - 1)

    def forward(self, t: Tensor, h: Tensor) -> Tensor:
        t = t + h / 2
        exponents = torch.arange(self.sinusoids, dtype=t.dtype, device=t.device) / self.sinusoids
        angles = 1000 * t[:, None] * 10000**-exponents
        mixed = self.mlp(torch.cat([t[:, None], angles.sin(), angles.cos()], dim=1))
        return torch.cat([torch.ones_like(mixed[..., :1]), mixed], dim=-1)


class Independent(nn.Module):
    """One weight set per layer: W(t) = B_k for t in the k-th of K equal intervals.

    At N = K cells this is the ordinary transformer; fewer cells drop layers, more repeat them. K = 1 is
    the universal transformer: the same layer at every t.
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


def low_frequencies(t: Tensor, frequencies: int) -> Tensor:
    """[2t − 1, sin πjt, cos πjt], j = 1 … frequencies: t [M] → [M, 1 + 2 · frequencies]."""
    harmonics = torch.arange(1, frequencies + 1, dtype=t.dtype, device=t.device)
    angles = math.pi * harmonics * t[:, None]
    return torch.cat([2 * t[:, None] - 1, angles.sin(), angles.cos()], dim=1)


BASES = {
    "smooth_mlp": SmoothMLP,
    "linear": Linear,
    "chebyshev": Chebyshev,
    "fourier_mlp": FourierMLP,
    "none": Independent,
    "constant": Independent,
}


class BehindPrelude(nn.Module):
    """A basis that sees a time in which the prelude has as many of the K sets as it has layers.

    t in [0, p/D] becomes [0, p/K], the rest [p/K, 1]: the flow's sets are spread over the flow alone. At
    K = D nothing changes.
    """

    def __init__(self, basis: nn.Module, size: int, prelude: int, depth: int) -> None:
        super().__init__()
        self.basis = basis
        self.end, self.seen_end = prelude / depth, prelude / size

    def forward(self, t: Tensor, h: Tensor) -> Tensor:
        early = t * (self.seen_end / self.end)
        late = self.seen_end + (t - self.end) * ((1 - self.seen_end) / (1 - self.end))
        coefficients: Tensor = self.basis(torch.where(t < self.end, early, late), h)
        return coefficients


def build_basis(config: BasisConfig, tensors: int, depth: int, prelude: int = 0) -> nn.Module:
    """The basis of ``config`` for a block of so many tensors in a model of depth D."""
    basis = BASES[config.kind](tensors, config.size)
    if config.step_aware:
        basis = StepAware(basis, tensors, config.size, depth)
    return BehindPrelude(basis, config.size, prelude, depth) if 0 < prelude < config.size < depth else basis
