"""Sampling of the next token from its logits."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """Sampling with a temperature, restricted to the ``top_k`` most likely tokens and to a nucleus ``top_p``.

    Raises:
        ValueError: for values out of range.
    """

    temperature: float = 0.8
    """Divisor of the logits; 0, or too small for float32, always takes the most likely token."""
    top_k: int | None = 50
    """Number of most likely tokens to sample from; None means all."""
    top_p: float = 1.0
    """Probability mass of the nucleus, the smallest set to sample from (Holtzman et al. 2020, 1904.09751)."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature {self.temperature} must be at least 0")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k {self.top_k} must be at least 1")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p {self.top_p} must be above 0 and at most 1")

    @property
    def _is_greedy(self) -> bool:
        return self.temperature < torch.finfo(torch.float32).tiny

    def probabilities(self, logits: Tensor) -> Tensor:
        """The probability of each token, in float32: logits [..., vocabulary] → [..., vocabulary]."""
        logits = logits.float()
        if self._is_greedy:
            return torch.zeros_like(logits).scatter(-1, logits.argmax(dim=-1, keepdim=True), 1.0)
        if self.top_k is None and self.top_p == 1:  # nothing is cut off: no need to sort
            return torch.softmax((logits - logits.amax(dim=-1, keepdim=True)) / self.temperature, dim=-1)
        kept = logits.shape[-1] if self.top_k is None else min(self.top_k, logits.shape[-1])
        best = torch.topk(logits, kept, dim=-1)
        # After subtracting the maximum, no quotient overflows at small temperatures.
        likely = torch.softmax((best.values - best.values[..., :1]) / self.temperature, dim=-1)
        if self.top_p < 1:
            before = likely.cumsum(dim=-1) - likely
            outside = before >= self.top_p
            outside[..., 0] = False  # a tiny top_p is 0 in float32
            likely = likely.masked_fill(outside, 0.0)
            likely = likely / likely.sum(dim=-1, keepdim=True)
        return torch.zeros_like(logits).scatter(-1, best.indices, likely)

    def draw(self, logits: Tensor, generator: torch.Generator) -> int:
        """Draw a token id from logits [vocabulary]."""
        if self._is_greedy:
            return int(logits.argmax())
        return int(torch.multinomial(self.probabilities(logits), 1, generator=generator))
