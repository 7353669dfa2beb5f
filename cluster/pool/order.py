"""Which job begins next, which share its slot, and which makes room for a higher priority. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.pool.journal import Job
from cluster.pool.shares import Shares
from cluster.tasks.shape import shape
from cluster.tasks.task import Task


def next_job(queued: Sequence[Job], shares: Shares) -> Job | None:
    """The job that a free slot should have, if any may begin.

    Of teams whose quota has room: first the highest priority, then the team by its share, then whichever was
    submitted first.

    Args:
        queued: in the order in which they were submitted.
    """
    may = [job for job in queued if shares.has_room(job.team)]
    if not may:
        return None
    highest = max(job.priority for job in may)
    may = [job for job in may if job.priority == highest]
    team = shares.next_team({job.team for job in may})
    return next(job for job in may if job.team == team)


def next_to_join(there: Sequence[Job], queued: Sequence[Job], shares: Shares) -> Job | None:
    """The job that should share the slot of others that are just about to begin, if any may.

    It has their shape and priority, its team's quota has room, and that it joins is fair to all; of several
    it is chosen as :func:`next_job` does. A job whose process has died since it got further runs alone: it
    may be what killed it.

    Args:
        there: whichever has the slot, and those that share it already.
        queued: in the order in which they were submitted.
    """
    first, wanted = there[0], _shape(there[0])
    if wanted is None or first.failures:
        return None
    may = [
        job
        for job in queued
        if (job.base, job.priority, job.failures) == (first.base, first.priority, 0)
        and shares.has_room(job.team)
        and _shape(job) == wanted
    ]
    team = shares.next_team_to_join({job.team for job in may}, first.process or first.id)
    return next((job for job in may if job.team == team), None)


def _shape(job: Job) -> object:
    return shape(Task.model_validate(job.task))


def to_preempt(queued: Sequence[Job], running: Sequence[Job], free_slots: int, shares: Shares) -> Job | None:
    """A running job that must end so that one of a higher priority may begin, if there is any.

    The lowest priority goes first, then the team that is furthest ahead of its share, then whichever began
    last. A team at its quota makes room among its own jobs.
    """
    for job in sorted(queued, key=lambda job: -job.priority):
        has_room = shares.has_room(job.team)
        if has_room and free_slots:
            return None  # it begins without that
        lower = [
            other
            for other in running
            if other.priority < job.priority and (has_room or other.team == job.team)
        ]
        if lower:
            return min(lower, key=lambda j: (j.priority, shares.account(j.team).lag, -j.changed))
    return None
