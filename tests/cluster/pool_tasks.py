"""Looking at a pool's jobs: their processes, how many ran at once, how far behind the fair share."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import psutil

from cluster.pool.job import Job, Transition
from cluster.pool.shares import fluid_rates
from cluster.runs import lock


def process_of(job: Job) -> psutil.Process | None:
    """The process that holds a job's folder."""
    try:
        words = (Path(job.folder) / lock.FILE_NAME).read_text().split()
        return psutil.Process(int(words[1]))
    except (OSError, IndexError, ValueError, psutil.NoSuchProcess):
        return None


def most_slots(transitions: list[Transition]) -> int:
    """How many slots were taken at a time, by the journal."""
    running: dict[str, str] = {}
    most = 0
    for _, _, job, _, state, _, process in transitions:
        running.pop(job, None)
        if state == "running":
            running[job] = process
        most = max(most, len(set(running.values())))
    return most


def most_at_once(transitions: list[Transition], team: str | None = None) -> int:
    """How many jobs ran at a time, of one team or of all, by the journal."""
    running: set[str] = set()
    most = 0
    for _, _, job, whose, state, *_ in transitions:
        if team in (None, whose):
            running = running | {job} if state == "running" else running - {job}
            most = max(most, len(running))
    return most


def lags(
    transitions: list[Transition], weights: dict[str, float], quotas: dict[str, int]
) -> tuple[dict[str, float], float]:
    """How far each team's service was behind the fluid fair share at most (below zero: ahead), while it had
    jobs that waited; and how long the longest job had a slot, in all its attempts. Both in slot-seconds, of
    which jobs that share a process have equal parts."""
    queued, running = dict.fromkeys(weights, 0), dict[str, tuple[str, float, str]]()
    lag, worst = dict.fromkeys(weights, 0.0), dict.fromkeys(weights, 0.0)
    used: dict[str, float] = {}
    was: dict[str, str] = {}
    before = 0.0
    for _, now, job, team, state, _, process in sorted(transitions, key=lambda t: (t[1], t[0])):
        sharing = Counter(place for _, _, place in running.values())
        jobs = {t: sum(whose == t for whose, _, _ in running.values()) for t in weights}
        had = {
            t: sum(1 / sharing[place] for whose, _, place in running.values() if whose == t) for t in weights
        }
        active = {t: weight for t, weight in weights.items() if queued[t] or jobs[t]}
        most = {t: float(min(quotas.get(t, 10**6), queued[t] + jobs[t])) for t in active}
        rates = fluid_rates(len(sharing), active, most)
        for t in weights:
            lag[t] += (now - before) * (rates.get(t, 0.0) - had[t])
            if queued[t] and abs(lag[t]) > abs(worst[t]):
                worst[t] = lag[t]
        before = now
        if was.get(job) == "queued":
            queued[team] -= 1
        if was.get(job) == "running":
            used[job] = used.get(job, 0.0) + now - running.pop(job)[1]
        if state == "queued":
            queued[team] += 1
        if state == "running":
            running[job] = (team, now, process or job)
        was[job] = state
    return worst, max(used.values())
