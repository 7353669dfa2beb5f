"""Weight sets spread over the flow, where there are fewer than layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class AfterPrelude(nn.Module):
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
