"""Whether a model is as often right as it says it will be (Guo et al. 2017, arXiv 1706.04599)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

BINS = 10


class Reliability(NamedTuple):
    """Predictions in bins of equal width of their confidence: [bins]; 0 where a bin is empty."""

    confidence: Tensor
    """The mean probability that was given to the likeliest token."""
    accuracy: Tensor
    """How often that token came."""
    counts: Tensor

    @property
    def expected_error(self) -> float:
        """The expected calibration error: |accuracy − confidence|, the mean over predictions."""
        return float(((self.accuracy - self.confidence).abs() * self.counts).sum() / self.counts.sum())


def reliability(logits: Tensor, targets: Tensor) -> Reliability:
    """Of predictions: logits [..., vocabulary], targets [...], int64, at least one.

    Raises:
        ValueError: without any prediction.
    """
    if not targets.numel():
        raise ValueError("there is no prediction to judge: a text of at least 2 tokens is needed")
    best, chosen = logits.detach().double().flatten(0, -2).softmax(-1).max(-1)
    right = (chosen == targets.flatten()).double()
    bins = (best * BINS).long().clamp(max=BINS - 1)
    counts = torch.bincount(bins, minlength=BINS).double()

    def mean(values: Tensor) -> Tensor:
        return torch.zeros_like(counts).index_add_(0, bins, values) / counts.clamp(min=1)

    return Reliability(mean(best), mean(right), counts)
