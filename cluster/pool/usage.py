"""Cost accounting: what pretraining cost, what each team's jobs cost, and what a team would have paid alone.

A cost is the time for which workers computed, times the CPUs or GPUs that each of them had. Repeated steps
count; waiting for resources does not.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from cluster.pool.job import Job, Transition
from cluster.runs.cost import Cost, cost_of


class TeamUsage(NamedTuple):
    """A team's use of the pool and of its base models."""

    team: str
    jobs: int
    """Number of jobs that ever ran."""
    own: Cost
    """Cost of the team's jobs."""
    bases: tuple[str, ...]
    share: Cost
    """The team's part of its bases' cost, which is divided equally among the teams that use a base."""
    alone: Cost
    """Cost of the team's jobs plus the whole of its bases, as if it had pretrained them alone."""

    @property
    def total(self) -> Cost:
        return self.own.plus(self.share)


@dataclass
class _Run:
    """The time that a job spent in a process."""

    job: str
    began: float
    end: float


def running_seconds(transitions: Iterable[Transition], now: float | None = None) -> dict[str, float]:
    """The slot-seconds that each job has used, by its id.

    The time of jobs that share a process is divided among them, equally at every moment.

    Args:
        transitions: the pool's changes of state, oldest first.
        now: the time, in seconds since the epoch, up to which running jobs are counted.
    """
    now = time.time() if now is None else now
    runs: dict[str, list[_Run]] = {}
    running: dict[str, _Run] = {}
    seconds: dict[str, float] = {}
    for entry in transitions:
        if entry.job in running:
            running.pop(entry.job).end = entry.time
        if entry.state == "running":
            running[entry.job] = _Run(entry.job, entry.time, now)
            runs.setdefault(entry.process or str(entry.number), []).append(running[entry.job])
            seconds[entry.job] = 0.0

    for together in runs.values():
        moments = sorted({moment for run in together for moment in (run.began, run.end)})
        for begin, end in itertools.pairwise(moments):
            present = [run.job for run in together if run.began <= begin and end <= run.end]
            for job in present:
                seconds[job] += (end - begin) / len(present)
    return seconds


def by_team(
    jobs: Iterable[Job], seconds: Mapping[str, float], each: Cost, bases: Mapping[str, Cost]
) -> list[TeamUsage]:
    """Every team's usage, by name.

    Args:
        jobs: the pool's jobs; those that never ran do not count.
        seconds: for how long each job ran, by its id.
        each: the cost of a job per hour.
        bases: the cost of each base, including all models it was trained from.
    """
    ran = [job for job in jobs if job.id in seconds]
    users: dict[str, set[str]] = {}
    for job in ran:
        users.setdefault(job.base, set()).add(job.team)

    usages = []
    for team in sorted({job.team for job in ran}):
        team_jobs = [job for job in ran if job.team == team]
        own = Cost()
        for job in team_jobs:
            own = own.plus(each, seconds[job.id] / 3600)
        used = tuple(sorted({job.base for job in team_jobs}))
        share, alone = Cost(), own
        for base in used:
            share = share.plus(bases.get(base, Cost()), 1 / len(users[base]))
            alone = alone.plus(bases.get(base, Cost()))
        usages.append(TeamUsage(team, len(team_jobs), own, used, share, alone))
    return usages


def base_costs(bases: Iterable[str], uri: str | None) -> dict[str, Cost]:
    """The cost of each base and all models it was trained from, as far as the registry knows it."""
    from cluster.registry.family import family

    costs = {}
    for base in set(bases):
        costs[base] = Cost()
        try:
            relatives = family(base, uri)
        except ValueError:  # the base was deleted
            continue
        for version in (relatives.version, *relatives.ancestors):
            costs[base] = costs[base].plus(cost_of(version.tags))
    return costs
