"""Slot-hours that a team may have in each calendar period."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple

from pydantic import Field

from odeformer.section import Section

Per = Literal["day", "week", "month"]
PERIODS: tuple[Per, ...] = ("day", "week", "month")


class Budget(Section):
    """So much per calendar period in UTC; what is left of it is not carried over."""

    slot_hours: float = Field(gt=0, allow_inf_nan=False)
    """GPU-hours where jobs have a GPU each; else hours of ``cpus_per_job`` threads."""
    per: Per = "week"
    """A week begins on Monday."""


class Period(NamedTuple):
    """A calendar period, in seconds since the epoch."""

    begin: float
    end: float


def period(now: float, per: Per) -> Period:
    """The one that ``now`` (seconds since the epoch) is in."""
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
