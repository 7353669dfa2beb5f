"""The pool's state as a key sees it: the slots, and the share, usage and budget of teams."""

from __future__ import annotations

from typing import TypedDict

from cluster.pool.status import PoolState, PoolStatus, SlotCounts, TeamStatus


class StatusSeen(TypedDict):
    """The answer of ``GET /v1/fine_tuning/pool``."""

    object: str
    state: PoolState
    slots: SlotCounts
    cpus_per_job: int
    gpus_per_job: int
    teams: list[TeamStatus]
    """The caller's team, if the pool knows it by now; every team for an admin."""


def status_seen(status: PoolStatus, of: str | None) -> StatusSeen:
    """The part of a status that a team may see; all of it for ``None``, an admin."""
    return {
        "object": "fine_tuning.pool",
        "state": status["state"],
        "slots": status["slots"],
        "cpus_per_job": status["cpus_per_job"],
        "gpus_per_job": status["gpus_per_job"],
        "teams": [team for team in status["teams"] if of in (None, team["team"])],
    }
