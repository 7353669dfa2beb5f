"""Accounts of a run's time from its event log: the seconds of each part, which add up to the wall time.

Each interval between two events of the training loop or the supervisor belongs to one part, or is divided by
what the event says. Time in which no command ran, after one that ended by itself, does not count; a command
that was killed is taken to restart from then on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from cluster.runs.events import Event, LoggedEvent, logged

Part = Literal["train", "data", "validation", "checkpoint", "repeat", "restart", "wait", "other"]
"""``train``: steps whose result was kept. ``data``: these steps' waiting for batches. ``checkpoint``: waiting
for commits. ``repeat``: steps that had to be made again, or were skipped. ``restart``: from a start or a
failure to the next step. ``wait``: for room on the cluster. ``other``: the loop between its steps."""
PARTS: tuple[Part, ...] = get_args(Part)
ENDS = (Event.FINISHED, Event.FAILED, Event.INTERRUPTED, Event.PREEMPTED)

_WHOLE: dict[str, Part] = {
    Event.PLACED: "restart",
    Event.STARTED: "restart",
    Event.RESUMED: "restart",
    Event.RESTARTING: "restart",
    Event.WAITING: "restart",
    Event.ROLLBACK: "restart",
    Event.VALIDATION: "validation",
    Event.SKIPPED: "repeat",
    Event.FINISHED: "checkpoint",  # the last commit and the final weights
    Event.PREEMPTED: "checkpoint",
    Event.FAILED: "restart",
    Event.INTERRUPTED: "restart",
}
"""The part that the interval before an event belongs to."""


class Accident(NamedTuple):
    """A start of the workers, or what made another one necessary."""

    at: float
    """Seconds since the beginning, without those of ``wait``."""
    is_preemption: bool


@dataclass
class _Made:
    """Steps up to ``step`` that count so far."""

    step: int
    train: float
    data: float
    steps: int = 1


@dataclass
class Account:
    """The seconds of a run by part; :meth:`add` takes its events in order."""

    seconds: dict[Part, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    accidents: list[Accident] = field(default_factory=list)
    commits: int = 0
    write_seconds: float = 0.0
    """Seconds in which commits were written beside training."""
    _at: float | None = None
    _is_waiting: bool = False
    _has_ended: bool = False
    _is_starting: bool = False
    """Whether what made the next start of the workers necessary is known."""
    _made: list[_Made] = field(default_factory=list)
    _folded: int = 0
    """How many of these are sums of the steps between two commits."""
    _blocked: float = 0.0
    """Seconds that training waited for commits, as yet counted elsewhere."""

    @property
    def wall(self) -> float:
        """Seconds of all parts together."""
        return sum(self.seconds.values())

    def seconds_at(self, now: float) -> dict[Part, float]:
        """The seconds of each part up to ``now``, with what has been spent since the last event."""
        seconds = dict(self.seconds)
        if self._at is not None and not self._has_ended:
            part: Part = "wait" if self._is_waiting else "restart" if self._is_starting else "train"
            seconds[part] += max(0.0, now - self._at)
        return seconds

    @property
    def goodput(self) -> float:
        """Fraction of the time that is spent on steps whose result was kept, without waiting for data."""
        return self.seconds["train"] / self.wall if self.wall else 0.0

    @property
    def steps(self) -> int:
        """Number of steps whose result was kept."""
        return sum(made.steps for made in self._made)

    def metrics(self) -> dict[str, float]:
        """Goodput and seconds, as the event ``goodput`` and MLflow have them."""
        parts = {f"seconds_{part}": seconds for part, seconds in self.seconds.items()}
        return {"goodput": self.goodput, "seconds_wall": self.wall, **parts}

    def add(self, event: LoggedEvent) -> None:
        """Count the interval that ends with an event of the log."""
        name, now = event["event"], event["time"]
        if name == Event.CHECKPOINT:
            self._commit(event)
            return
        if name == Event.LAUNCHED:
            self._launch(now)
            return
        if name != Event.STEP and name not in _WHOLE:
            return  # it may come from another thread
        if self._at is None or self._has_ended:  # a job that has no supervisor to say that it begins
            self._at = now
        # Clocks of nodes differ: time does not run backwards for that.
        interval, self._at = max(0.0, now - self._at), max(self._at, now)
        if name == Event.STEP:
            self._step(event, interval)
            return
        if name == Event.RESTARTING:
            self._have_accident(event["restart"]["preemption"])
        elif name in (Event.STARTED, Event.RESUMED) and not self._is_starting:
            self._have_accident(is_preemption=bool(self._made) and self._made[-1].step <= event["step"])
        self.seconds["wait" if self._is_waiting else _WHOLE[name]] += interval
        self._is_waiting = name == Event.WAITING
        self._has_ended = name in ENDS
        if name in (Event.STARTED, Event.RESUMED):
            self._is_starting = False
            self._go_back(event["step"])
        elif name == Event.ROLLBACK:
            self._go_back(event["to"])

    def _launch(self, now: float) -> None:
        self._have_accident(is_preemption=False)
        if self._at is not None and not self._has_ended:  # the command before was killed
            self.seconds["wait" if self._is_waiting else "restart"] += max(0.0, now - self._at)
        self._at, self._is_waiting, self._has_ended = now, False, False

    def _have_accident(self, is_preemption: bool) -> None:
        self._is_starting = True
        self.accidents.append(Accident(self.wall - self.seconds["wait"], is_preemption))

    def _step(self, event: LoggedEvent, interval: float) -> None:
        whole = min(event["step_seconds"], interval)
        data = min(event.get("data_seconds", 0.0), whole)
        self.seconds["other"] += interval - whole
        self._settle()
        blocked = min(self._blocked, whole - data)
        self._blocked -= blocked
        made = _Made(event["step"], whole - data - blocked, data)
        self._made.append(made)
        self.seconds["checkpoint"] += blocked
        self.seconds["train"] += made.train
        self.seconds["data"] += data

    def _settle(self) -> None:
        """Move seconds that training waited for commits, between its steps, to ``checkpoint``."""
        moved = min(self._blocked, self.seconds["other"])
        self.seconds["other"] -= moved
        self.seconds["checkpoint"] += moved
        self._blocked -= moved

    def _commit(self, event: LoggedEvent) -> None:
        self.commits += 1
        self._blocked += event["blocked_seconds"]
        self.write_seconds += max(0.0, event["checkpoint_seconds"] - event["blocked_seconds"])
        self._settle()
        # Of the steps before a commit only the sums are needed.
        end = self._folded
        while end < len(self._made) and self._made[end].step <= event["step"]:
            end += 1
        folded = self._made[self._folded : end]
        if folded:
            train, data = sum(made.train for made in folded), sum(made.data for made in folded)
            self._made[self._folded : end] = [_Made(folded[-1].step, train, data, len(folded))]
            self._folded += 1

    def _go_back(self, step: int) -> None:
        """Count the steps after this one as ``repeat``."""
        while self._made and self._made[-1].step > step:
            made = self._made.pop()
            self.seconds["train"] -= made.train
            self.seconds["data"] -= made.data
            self.seconds["repeat"] += made.train + made.data
        self._folded = min(self._folded, len(self._made))


def account_of(run: Path) -> Account:
    """The account of the run in a folder, from its log up to now."""
    account = Account()
    for event in logged(run):
        account.add(event)
    return account
