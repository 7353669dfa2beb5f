"""Coefficient functions without parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class Fixed(nn.Module, ABC):
    """A basis without parameters, with the same coefficients [M, K] for every tensor."""

    def __init__(self, tensors: int, size: int) -> None:
        super().__init__()
        self.tensors, self.size = tensors, size

    def forward(self, t: Tensor, h: Tensor) -> Tensor:
        coefficients = self.coefficients(t)
        return coefficients.expand(self.tensors, *coefficients.shape)

    @abstractmethod
    def coefficients(self, t: Tensor) -> Tensor:
        """The coefficients c_1(t) … c_K(t): t [M] → [M, K]."""


class Independent(Fixed):
    """Independent layers: W(t) = B_k for t in the k-th of K equal intervals.

    At N = K cells this is the ordinary transformer; fewer cells skip layers, more repeat them. K = 1 is the
    universal transformer, which has the same layer at every t.
    """

    def coefficients(self, t: Tensor) -> Tensor:
        # With this tolerance an edge that was rounded down still belongs to the interval after it.
        index = (t.double() * self.size + 1e-4).long().clamp(max=self.size - 1)
        return nn.functional.one_hot(index, self.size).to(t.dtype)


class Linear(Fixed):
    """Piecewise linear: W = B_k at the midpoint of the k-th of K equal intervals, constant at both ends.

    At N = K cells this is the ordinary transformer with layers B_1 … B_K.
    """

    def coefficients(self, t: Tensor) -> Tensor:
        position = (t * self.size - 0.5).clamp(0, self.size - 1)
        knots = torch.arange(self.size, device=t.device)
        return (1 - (position[:, None] - knots).abs()).clamp(min=0)
