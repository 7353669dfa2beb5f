"""The pool's status report, as ``odeformer pool status --json`` prints it."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

from cluster.pool.budget import Per

PoolState = Literal["waiting", "running", "draining", "stopping"]
"""``waiting``: the pool cannot read its journal yet."""


class SlotCounts(TypedDict):
    """Numbers of slots."""

    free: int
    busy: int
    starting: int
    """Number of slots that are not warm yet, or have no node."""


class TeamStatus(TypedDict):
    """A team's settings, jobs, and service."""

    team: str
    weight: float
    max_running: int | None
    max_queued: int
    budget: dict[str, Any] | None
    """A :class:`~cluster.pool.budget.Budget` as JSON."""
    max_priority: int
    running: int
    queued: int
    service_seconds: float
    """Service in slot-seconds, over all jobs."""
    spent_hours: dict[Per, float]
    """Slot-hours spent in the current day, week and month."""
    fair_slots: float
    """Slots that the team should have now by fair share."""
    behind_seconds: float
    """Slot-seconds by which the team lags behind its fair share; negative if it is ahead."""


class PoolStatus(TypedDict):
    """The pool as a whole."""

    dir: str
    tracking_uri: str | None
    cpus_per_job: int
    gpus_per_job: int
    state: PoolState
    slots: SlotCounts
    running: int
    """Number of running jobs."""
    trained: int
    """Number of trained jobs that the registry has not accepted yet."""
    trouble: str | None
    """Why the pool cannot write to its ``dir``, as on a full disk; it goes on as soon as it can."""
    teams: list[TeamStatus]
