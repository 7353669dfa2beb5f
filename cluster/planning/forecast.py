"""What a planned run comes to with all that may happen to it: quantiles of simulated runs."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from cluster.planning.estimate import Estimate
from cluster.planning.simulation import DAY, PARTS, LongRun, Outcome

WRITE_BANDWIDTH = 2e12 / 16_384
"""Bytes/s that the store takes from each GPU: 2 TB/s sustained for 16,384 (Llama 3, arXiv 2407.21783,
section 3.3.1)."""
NODES_FOR_A_SPARE = 64
"""One spare node for so many, and at least one. An assumption."""
LEAST_GOODPUT = 0.05


class Quantiles(NamedTuple):
    """Of simulated runs."""

    low: float
    """5 % are below it."""
    median: float
    high: float
    """5 % are above it."""


def quantiles(values: Iterable[float]) -> Quantiles:
    """Of at least two values."""
    twentieths = statistics.quantiles(values, n=20, method="inclusive")
    return Quantiles(twentieths[0], twentieths[9], twentieths[18])


def long_run(
    made: Estimate, spares: int | None = None, preemptions: float = 0.0, stragglers: float = 0.0
) -> LongRun:
    """The run that was estimated, with what happens to it.

    Args:
        spares: nodes; one for each 64, and at least one, when not given.
        preemptions: a day, of the whole run.
        stragglers: nodes that become slow in a day.

    Raises:
        ValueError: when it fails so often that it would hardly move.
    """
    if made.reliability.goodput < LEAST_GOODPUT:
        raise ValueError(
            f"{made.machines.gpus} GPUs fail {made.reliability.failures_per_day:,.0f} times a day, sooner "
            "than a run starts again: there is nothing to simulate; take fewer with --gpus"
        )
    nodes = -(-made.machines.gpus // made.machines.gpu.per_node)
    write = made.commit_bytes / WRITE_BANDWIDTH
    return LongRun(
        steps=made.settings.train.steps,
        step_seconds=made.step_seconds,
        commit_every=max(made.reliability.commit_every, write),
        commit_seconds=made.reliability.commit_seconds,
        write_seconds=write,
        failures_per_day=made.reliability.failures_per_day,
        spares=max(1, nodes // NODES_FOR_A_SPARE) if spares is None else spares,
        preemptions_per_day=preemptions,
        stragglers_per_day=stragglers,
    )


def summary(run: LongRun, outcomes: Sequence[Outcome], seed: int) -> dict[str, Any]:
    """What simulated runs come to, as plain values."""
    return {
        "runs": len(outcomes),
        "seed": seed,
        "happens": asdict(run),
        "days": quantiles(one.wall / DAY for one in outcomes)._asdict(),
        "goodput": quantiles(one.goodput for one in outcomes)._asdict(),
        "failures": statistics.fmean(one.failures for one in outcomes),
        "preemptions": statistics.fmean(one.preemptions for one in outcomes),
        "parts": {part: statistics.fmean(one.seconds[part] / one.wall for one in outcomes) for part in PARTS},
    }
