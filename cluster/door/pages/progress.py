"""How far a job is: its losses and its speed, read from its event log as that grows."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from threading import Lock
from typing import NamedTuple

from cluster.door.events import events_after
from cluster.runs.events import Event, LoggedEvent

MOST_POINTS = 500
"""Points of a curve beyond which two neighbors become one."""
RECENT = 50
"""Number of steps from which the speed is taken."""
MOST_LOGS = 256
"""Number of jobs whose logs need not be read again from their beginning."""
LARGEST = 1e12
"""Numbers that are greater are no losses, steps or times."""
VALIDATION = "validation_"


class Point(NamedTuple):
    """A training loss: the mean of the optimizer steps since the point before it."""

    step: int
    loss: float


class Validation(NamedTuple):
    """The metrics of a validation at an optimizer step, such as ``loss`` and ``accuracy``."""

    step: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class Progress:
    """The progress of a job when its log was last read."""

    step: int
    """The last optimizer step; 0 before the first one."""
    losses: tuple[Point, ...]
    validations: tuple[Validation, ...]
    last_step: float
    """Time of the last optimizer step, in seconds since the epoch."""
    seconds_per_step: float | None
    """Seconds from one step to the next, lately; ``None`` before the second step."""

    def end(self, steps: int) -> float | None:
        """When the last of so many steps will be done, in seconds since the epoch; ``None`` if unknown."""
        if self.seconds_per_step is None:
            return None
        return self.last_step + self.seconds_per_step * (steps - self.step)


class ProgressLog:
    """Follows the event log in a job's folder. Thread-safe.

    Whoever may write to the folder may have written anything there: what is no number is left out.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._offset, self._lock = folder, 0, Lock()
        self._step, self._time = 0, 0.0
        self._losses, self._held, self._each = list[Point](), list[float](), 1
        self._validations, self._recent = list[Validation](), deque[tuple[int, float]](maxlen=RECENT)

    def read(self) -> Progress:
        """The progress according to all that has been written by now."""
        with self._lock:
            while placed := events_after(self._folder, self._offset):
                self._offset = placed[-1].end
                for _, event in placed:
                    self._take(event)
            speed = None
            if len(self._recent) > 1:
                (first, began), (last, ended) = self._recent[0], self._recent[-1]
                speed = max(0.0, ended - began) / (last - first)
            return Progress(self._step, tuple(self._losses), tuple(self._validations), self._time, speed)

    def _take(self, event: LoggedEvent) -> None:
        kind, place, time = event.get("event"), _number(event.get("step")), _number(event.get("time"))
        if place is None or time is None:
            return
        step = int(place)
        if kind == Event.STEP:
            if step <= self._step:
                self._go_on_from(step - 1)
            self._step, self._time = step, time
            self._recent.append((step, time))
            if (loss := _number(event.get("loss"))) is not None:
                self._add(step, loss)
        elif kind == Event.VALIDATION:
            values = [(key, _number(value)) for key, value in event.items() if key.startswith(VALIDATION)]
            metrics = {key.removeprefix(VALIDATION): value for key, value in values if value is not None}
            self._validations = [seen for seen in self._validations if seen.step < step]
            self._validations.append(Validation(step, metrics))
        elif kind in (Event.STARTED, Event.RESUMED):
            self._go_on_from(step)

    def _go_on_from(self, step: int) -> None:
        """Forget what came after a commit; the time until the next step is none of a step either."""
        self._step = step
        self._recent.clear()
        self._held.clear()
        self._losses = [point for point in self._losses if point.step <= step]

    def _add(self, step: int, loss: float) -> None:
        self._held.append(loss)
        if len(self._held) < self._each:
            return
        self._losses.append(Point(step, fmean(self._held)))
        self._held.clear()
        if len(self._losses) >= 2 * MOST_POINTS:
            pairs = zip(self._losses[::2], self._losses[1::2], strict=True)
            self._losses = [Point(second.step, fmean((first.loss, second.loss))) for first, second in pairs]
            self._each *= 2


class ProgressLogs:
    """The logs of the jobs that were asked for last. Thread-safe."""

    def __init__(self) -> None:
        self._logs, self._lock = OrderedDict[str, ProgressLog](), Lock()

    def read(self, folder: str) -> Progress:
        """The progress of the job that writes to a folder."""
        with self._lock:
            log = self._logs.setdefault(folder, ProgressLog(Path(folder)))
            self._logs.move_to_end(folder)
            while len(self._logs) > MOST_LOGS:
                self._logs.popitem(last=False)
        return log.read()


def _number(value: object) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) < LARGEST else None  # type: ignore[arg-type]
