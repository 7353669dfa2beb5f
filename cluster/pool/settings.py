"""Settings of a pool. Plain values only: the journal stores them as JSON."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from cluster.names import Name
from cluster.pool.budget import Budget
from odeformer.section import Section


class TeamSettings(Section):
    weight: float = Field(default=1.0, gt=0, le=1000)
    """The team's weight when slots are shared between teams that have jobs."""
    max_running: int | None = Field(default=None, ge=1)
    """Maximum number of the team's jobs that run at a time; no limit when not given."""
    max_queued: int = Field(default=100, ge=1)
    """Maximum number of the team's queued jobs; further submissions are refused."""
    budget: Budget | None = None
    """Slot-hours per day, week or month. Once they are spent, the team's jobs checkpoint and wait for the
    next period."""
    max_priority: int = Field(default=10, ge=-10, le=10)
    """Highest priority that the team's tasks may have."""


class PoolSettings(Section):
    """Settings of ``odeformer pool start``; the cluster's ``finetune`` resources are its slots."""

    dir: Path = Path("runs/pool")
    """Folder of the journal and the jobs; every node that runs jobs must see it under this path."""
    tracking_uri: str | None = None
    """URI of the MLflow store; by default ``MLFLOW_TRACKING_URI``, else a SQLite file under ``runs/``."""
    cpus_per_job: int = Field(default=1, ge=1)
    """Number of threads that a job computes with."""
    gpus_per_job: int = Field(default=0, ge=0, le=1)
    """Number of GPUs per job: 1 runs jobs on GPUs."""
    jobs_per_slot: int = Field(default=1, ge=1, le=8)
    """Maximum number of jobs that share a slot. When jobs would otherwise wait, compatible ones are trained
    in one process with joint passes over their base."""
    max_failures: int = Field(default=3, ge=0)
    """Maximum restarts of a job whose process died, each from its last checkpoint. A later checkpoint resets
    the count."""
    grace_seconds: float = Field(default=60.0, gt=0)
    """Seconds that a job has to finish and commit its current step when it is told to stop, before it is
    killed."""
    default: TeamSettings = TeamSettings()
    """Settings of teams that ``teams`` does not list."""
    teams: dict[Name, TeamSettings] = Field(default_factory=dict)
    """Settings by team name."""

    def team(self, name: str) -> TeamSettings:
        """The settings of a team."""
        return self.teams.get(name, self.default)
