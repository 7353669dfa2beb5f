"""A job of the pool: its states, its record in the journal, and the view of it that clients get."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from cluster.runs.pace import TimeLeft

State = Literal["queued", "running", "trained", "succeeded", "failed", "cancelled"]
"""``trained``: the weights are saved, but the registry has not accepted them yet."""

ENDED: frozenset[State] = frozenset({"succeeded", "failed", "cancelled"})
CANCELLED = "cancelled"
"""How the reason begins for which a cancelled job has been told to stop; who did it follows."""

_NEXT_STATES: dict[State, frozenset[State]] = {
    "queued": frozenset({"running", "failed", "cancelled"}),
    # Queued again: its process died, or it was preempted. It resumes from its last checkpoint.
    "running": frozenset({"queued", "trained", "succeeded", "failed", "cancelled"}),
    "trained": frozenset({"succeeded", "failed", "cancelled"}),
    "succeeded": frozenset(),
    "failed": frozenset({"queued"}),
    "cancelled": frozenset({"queued"}),
}


def may_follow(before: State, after: State) -> bool:
    """Whether a job may change from one state to the other."""
    return after in _NEXT_STATES[before]


@dataclass(frozen=True, kw_only=True)
class _JobFields:
    """Fields that a job's record and its view share. Times are in seconds since the epoch."""

    id: str
    """``<team>/<name>/<number>``: the number counts the jobs of that name."""
    team: str
    name: str
    number: int
    base: str
    """The base model's version, ``models:/<name>/<version>``."""
    priority: int
    deadline: float | None
    task: dict[str, Any]
    """The resolved :class:`~cluster.tasks.task.Task` as JSON."""
    state: State
    submitted: float
    changed: float
    """Time of the last change of state."""
    reason: str | None
    """Why the job is in this state, if there is more to say."""
    ending: str | None
    """Why a running job has been told to stop; ``None`` if it has not."""
    attempts: int
    result: dict[str, Any] | None
    """The :class:`~cluster.finetuning.result.FinetuneResult` as JSON, once the job has been trained."""
    error: str | None


@dataclass(frozen=True, kw_only=True)
class JobRecord(_JobFields):
    """A job as the journal stores it."""

    failures: int
    """Deaths of its processes since it last made progress."""
    failed_at: int
    """Optimizer step of its last checkpoint at the most recent failure."""
    process: str | None = None
    """Name of a running job's process, which other jobs may share."""


@dataclass(frozen=True, kw_only=True)
class Job(_JobFields):
    """A job as clients see it. ``dataclasses.asdict`` gives its JSON."""

    folder: str
    """The folder that the job writes to."""
    together_with: list[str]
    """Ids of the jobs that share its process."""
    waits_for: str | None
    """What keeps a queued job from starting, in words."""


@dataclass(frozen=True)
class HistoryEntry:
    """A past change of state of a job."""

    time: float
    state: State
    reason: str | None


@dataclass(frozen=True, kw_only=True)
class JobDetails(Job):
    """A job with its history and the end of its log."""

    history: list[HistoryEntry]
    last_lines: list[str]
    time_left: TimeLeft | None = None
    """Time until the last step of a running job, once it has made a few."""


class Transition(NamedTuple):
    """A change of state, numbered in the order of writing."""

    number: int
    time: float
    job: str
    team: str
    state: State
    reason: str | None
    process: str | None = None
    """The process a job runs in from now on; ``None`` in journals older than shared slots."""


def find_job(jobs: Sequence[Job], name: str) -> str:
    """The id of the latest of some jobs that is called ``name``, ``team/name`` or ``team/name/number``.

    Raises:
        ValueError: when there is none, or several teams have one.
    """
    matches = [job for job in jobs if name in (job.id, f"{job.team}/{job.name}", job.name)]
    if not matches:
        latest = ", ".join(dict.fromkeys(f"{job.team}/{job.name}" for job in jobs[-10:])) or "none"
        raise ValueError(f"no job {name!r} in the pool; the latest: {latest}")
    teams = sorted({job.team for job in matches})
    if len(teams) > 1:
        raise ValueError(f"teams {', '.join(teams)} have a job {name!r}: say TEAM/{name}")
    return matches[-1].id
