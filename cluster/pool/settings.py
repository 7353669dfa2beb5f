"""Settings of a pool; all values are JSON-serialisable, since the journal stores them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from cluster.names import Name
from cluster.pool.budget import Budget
from odeformer.section import Section


class TeamSettings(Section):
    """Share and limits of one team."""

    weight: float = Field(default=1.0, gt=0, le=1000)
    """Relative share of the slots among teams that have jobs."""
    max_running: int | None = Field(default=None, ge=1)
    """Maximum number of the team's running jobs. Default: no limit."""
    max_queued: int = Field(default=100, ge=1)
    """Maximum number of the team's queued jobs; further submissions are refused."""
    budget: Budget | None = None
    """Slot-hours per day, week or month. Once they are spent, the team's jobs write a checkpoint and wait for
    the next period. Default: no limit."""
    max_priority: int = Field(default=10, ge=-10, le=10)
    """Maximum priority of the team's tasks."""


class PoolSettings(Section):
    """Settings of ``odeformer pool start``; a slot is one unit of the Ray resource ``finetune``."""

    dir: Path = Path("runs/pool")
    """Folder of the journal and the jobs, at this path on every node that runs jobs."""
    tracking_uri: str | None = None
    """MLflow tracking URI. Default: ``MLFLOW_TRACKING_URI``, else a SQLite file under ``runs/``."""
    cpus_per_job: int = Field(default=1, ge=1)
    """Compute threads per job."""
    gpus_per_job: int = Field(default=0, ge=0, le=1)
    """GPUs per job: 0 trains on CPUs, 1 on GPUs."""
    jobs_per_slot: int = Field(default=1, ge=1, le=8)
    """Maximum number of jobs that share a slot. Compatible jobs that would otherwise wait are trained in one
    process, with joint passes over their base."""
    max_failures: int = Field(default=3, ge=0)
    """Maximum number of restarts of a job from the same checkpoint after its process died."""
    stuck_after: float = Field(default=600.0, ge=1)
    """Seconds without heartbeat or progress after which a job's process is killed, which counts as its death;
    must exceed the duration of any step or checkpoint."""
    memory_per_slot: float | None = Field(default=None, gt=0)
    """GiB of memory that a slot's process may use, with what it has imported (about 0.5). A job that uses
    more is killed and has failed. Default: no limit."""
    grace_seconds: float = Field(default=60.0, gt=0)
    """Seconds that a job has to commit its current step when it is told to stop, before it is killed."""
    unknown_teams: Literal["accept", "refuse"] = "accept"
    """Whether teams not listed in ``teams`` may submit tasks. Each of them has the share of ``default``."""
    default: TeamSettings = TeamSettings()
    """Settings of all teams not listed in ``teams``."""
    teams: dict[Name, TeamSettings] = Field(default_factory=dict)
    """Settings by team name."""

    def team(self, name: str) -> TeamSettings:
        """Settings of a team, listed or not."""
        return self.teams.get(name, self.default)
