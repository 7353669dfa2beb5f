"""How sure a mean, or the difference of two, is, without a guess about how its values are distributed."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

RESAMPLES = 4000


class Interval(NamedTuple):
    """A mean, or a difference of means, and its 95 % interval."""

    mean: float
    low: float
    high: float

    def overlaps(self, other: Interval) -> bool:
        return self.low <= other.high and other.low <= self.high


def bootstrap(values: Tensor, seed: int = 0) -> Interval:
    """Of values [n] that are independent of one another, by the percentile bootstrap (Efron 1979).

    Raises:
        ValueError: for fewer than two values.
    """
    generator = torch.Generator().manual_seed(seed)
    return _interval(float(values.detach().double().mean()), _resampled_means(values, generator))


def bootstrap_difference(first: Tensor, second: Tensor, seed: int = 0) -> Interval:
    """Of the mean of ``second`` [m] less that of ``first`` [n], each resampled by itself, in the same way.

    Raises:
        ValueError: for fewer than two values of either.
    """
    generator = torch.Generator().manual_seed(seed)
    difference = float(second.detach().double().mean() - first.detach().double().mean())
    before, after = (_resampled_means(values, generator) for values in (first, second))
    return _interval(difference, after - before)


def _resampled_means(values: Tensor, generator: torch.Generator) -> Tensor:
    if len(values) < 2:
        raise ValueError(f"an interval needs at least 2 values, not {len(values)}")
    values = values.detach().double().cpu()
    return values[torch.randint(len(values), (RESAMPLES, len(values)), generator=generator)].mean(dim=1)


def _interval(mean: float, resampled: Tensor) -> Interval:
    low, high = resampled.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Interval(mean, low, high)
