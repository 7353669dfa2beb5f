"""Who pays: what pretraining has cost, what each team's jobs have, and what a team would have paid alone.

A cost is the time for which workers computed, times the CPUs or GPUs that each of them had. Steps that had to
be made again count, waiting for room does not.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from cluster.runs.cost import Cost, cost_of


class TeamUsage(NamedTuple):
    """What a team has had of the pool and its bases."""

    team: str
    jobs: int
    """All that ever ran."""
    own: Cost
    """Of its jobs."""
    bases: tuple[str, ...]
    share: Cost
    """Its part of what its bases cost: each base's cost is divided equally among the teams that used it."""
    alone: Cost
    """Its jobs and the whole of its bases: what it would have paid to pretrain alone."""

    @property
    def total(self) -> Cost:
        return self.own.plus(self.share)


@dataclass
class _Run:
    """A job's time in a process."""

    job: str
    began: float
    end: float


def running_seconds(transitions: Iterable[Sequence[Any]], now: float | None = None) -> dict[str, float]:
    """The slot-seconds that each job has had in all, from the pool's changes of state, oldest first.

    The time of jobs that share a process is divided among them, equally at every moment.

    Args:
        transitions: number, time, job, team, state, reason and process of each.
        now: until when jobs that run have run, in seconds since the epoch.
    """
    runs: dict[str, list[_Run]] = {}
    running: dict[str, _Run] = {}
    for number, at, job, _, state, _, process in transitions:
        if job in running:
            running.pop(job).end = at
        if state == "running":
            running[job] = _Run(job, at, time.time() if now is None else now)
            runs.setdefault(process or str(number), []).append(running[job])
    seconds = {run.job: 0.0 for together in runs.values() for run in together}
    for together in runs.values():
        moments = sorted({moment for run in together for moment in (run.began, run.end)})
        for begin, end in itertools.pairwise(moments):
            there = [run.job for run in together if run.began <= begin and end <= run.end]
            for job in there:
                seconds[job] += (end - begin) / len(there)
    return seconds


def by_team(
    jobs: Iterable[Mapping[str, Any]], seconds: Mapping[str, float], each: Cost, bases: Mapping[str, Cost]
) -> list[TeamUsage]:
    """What every team has used, by name.

    Args:
        jobs: the pool's, with ``id``, ``team`` and ``base``; those that never ran do not count.
        seconds: for how long each ran, by its id.
        each: what a job costs in an hour.
        bases: what each base has cost, all that it was made from included.
    """
    ran = [job for job in jobs if job["id"] in seconds]
    users: dict[str, set[str]] = {}
    for job in ran:
        users.setdefault(job["base"], set()).add(job["team"])
    found = []
    for team in sorted({job["team"] for job in ran}):
        mine = [job for job in ran if job["team"] == team]
        own = Cost()
        for job in mine:
            own = own.plus(each, seconds[job["id"]] / 3600)
        used = tuple(sorted({job["base"] for job in mine}))
        share, alone = Cost(), own
        for base in used:
            share = share.plus(bases.get(base, Cost()), 1 / len(users[base]))
            alone = alone.plus(bases.get(base, Cost()))
        found.append(TeamUsage(team, len(mine), own, used, share, alone))
    return found


def base_costs(bases: Iterable[str], uri: str | None) -> dict[str, Cost]:
    """What each base has cost with all that it was made from, as far as the registry knows; a base that is
    not there any more cost nothing that is known."""
    from cluster.registry.family import family

    costs = {}
    for base in set(bases):
        try:
            found = family(base, uri)
        except ValueError:
            costs[base] = Cost()
            continue
        costs[base] = Cost()
        for version in (found.version, *found.ancestors):
            costs[base] = costs[base].plus(cost_of(version.tags))
    return costs
