"""Times in words."""

from __future__ import annotations

import time

from cluster.runs.pace import TimeLeft


def duration(seconds: float) -> str:
    """Seconds in the largest unit that gives at least 2."""
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:,.0f} s"


def in_words(left: TimeLeft | None) -> str:
    """The time left with its interval; nothing when it is not known yet."""
    if left is None:
        return ""
    return f"{duration(left.seconds)} left [{duration(left.low)}, {duration(left.high)}]"


def moment(at: float | None) -> str:
    """A moment in seconds since the epoch as local date and time; nothing for one that never was."""
    return "" if at is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
