"""One weight set for each layer: an ordinary transformer, or one layer at every t."""

from __future__ import annotations

from torch import Tensor, nn


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
