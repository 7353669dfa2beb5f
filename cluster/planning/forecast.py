"""Forecast of a planned run with failures and preemptions: quantiles over simulated runs."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple, TypedDict

from cluster.planning.estimate import Estimate
from cluster.planning.simulation import DAY, PARTS, LongRun, Outcome

WRITE_BANDWIDTH = 2e12 / 16_384
"""Bytes/s that the store accepts per GPU: 2 TB/s sustained for 16,384 GPUs (Llama 3, arXiv 2407.21783,
section 3.3.1)."""
NODES_FOR_A_SPARE = 64
"""Nodes per spare node; there is at least one spare. An assumption."""
LEAST_GOODPUT = 0.05


class Quantiles(NamedTuple):
    """Quantiles over simulated runs."""

    low: float
    """The 5 % quantile."""
    median: float
    high: float
    """The 95 % quantile."""


def quantiles(values: Iterable[float]) -> Quantiles:
    """5 %, 50 % and 95 % quantiles of at least two values."""
    twentieths = statistics.quantiles(values, n=20, method="inclusive")
    return Quantiles(twentieths[0], twentieths[9], twentieths[18])


def long_run(
    planned: Estimate, spares: int | None = None, preemptions: float = 0.0, stragglers: float = 0.0
) -> LongRun:
    """The input of a simulation for an estimated run.

    Args:
        spares: number of spare nodes, by default one per 64 nodes and at least one.
        preemptions: preemptions per day, for the whole run.
        stragglers: number of nodes per day that become slow.

    Raises:
        ValueError: when failures are so frequent that the run would hardly progress.
    """
    if planned.reliability.goodput < LEAST_GOODPUT:
        failures = planned.reliability.failures_per_day
        raise ValueError(
            f"{planned.machines.gpus} GPUs fail {failures:,.0f} times a day, more often than a run can "
            "restart: choose fewer with --gpus"
        )
    nodes = -(-planned.machines.gpus // planned.machines.gpu.per_node)
    write = planned.commit_bytes / WRITE_BANDWIDTH
    return LongRun(
        steps=planned.settings.train.steps,
        step_seconds=planned.step_seconds,
        commit_every=max(planned.reliability.commit_every, write),
        commit_seconds=planned.reliability.commit_seconds,
        write_seconds=write,
        failures_per_day=planned.reliability.failures_per_day,
        spares=max(1, nodes // NODES_FOR_A_SPARE) if spares is None else spares,
        preemptions_per_day=preemptions,
        stragglers_per_day=stragglers,
    )


class Summary(TypedDict):
    """Summary of simulated runs, as plain values for JSON."""

    runs: int
    seed: int
    happens: dict[str, Any]
    """The assumed :class:`~cluster.planning.simulation.LongRun`."""
    days: dict[str, float]
    goodput: dict[str, float]
    """The quantiles ``low``, ``median`` and ``high``, as for ``days``."""
    failures: float
    preemptions: float
    """Means over the runs, as ``failures``."""
    parts: dict[str, float]
    """Mean share of the time that each part of a run took."""


def summary(run: LongRun, outcomes: Sequence[Outcome], seed: int) -> Summary:
    """Summarize simulated runs."""
    parts: dict[str, float] = {}
    for part in PARTS:
        parts[part] = statistics.fmean(outcome.seconds[part] / outcome.wall for outcome in outcomes)
    return {
        "runs": len(outcomes),
        "seed": seed,
        "happens": asdict(run),
        "days": quantiles(outcome.wall / DAY for outcome in outcomes)._asdict(),
        "goodput": quantiles(outcome.goodput for outcome in outcomes)._asdict(),
        "failures": statistics.fmean(outcome.failures for outcome in outcomes),
        "preemptions": statistics.fmean(outcome.preemptions for outcome in outcomes),
        "parts": parts,
    }
