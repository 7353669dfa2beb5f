"""What a pool is made of. Plain values only: they are in its journal as JSON."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from cluster.names import Name
from cluster.pool.budget import Budget
from odeformer.section import Section


class TeamSettings(Section):
    weight: float = Field(default=1.0, gt=0, le=1000)
    """Its part of the slots while several teams have jobs, relative to the others' weights."""
    max_running: int | None = Field(default=None, ge=1)
    """Jobs at a time; all slots when not given."""
    max_queued: int = Field(default=100, ge=1)
    """Jobs that may wait; one more is refused when it is submitted."""
    budget: Budget | None = None
    """Slot-hours in each day, week or month: when they are spent, its jobs commit their step and wait for
    the next one."""
    max_priority: int = Field(default=10, ge=-10, le=10)
    """The highest that its tasks may have."""


class PoolSettings(Section):
    """Everything ``odeformer pool start`` needs. How many slots there are the cluster says: one for each of
    its ``finetune`` resources."""

    dir: Path = Path("runs/pool")
    """Where the journal is and jobs write; every node that runs jobs sees it under this path."""
    tracking_uri: str | None = None
    """MLflow's; ``MLFLOW_TRACKING_URI``, else a SQLite file under ``runs/``, when not given."""
    cpus_per_job: int = Field(default=1, ge=1)
    """Threads that a job computes with."""
    gpus_per_job: int = Field(default=0, ge=0, le=1)
    """1 to run jobs on GPUs."""
    jobs_per_slot: int = Field(default=1, ge=1, le=8)
    """So many jobs may share a slot, in one process that makes each pass over their base for all of them:
    of those that would wait otherwise, ones that can be trained together."""
    max_failures: int = Field(default=3, ge=0)
    """So often a job whose process died is begun again, from its last checkpoint; after a later checkpoint
    the count begins anew."""
    grace_seconds: float = Field(default=60.0, gt=0)
    """A job that is asked to end is killed after so long: it has to finish and commit the step it is at."""
    default: TeamSettings = TeamSettings()
    """Of teams that are not named."""
    teams: dict[Name, TeamSettings] = Field(default_factory=dict)
    """By their names."""

    def team(self, name: str) -> TeamSettings:
        """Those of a team."""
        return self.teams.get(name, self.default)
