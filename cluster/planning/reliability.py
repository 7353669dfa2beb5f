"""How often something breaks, how often to commit, and what part of the time is work that lasts."""

from __future__ import annotations

import math
from typing import NamedTuple

GPU_HOURS_BETWEEN_FAILURES = 16_384 * 54 * 24 / 419
"""Of hours that one GPU works between two interruptions that nobody planned: 419 in 54 days on 16,384 of them
(Llama 3, arXiv 2407.21783, section 3.3.4)."""
HOST_BANDWIDTH = 25e9
"""Bytes/s from a GPU into its host's memory."""
LEAST_INTERVAL = 60.0
"""Seconds between commits at least: each has to be written, too."""
RESTART_SECONDS = 300.0
"""From a failure to the next step: it is noticed, workers start, state is read."""


class Reliability(NamedTuple):
    """Of a run on so many GPUs."""

    failures_per_day: float
    commit_seconds: float
    """That a step waits for a commit."""
    commit_every: float
    """Seconds between commits."""
    goodput: float
    """The part of the time that is spent on steps which need not be made again."""


def reliability(gpus: int, commit_bytes: float) -> Reliability:
    """Of a run on so many GPUs, each of which copies so many bytes into its host's memory for a commit.

    Commits go on in a thread behind that copy, so it is what they cost.
    """
    between = 3600 * GPU_HOURS_BETWEEN_FAILURES / gpus
    commit = commit_bytes / HOST_BANDWIDTH
    every = max(best_interval(commit, between), LEAST_INTERVAL)
    return Reliability(86400 / between, commit, every, goodput(every, commit, between, RESTART_SECONDS))


def best_interval(commit: float, between: float) -> float:
    """Seconds of work between commits that lose least, for failures ``between`` seconds apart on average.

    √(2 C M) − C for C < M / 2, else M (Daly 2006, "A higher order estimate of the optimum checkpoint interval
    for restart dumps", to first order; Young 1974).
    """
    return math.sqrt(2 * commit * between) - commit if commit < between / 2 else between


def goodput(every: float, commit: float, between: float, restart: float) -> float:
    """τ over the time that τ seconds of work take: M e^(R/M) (e^((τ+C)/M) − 1), for failures that come at
    random at a constant rate, also during commits and restarts (Daly 2006, equation 20)."""
    return every / (between * math.exp(restart / between) * math.expm1((every + commit) / between))
