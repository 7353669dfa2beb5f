"""Calibration, bootstrap intervals and permutation tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import stats
from torch import Tensor

BINS = 10
RESAMPLES = 4000
PERMUTATIONS = 9999
"""Maximum number of permutations; a test uses all of them if there are no more than this."""


class Interval(NamedTuple):
    """A mean, or a difference of two means, with its 95 % interval."""

    mean: float
    low: float
    high: float


def bootstrap(values: Tensor) -> Interval:
    """Percentile bootstrap (Efron 1979) of the mean of independent values [n].

    Raises:
        ValueError: If there are fewer than two values.
    """
    return _bootstrap([values], lambda sample, axis: sample.mean(axis))


def bootstrap_difference(first: Tensor, second: Tensor) -> Interval:
    """Percentile bootstrap of the mean of ``second`` [m] minus the mean of ``first`` [n].

    Raises:
        ValueError: If either sample has fewer than two values.
    """
    return _bootstrap([first, second], lambda a, b, axis: b.mean(axis) - a.mean(axis))


def _bootstrap(samples: list[Tensor], statistic: Callable[..., Any]) -> Interval:
    fewest = min(map(len, samples))
    if fewest < 2:
        raise ValueError(f"a bootstrap interval needs at least 2 values, got {fewest}")
    data = [_as_array(sample) for sample in samples]
    resampled = stats.bootstrap(data, statistic, n_resamples=RESAMPLES, method="percentile", rng=0)
    low, high = resampled.confidence_interval
    return Interval(float(statistic(*data, axis=-1)), float(low), float(high))


class PermutationTest(NamedTuple):
    """The result of a two-sided permutation test of the difference of two means."""

    statistic: float
    """Welch's t: the difference divided by its standard error."""
    p: float
    """The two-sided p-value."""


def permutation_test(first: Tensor, second: Tensor) -> PermutationTest:
    """Studentized permutation test: Welch's t of ``second`` [m] minus ``first`` [n].

    It is exact if the values are exchangeable, and asymptotically valid if only the means agree (Janssen
    1997, Statistics & Probability Letters 36; Chung and Romano 2013, Annals of Statistics 41).

    Raises:
        ValueError: If either sample has fewer than two values.
    """
    n, m = len(first), len(second)
    if min(n, m) < 2:
        raise ValueError(f"a permutation test needs at least 2 values of each sample, got {n} and {m}")
    data = _as_array(first), _as_array(second)
    # The absolute value makes the test two-sided; scipy's own two-sided p-value doubles the smaller tail.
    test = stats.permutation_test(
        data,
        lambda a, b, axis: abs(_welch(a, b, axis)),
        n_resamples=PERMUTATIONS,
        alternative="greater",
        rng=0,
    )
    return PermutationTest(float(_welch(*data, axis=-1)), float(test.pvalue))


def _welch(first: Any, second: Any, axis: int) -> Any:
    difference = second.mean(axis) - first.mean(axis)
    # Rounding separates the means of equal values, and without any spread that would look significant.
    largest = np.maximum(abs(first).max(axis), abs(second).max(axis))
    difference = np.where(abs(difference) <= 1e-12 * largest, 0.0, difference)
    variance = first.var(axis, ddof=1) / first.shape[axis] + second.var(axis, ddof=1) / second.shape[axis]
    return difference / np.maximum(np.sqrt(variance), 1e-150)


def _as_array(values: Tensor) -> Any:
    return values.detach().double().cpu().numpy()


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p-values adjusted for several tests at once (Holm 1979, Scandinavian Journal of Statistics 6).

    Rejecting where the adjusted value is at most α keeps the probability of any false rejection at most α,
    whatever the dependence between the tests.
    """
    names = sorted(p_values, key=lambda name: p_values[name])
    scaled = [min(1.0, (len(names) - rank) * p_values[name]) for rank, name in enumerate(names)]
    adjusted = dict(zip(names, accumulate(scaled, max), strict=True))
    return {name: adjusted[name] for name in p_values}


class Reliability(NamedTuple):
    """Predictions grouped by confidence into bins of equal width: [bins] each, 0 for an empty bin."""

    confidence: Tensor
    """The mean probability of the most likely token."""
    accuracy: Tensor
    """The fraction of predictions whose most likely token was right."""
    counts: Tensor

    @property
    def expected_error(self) -> float:
        """Expected calibration error: the mean of |accuracy − confidence| over predictions."""
        return float(((self.accuracy - self.confidence).abs() * self.counts).sum() / self.counts.sum())


def reliability(logits: Tensor, targets: Tensor) -> Reliability:
    """Reliability diagram (Guo et al. 2017, arXiv 1706.04599) of at least one prediction.

    Args:
        logits: [..., vocabulary].
        targets: [...], int64.

    Raises:
        ValueError: If there are no predictions.
    """
    if not targets.numel():
        raise ValueError("no predictions to calibrate: the text needs at least 2 tokens")
    best, chosen = logits.detach().double().flatten(0, -2).softmax(-1).max(-1)
    right = (chosen == targets.flatten()).double()
    bins = (best * BINS).long().clamp(max=BINS - 1)
    counts = torch.bincount(bins, minlength=BINS).double()

    def mean(values: Tensor) -> Tensor:
        return torch.zeros_like(counts).index_add_(0, bins, values) / counts.clamp(min=1)

    return Reliability(mean(best), mean(right), counts)
