"""The statistics of the promotion gate: whether a candidate is significantly better than the champion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

ROUNDS, LEVEL = 10_000, 0.95


class Measured(NamedTuple):
    """A model's losses or errors on each example; less is better."""

    sums: np.ndarray
    """float64 [examples]: nats, or 1 for a wrong label."""
    counts: np.ndarray
    """float64 [examples]: number of tokens, or 1 for a label."""

    @property
    def mean(self) -> float:
        return float(self.sums.sum() / self.counts.sum())


@dataclass(frozen=True)
class Verdict:
    """The gate's verdict, as it is stored in the log of moves."""

    metric: str
    """``loss`` in nats per token, or ``error``, the fraction of wrong labels."""
    data: str
    depth: int
    examples: int
    candidate: float
    champion: float
    difference: float
    """Candidate minus champion; negative means the candidate is better."""
    low: float
    high: float
    """Bounds of the difference's 95 % confidence interval."""
    threshold: float
    seed: int
    passed: bool
    against: str
    """The champion's version."""


def interval(candidate: Measured, champion: Measured, seed: int) -> tuple[float, float]:
    """95 % confidence interval of the difference of the means, by the paired bootstrap over examples.

    Percentiles of 10,000 resamples (Efron 1979, doi:10.1214/aos/1176344552). Written by hand because
    ``scipy.stats.bootstrap`` draws other samples for a seed, and stored verdicts must be reproducible.

    Raises:
        ValueError: when the models were evaluated on different examples.
    """
    if len(candidate.sums) != len(champion.sums) or (candidate.counts != champion.counts).any():
        raise ValueError("the two models were not evaluated on the same examples")
    draw, n = np.random.default_rng(seed), len(candidate.sums)
    differences, counts = candidate.sums - champion.sums, candidate.counts
    means = np.empty(ROUNDS)
    for i in range(ROUNDS):
        chosen = draw.integers(0, n, n)
        means[i] = differences[chosen].sum() / counts[chosen].sum()
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def judge(
    candidate: Measured,
    champion: Measured,
    *,
    metric: str,
    data: str,
    depth: int,
    threshold: float,
    seed: int,
    against: str,
) -> Verdict:
    """The verdict, which passes if the interval's upper bound is at most ``threshold``.

    A threshold of 0 requires an improvement; 0.01 allows a deterioration by that much.
    """
    low, high = interval(candidate, champion, seed)
    return Verdict(
        metric=metric,
        data=data,
        depth=depth,
        examples=len(candidate.sums),
        candidate=candidate.mean,
        champion=champion.mean,
        difference=candidate.mean - champion.mean,
        low=low,
        high=high,
        threshold=threshold,
        seed=seed,
        passed=high <= threshold,
        against=against,
    )
