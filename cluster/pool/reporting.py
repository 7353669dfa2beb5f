"""The pool's status report from what its actor holds."""

from __future__ import annotations

import time

from cluster.pool.board import Board
from cluster.pool.dispatch import Dispatcher
from cluster.pool.settings import PoolSettings
from cluster.pool.slots import Slots
from cluster.pool.status import PoolState, PoolStatus, TeamStatus
from odeformer.files.shown import masked


def waiting(settings: PoolSettings, trouble: str | None) -> PoolStatus:
    """The status of a pool that cannot read its journal yet."""
    return {
        "dir": str(settings.dir),
        "tracking_uri": masked(str(settings.tracking_uri)),
        "cpus_per_job": settings.cpus_per_job,
        "gpus_per_job": settings.gpus_per_job,
        "state": "waiting",
        "slots": {"free": 0, "busy": 0, "starting": 0},
        "running": 0,
        "trained": 0,
        "trouble": trouble,
        "teams": [],
    }


def working(board: Board, dispatcher: Dispatcher, slots: Slots, trouble: str | None) -> PoolStatus:
    """The status of a pool that knows its jobs; the accounts are brought up to now."""
    settings, shares = board.settings, board.shares
    shares.advance(time.time())
    rates = shares.rates()
    state: PoolState = "draining" if dispatcher.is_draining else "running"
    return {
        **waiting(settings, trouble),
        "state": "stopping" if dispatcher.is_stopping else state,
        "slots": {"free": slots.free, "busy": shares.busy, "starting": slots.starting},
        "running": len(board.jobs("running")),
        "trained": len(board.jobs("trained")),
        "teams": [
            of_team(board, name, rates.get(name, 0.0)) for name in sorted({*settings.teams, *shares.teams()})
        ],
    }


def of_team(board: Board, name: str, fair_slots: float) -> TeamStatus:
    """A team's part of the report."""
    settings, account = board.settings.team(name), board.shares.account(name)
    return {
        "team": name,
        "weight": settings.weight,
        "max_running": settings.max_running,
        "max_queued": settings.max_queued,
        "budget": None if settings.budget is None else settings.budget.model_dump(),
        "max_priority": settings.max_priority,
        "running": len(account.began),
        "queued": account.waiting,
        "service_seconds": round(account.service, 1),
        "spent_hours": {per: spent / 3600 for per, spent in account.spent.items()},
        "fair_slots": round(fair_slots, 2),
        "behind_seconds": round(account.lag, 1),
    }
