"""A wrapper that spreads the weight sets over the flow if there are fewer of them than layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class AfterPrelude(nn.Module):
    """A basis in rescaled time: a prelude of p layers gets p of the K weight sets, the flow the other K − p.

    Time t in [0, p/D] is mapped linearly to [0, p/K] and the rest to [p/K, 1]. At K = D nothing changes.
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
