"""Whether two samples have the same mean, without a guess about how their values are distributed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

PERMUTATIONS = 9999
"""Where all of them would be more."""


class Test(NamedTuple):
    """Of the difference of two means."""

    statistic: float
    """Welch's t: the difference over its standard error."""
    p: float
    """Of a two-sided test."""


def permutation_test(first: Tensor, second: Tensor, seed: int = 0) -> Test:
    """A studentised permutation test of values [n] and [m]: Welch's statistic of second − first among those
    of the same values dealt out anew.

    Studentised it holds asymptotically also where the two differ in spread (Janssen 1997, Statistics &
    Probability Letters 36; Chung and Romano 2013, Annals of Statistics 41), and exactly where they are
    exchangeable. All ways to deal them out where these are no more than :data:`PERMUTATIONS`, else so many
    drawn at random, what was found counted among them (Phipson and Smyth 2010).

    Raises:
        ValueError: for fewer than two values in either.
    """
    n, m = len(first), len(second)
    if min(n, m) < 2:
        raise ValueError(f"a test needs at least 2 values of each, not {n} and {m}")
    values = torch.cat([first, second]).detach().double().cpu()
    found = _welch(values[None], n)
    if math.comb(n + m, n) <= PERMUTATIONS:
        dealt = torch.tensor(list(combinations(range(n + m), n)))
        rest = torch.ones(len(dealt), n + m, dtype=torch.bool).scatter_(1, dealt, False)
        order = torch.cat([dealt, rest.nonzero()[:, 1].view(len(dealt), m)], dim=1)
        found_itself = 0
    else:
        generator = torch.Generator().manual_seed(seed)
        order = torch.rand(PERMUTATIONS, n + m, generator=generator).argsort(dim=1)
        found_itself = 1
    # Sums in another order differ by rounding: what is as large to that counts as as large.
    as_large = _welch(values[order], n).abs() >= found.abs() * (1 - 1e-9)
    p = (int(as_large.sum()) + found_itself) / (len(order) + found_itself)
    return Test(float(found), p)


def _welch(values: Tensor, n: int) -> Tensor:
    """Of rows [..., n + m], the first n against the rest: [...]. Without any spread 0 or ±∞."""
    first, second = values[..., :n], values[..., n:]
    difference = second.mean(-1) - first.mean(-1)
    # Of equal values the mean is off by rounding, which no spread makes small.
    size = values.abs().amax(-1)
    difference = torch.where(difference.abs() <= 1e-12 * size, 0.0, difference)
    error = (first.var(-1) / n + second.var(-1) / values[..., n:].shape[-1]).sqrt()
    return torch.where(difference == 0, 0.0, difference / error)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p-values of several tests, so adjusted that to call those moved which stay below α calls none falsely
    with probability 1 − α, however they hang together (Holm 1979, Scandinavian Journal of Statistics 6)."""
    adjusted: dict[str, float] = {}
    largest = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}
