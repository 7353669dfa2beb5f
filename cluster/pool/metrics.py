"""What the pool says of itself to Ray's metrics, which Prometheus reads from every node.

A team that the pool's settings name has a label of its own; all others share ``(others)``, so that names that
anybody may give do not make a time series each.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import get_args

from ray.util import metrics

from cluster.pool.board import Board
from cluster.pool.job import JobRecord
from cluster.pool.settings import PoolSettings
from cluster.pool.slots import Slots
from cluster.pool.warm import Cause

EVERY_SECONDS = 2.0
OTHER = "(others)"
"""Label of the teams that the settings do not name."""
WAITED_SECONDS = [1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 24 * 3600]
"""Upper bounds of the histogram's buckets."""


class PoolMetrics:
    """The pool's metrics by Ray's names; Prometheus sees them with ``ray_`` in front."""

    def __init__(self) -> None:
        by_team = ("team",)
        self._queued = metrics.Gauge("odeformer_pool_queued", "Jobs that wait for a slot.", by_team)
        self._running = metrics.Gauge("odeformer_pool_running", "Jobs that run.", by_team)
        self._trained = metrics.Gauge(
            "odeformer_pool_trained", "Trained jobs that wait for the registry.", by_team
        )
        self._oldest = metrics.Gauge(
            "odeformer_pool_oldest_wait_seconds", "Time that the longest waiting job has waited.", by_team
        )
        self._waited = metrics.Histogram(
            "odeformer_pool_waited_seconds",
            "Time that jobs have waited when they begin or go on.",
            boundaries=WAITED_SECONDS,
            tag_keys=by_team,
        )
        self._slot_seconds = metrics.Gauge(
            "odeformer_pool_slot_seconds", "Slot-seconds used over all jobs.", by_team
        )
        self._budget_left = metrics.Gauge(
            "odeformer_pool_budget_left_hours", "Slot-hours left in the team's current period.", by_team
        )
        # A gauge, since Prometheus does not see a counter's first count, with which its series would begin.
        self._failures = metrics.Gauge(
            "odeformer_pool_failures", "Attempts of jobs that failed, by cause.", (*by_team, "cause")
        )
        self._slots = metrics.Gauge("odeformer_pool_slots", "Slots by state.", ("state",))
        self._failed = Counter[tuple[str, Cause]]()
        self._looked = 0.0

    def began(self, job: JobRecord, settings: PoolSettings, now: float) -> None:
        """Count a job that begins or goes on, after it has waited."""
        waited = max(0.0, now - job.changed)
        self._waited.observe(waited, {"team": label(job.team, settings)})

    def failed(self, job: JobRecord, settings: PoolSettings, cause: Cause) -> None:
        """Count an attempt that failed."""
        self._failed[label(job.team, settings), cause] += 1

    def look(self, board: Board, slots: Slots) -> None:
        """Take note of jobs, accounts and slots, every few seconds."""
        ticks = time.monotonic()
        if ticks - self._looked < EVERY_SECONDS:
            return
        self._looked = ticks
        settings, now = board.settings, time.time()
        board.shares.advance(now)
        queued = board.jobs("queued")
        teams = {*settings.teams, *board.shares.teams()}
        labels = sorted({label(team, settings) for team in teams})
        for gauge, jobs in (
            (self._queued, queued),
            (self._running, board.jobs("running")),
            (self._trained, board.jobs("trained")),
        ):
            counts = Counter(label(job.team, settings) for job in jobs)
            for name in labels:
                gauge.set(counts[name], {"team": name})
        for name in labels:
            waits = [now - job.changed for job in queued if label(job.team, settings) == name]
            self._oldest.set(max(waits, default=0.0), {"team": name})
            of_label = [team for team in teams if label(team, settings) == name]
            service = sum(board.shares.account(team).service for team in of_label)
            self._slot_seconds.set(service, {"team": name})
            for cause in get_args(Cause):
                self._failures.set(self._failed[name, cause], {"team": name, "cause": cause})
        for name, team in settings.teams.items():
            if team.budget is not None:
                spent = board.shares.account(name).spent[team.budget.per] / 3600
                self._budget_left.set(max(0.0, team.budget.slot_hours - spent), {"team": name})
        for state, count in (
            ("free", slots.free),
            ("busy", board.shares.busy),
            ("starting", slots.starting),
        ):
            self._slots.set(count, {"state": state})


def label(team: str, settings: PoolSettings) -> str:
    """The label of a team."""
    return team if team in settings.teams else OTHER
