"""Pure functions that decide which job starts next, which jobs share a slot, and which job is preempted."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.pool.job import JobRecord
from cluster.pool.shares import Shares
from cluster.tasks.task import Task, shape


def next_job(queued: Sequence[JobRecord], shares: Shares) -> JobRecord | None:
    """The job that a free slot should run, if any may start.

    Among teams below their quota, the highest priority wins, then the team that fair share picks, then the
    earliest submission.

    Args:
        queued: the queued jobs in order of submission.
    """
    eligible = [job for job in queued if shares.has_room(job.team)]
    if not eligible:
        return None
    highest = max(job.priority for job in eligible)
    eligible = [job for job in eligible if job.priority == highest]
    team = shares.next_team({job.team for job in eligible})
    return next(job for job in eligible if job.team == team)


def next_to_join(
    slot_jobs: Sequence[JobRecord], queued: Sequence[JobRecord], shares: Shares
) -> JobRecord | None:
    """The queued job that should share the slot of jobs that are about to start, if any may.

    It must have their shape and priority, its team must be below its quota, and joining must be fair to all
    teams; ties are broken as in :func:`next_job`. A job whose process has died since its last progress runs
    alone, because it may have caused the death.

    Args:
        slot_jobs: the jobs that already have the slot.
        queued: the queued jobs in order of submission.
    """
    first, wanted = slot_jobs[0], _shape(slot_jobs[0])
    if wanted is None or first.failures:
        return None
    eligible = [
        job
        for job in queued
        if (job.base, job.priority, job.failures) == (first.base, first.priority, 0)
        and shares.has_room(job.team)
        and _shape(job) == wanted
    ]
    team = shares.next_team_to_join({job.team for job in eligible}, first.process or first.id)
    return next((job for job in eligible if job.team == team), None)


def _shape(job: JobRecord) -> object:
    return shape(Task.model_validate(job.task))


def to_preempt(
    queued: Sequence[JobRecord], running: Sequence[JobRecord], free_slots: int, shares: Shares
) -> JobRecord | None:
    """The running job to preempt for a queued job of higher priority, if there is one.

    The victim has the lowest priority, then the team furthest ahead of its share, then the latest start. A
    team at its quota can only preempt its own jobs.
    """
    for job in sorted(queued, key=lambda job: -job.priority):
        has_room = shares.has_room(job.team)
        if has_room and free_slots:
            return None  # it starts without preempting anything
        lower = [
            other
            for other in running
            if other.priority < job.priority and (has_room or other.team == job.team)
        ]
        if lower:
            return min(lower, key=lambda j: (j.priority, shares.account(j.team).lag, -j.changed))
    return None
