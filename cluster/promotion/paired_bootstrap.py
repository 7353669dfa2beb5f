"""The gate before a promotion: is the candidate better than the champion, beyond chance?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

ROUNDS, LEVEL = 10_000, 0.95


class Measured(NamedTuple):
    """What a model reached on each example: less is better."""

    sums: np.ndarray
    """float64 [n]: nats, or 1 for a wrong answer."""
    counts: np.ndarray
    """float64 [n]: tokens, or 1 for an answer."""

    @property
    def mean(self) -> float:
        return float(self.sums.sum() / self.counts.sum())


@dataclass(frozen=True)
class Verdict:
    """What the gate found, as it goes into the log."""

    metric: str
    """``loss`` in nats per token, or ``error``, the part of wrong answers."""
    data: str
    depth: int
    examples: int
    candidate: float
    champion: float
    difference: float
    """Candidate less champion: negative is better."""
    low: float
    high: float
    """The difference's interval, 95 %."""
    threshold: float
    seed: int
    passed: bool
    against: str
    """The champion's version."""


def interval(candidate: Measured, champion: Measured, seed: int) -> tuple[float, float]:
    """Of the difference of the means, by the paired bootstrap: examples are drawn anew, both models' at once.

    Percentiles of 10,000 draws (Efron 1979, doi:10.1214/aos/1176344552). Both were asked the same examples.

    Raises:
        ValueError: for sets of different sizes.
    """
    if len(candidate.sums) != len(champion.sums) or (candidate.counts != champion.counts).any():
        raise ValueError("the two models were not asked the same examples")
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
    """Passed where the interval's upper end is at most ``threshold``: 0 asks for better, 0.01 for not worse
    by more than that."""
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
