"""How long a run or a job still takes, from the pace of its steps so far."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from cluster.runs.events import Event, LoggedEvent

MOST_POINTS = 64
FEWEST_POINTS = 5
DEVIATIONS = 1.645
"""Standard deviations of a normal distribution from its mean to its 95 % quantile."""


@dataclass(frozen=True)
class TimeLeft:
    """Seconds until the last step: the estimate, and an interval that contains 90 % of the cases."""

    seconds: float
    low: float
    high: float


class Pace:
    """Notes when steps were reached for the first time.

    The time includes everything between steps: validations, commits, and restarts with the steps that they
    repeat. So an interval that has seen no accident knows of none.
    """

    def __init__(self) -> None:
        self._points: list[tuple[int, float]] = []
        self._stride, self._last = 1, 0

    def add(self, event: LoggedEvent) -> None:
        """Take note of an event of the log; those of other kinds than a step or a launch tell nothing."""
        if event["event"] == Event.LAUNCHED:  # nobody trained before that
            self._points, self._stride, self._last = [], 1, 0
        if event["event"] != Event.STEP:
            return
        self._last = max(self._last, event["step"])
        if self._points and event["step"] < self._points[-1][0] + self._stride:
            return
        self._points.append((event["step"], event["time"]))
        if len(self._points) > MOST_POINTS:
            self._points, self._stride = self._points[::2], 2 * self._stride

    def left(self, steps: int) -> TimeLeft | None:
        """The time left until step ``steps`` from the last one made; ``None`` before a few steps are made.

        The time of a step is taken for independent of the others' within a run, with the mean and variance
        seen so far; the interval has both that variance and the uncertainty of the mean.
        """
        if len(self._points) < FEWEST_POINTS:
            return None
        (first, began), (last, now) = self._points[0], self._points[-1]
        made, rest = last - first, max(0, steps - self._last)
        mean = max(0.0, now - began) / made
        squares = 0.0
        for (step, at), (next_step, next_at) in zip(self._points, self._points[1:], strict=False):
            squares += (next_at - at - mean * (next_step - step)) ** 2 / (next_step - step)
        variance = squares / (len(self._points) - 2)
        around = DEVIATIONS * math.sqrt(variance * rest * (1 + rest / made))
        return TimeLeft(mean * rest, max(0.0, mean * rest - around), mean * rest + around)


def time_left(events: Iterable[LoggedEvent], steps: int) -> TimeLeft | None:
    """The time left until step ``steps`` according to the events of a log."""
    pace = Pace()
    for event in events:
        pace.add(event)
    return pace.left(steps)
