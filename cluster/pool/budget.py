"""Slot-hour budgets of teams, by calendar period."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple

from pydantic import Field

from odeformer.section import Section

Per = Literal["day", "week", "month"]
PERIODS: tuple[Per, ...] = ("day", "week", "month")


class Budget(Section):
    """A team's slot-hours per calendar period in UTC. Unused hours are not carried over."""

    slot_hours: float = Field(gt=0, allow_inf_nan=False)
    """Slot-hours per period. If jobs have a GPU these are GPU-hours, otherwise hours of ``cpus_per_job``
    threads."""
    per: Per = "week"
    """Length of the period; weeks start on Monday."""


class Period(NamedTuple):
    """A calendar period, in seconds since the epoch."""

    begin: float
    end: float


def period(now: float, per: Per) -> Period:
    """The calendar period that contains ``now``, in seconds since the epoch."""
    midnight = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if per == "day":
        begin, end = midnight, midnight + timedelta(days=1)
    elif per == "week":
        begin = midnight - timedelta(days=midnight.weekday())
        end = begin + timedelta(days=7)
    else:
        begin = midnight.replace(day=1)
        end = (begin + timedelta(days=31)).replace(day=1)
    return Period(begin.timestamp(), end.timestamp())
