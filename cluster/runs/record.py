"""What the event log of a run or a job tells of it, read once from its beginning."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cluster.runs import lock
from cluster.runs.events import FILE_NAME, Event, LoggedEvent, logged
from cluster.runs.goodput import Account
from cluster.runs.pace import Pace

State = Literal["running", "waiting", "finished", "failed", "interrupted", "preempted", "killed", "elsewhere"]
"""``killed``: no process holds the folder's lock, and no end was logged. ``elsewhere``: the same, but the
last process that held it was on another machine, and may still."""

_ENDS: dict[str, State] = {
    Event.FINISHED: "finished",
    Event.FAILED: "failed",
    Event.INTERRUPTED: "interrupted",
    Event.PREEMPTED: "preempted",
}
_NOTABLE = (
    *(Event.WAITING, Event.RESIZED, Event.LEAVING, Event.RESTARTING, Event.SLOW, Event.CORRUPTED),
    *(Event.SPIKE, Event.SKIPPED, Event.ROLLBACK, Event.CHECKPOINT_FAILED, Event.CHECKPOINT_DAMAGED),
    *(Event.MIRROR_AWAY, Event.UNWRITABLE, Event.TRACKING_AWAY, Event.TRACKING_BACK, Event.TRACKING_BEHIND),
    *(Event.NOT_REGISTERED, Event.NOT_PROMOTED, Event.LAUNCHED, Event.PLACED),
)
LEVELS = 4
"""A pool's job is as far below ``runs/``."""
Curve = dict[int, float]
"""Values by step; of a step that was repeated, the last one."""


@dataclass
class Record:
    """A run or a job as its log has it."""

    folder: Path
    account: Account = field(default_factory=Account)
    pace: Pace = field(default_factory=Pace)
    curves: dict[str, Curve] = field(default_factory=dict)
    """Curves of ``loss`` and of the metrics of validations, by name."""
    notable: list[LoggedEvent] = field(default_factory=list)
    last: LoggedEvent | None = None
    last_step: LoggedEvent | None = None
    began: float | None = None
    """Time of the first event, in seconds since the epoch."""
    _end: State | None = None

    def add(self, event: LoggedEvent) -> None:
        """Take note of the next event of the log."""
        name = event["event"]
        self.began = event["time"] if self.began is None else self.began
        self.last = event
        self.account.add(event)
        self.pace.add(event)
        if name == Event.STEP:
            self.last_step = event
            self.curves.setdefault("loss", {})[event["step"]] = event["loss"]
        elif name == Event.VALIDATION:
            for key, value in event.items():
                if key.startswith("validation_"):
                    self.curves.setdefault(key, {})[event["step"]] = value
        elif name in _NOTABLE:
            self.notable.append(event)
        if name in _ENDS:
            self._end = _ENDS[name]
        elif name in (Event.LAUNCHED, Event.STARTED, Event.RESUMED):
            self._end = None

    @property
    def step(self) -> int:
        """The last step made."""
        return 0 if self.last_step is None else int(self.last_step["step"])

    @property
    def state(self) -> State:
        """What it does now, also by whether a process holds the folder's lock."""
        if self._end is not None:
            return self._end
        file = self.folder / lock.FILE_NAME
        try:
            is_held = file.stat().st_ino in lock.holders()
            holder = file.read_text(encoding="utf-8").strip()
        except OSError:
            return "killed"
        if not is_held:
            return "killed" if holder.endswith(f" on {socket.gethostname()}") else "elsewhere"
        is_waiting = bool(self.notable) and self.notable[-1]["event"] == Event.WAITING
        return "waiting" if is_waiting else "running"

    @property
    def silent_seconds(self) -> float:
        """Seconds since the last event."""
        return 0.0 if self.last is None else max(0.0, time.time() - self.last["time"])

    def of_kind(self, kind: Event) -> list[LoggedEvent]:
        """The notable events of one kind, oldest first."""
        return [event for event in self.notable if event["event"] == kind]


def read_record(folder: Path) -> Record:
    """Read the log of a run or a job.

    Raises:
        FileNotFoundError: when the folder has none.
    """
    if not (folder / FILE_NAME).is_file():
        raise FileNotFoundError(
            f"{folder / FILE_NAME}: no such file; the folder of a run or a job is expected"
        )
    record = Record(folder)
    for event in logged(folder):
        record.add(event)
    return record


def run_folders(root: Path, levels: int = LEVELS) -> Iterator[Path]:
    """The folders of runs and jobs at most so many levels under a folder, by name."""
    if (root / FILE_NAME).is_file():
        yield root
    elif levels:
        for folder in sorted(path for path in root.iterdir() if path.is_dir()):
            yield from run_folders(folder, levels - 1)
