"""Cost of a run: the hours for which its workers computed, times the CPUs or GPUs of each.

Repeated steps count; waiting for resources does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from cluster.runs.events import Event, logged
from cluster.settings import ClusterSettings
from cluster.tags import CPU_HOURS, GPU_HOURS, TOKENS, hours


class Cost(NamedTuple):
    """CPU hours and GPU hours of a computation."""

    cpu_hours: float = 0.0
    gpu_hours: float = 0.0

    def plus(self, other: Cost, share: float = 1.0) -> Cost:
        """The sum with a share of another cost."""
        return Cost(self.cpu_hours + share * other.cpu_hours, self.gpu_hours + share * other.gpu_hours)


def run_tags(run: Path, cluster: ClusterSettings) -> dict[str, str]:
    """Cost and tokens of a pretraining run so far, from its event log, as tags of its version."""
    seconds, workers, tokens = 0.0, cluster.workers, 0
    for event in logged(run, Event.STARTED, Event.RESUMED, Event.STEP):
        if event["event"] != Event.STEP:
            workers = event.get("workers", workers)
        else:
            seconds += workers * event["step_seconds"]
            tokens = event["tokens"]
    hours = seconds / 3600
    return {
        CPU_HOURS: f"{hours * cluster.cpus_per_worker:.6g}",
        GPU_HOURS: f"{hours * cluster.gpus_per_worker:.6g}",
        TOKENS: str(tokens),
    }


def cost_of(tags: Mapping[str, str]) -> Cost:
    """Cost of a version according to its tags; zero where they are missing."""
    return Cost(hours(tags.get(CPU_HOURS)), hours(tags.get(GPU_HOURS)))
