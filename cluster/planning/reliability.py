"""Reliability of a long run: failure rate, best commit interval and goodput."""

from __future__ import annotations

import math
from typing import NamedTuple

GPU_HOURS_BETWEEN_FAILURES = 16_384 * 54 * 24 / 419
"""GPU hours between two unplanned interruptions: 419 of them in 54 days on 16,384 GPUs (Llama 3,
arXiv 2407.21783, section 3.3.4)."""
HOST_BANDWIDTH = 25e9
"""Bandwidth from a GPU to host memory in bytes/s."""
LEAST_INTERVAL = 60.0
"""Minimum seconds between commits, each of which has to be written."""
RESTART_SECONDS = 300.0
"""Seconds from a failure to the next step: detection, start of the workers, loading the state."""


class Reliability(NamedTuple):
    """Failures, commits and goodput of a run."""

    failures_per_day: float
    commit_seconds: float
    """Seconds that training waits for a commit."""
    commit_every: float
    """Seconds between commits."""
    goodput: float
    """Fraction of the time that is spent on steps that need not be repeated."""


def reliability(gpus: int, commit_bytes: float) -> Reliability:
    """Reliability of a run.

    Args:
        gpus: number of GPUs.
        commit_bytes: bytes that each GPU copies to host memory for a commit. Only this copy takes training
            time, as a thread writes the commit.
    """
    between = 3600 * GPU_HOURS_BETWEEN_FAILURES / gpus
    commit = commit_bytes / HOST_BANDWIDTH
    every = max(best_interval(commit, between), LEAST_INTERVAL)
    return Reliability(86400 / between, commit, every, goodput(every, commit, between, RESTART_SECONDS))


def best_interval(commit: float, between: float) -> float:
    """Optimal seconds of work between commits, for failures ``between`` seconds apart on average.

    √(2 C M) − C for C < M / 2, else M (Daly 2006, "A higher order estimate of the optimum checkpoint interval
    for restart dumps", to first order; Young 1974).
    """
    return math.sqrt(2 * commit * between) - commit if commit < between / 2 else between


def goodput(every: float, commit: float, between: float, restart: float) -> float:
    """τ divided by the time that τ seconds of work take, M e^(R/M) (e^((τ+C)/M) − 1).

    Failures are random, at a constant rate, also during commits and restarts (Daly 2006, equation 20).
    """
    return every / (between * math.exp(restart / between) * math.expm1((every + commit) / between))
