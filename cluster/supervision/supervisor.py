"""A run that survives: a worker group that fails is started again from the last committed checkpoint."""

from __future__ import annotations

import shutil
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.checkpoints.folder import commits, step_of
from cluster.runs.events import EventLog, EventReader
from cluster.runs.failures import (
    PreemptedError,
    RunFailedError,
    cause,
    found_no_room,
    is_mendable,
    preemption,
)
from cluster.runs.preemption import ask, take_back, taken
from cluster.settings import PretrainSettings
from cluster.supervision import room, watchdog
from cluster.supervision.watchdog import Watchdog

if TYPE_CHECKING:
    from cluster.supervision.worker_group import Work

OnEvent = Callable[[dict[str, Any]], None]

HEARTBEATS = "heartbeats"
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
LOOK_SECONDS = 0.2


@dataclass
class Budget:
    """How often a run may be started again.

    Failures count from the last progress on: a commit later than any before it. So a long run may see many,
    and one that dies again and again at the same place ends soon. Preemptions are no failures, and have a
    budget of their own.
    """

    max_failures: int
    max_preemptions: int
    committed: int = 0
    """The latest step that is known to be committed."""
    _failed_at: int = -1
    _failures: int = 0
    _preemptions: int = 0

    def failure(self) -> tuple[float | None, int]:
        """Take one failure: the pause before the next start in seconds, or none if there must be no more; and
        how many may follow without progress."""
        if self.committed > self._failed_at:
            self._failures = 0
        self._failed_at = self.committed
        self._failures += 1
        left = self.max_failures - self._failures
        pause = min(FIRST_PAUSE * 2.0 ** (self._failures - 1), LONGEST_PAUSE)
        return pause if left >= 0 else None, left

    def preemption(self) -> tuple[float | None, int]:
        """The same for a preemption, after which nothing has to be waited for."""
        self._preemptions += 1
        left = self.max_preemptions - self._preemptions
        return 0.0 if left >= 0 else None, left


@dataclass(frozen=True)
class _End:
    """How an attempt ended that did not finish."""

    error: BaseException
    reason: str
    is_preemption: bool = False
    is_mendable: bool = True
    is_free: bool = False
    """Nothing has failed, nobody was preempted: it costs no budget."""


def supervise(work: Work, settings: PretrainSettings, on_event: OnEvent) -> None:
    """Run worker groups, one after another, until one finishes. Ray must be connected.

    Args:
        work: what each worker does.
        on_event: called with each event of the run as it happens.

    Raises:
        RunFailedError: when the workers failed in a way that a new start cannot mend, or too often.
        PreemptedError: when this process was asked to end by SIGTERM; the run can go on later.
    """
    with taken(settings.run.dir) as is_asked:
        _Supervisor(work, settings, on_event, is_asked).run()


class _Supervisor:
    def __init__(
        self, work: Work, settings: PretrainSettings, on_event: OnEvent, is_asked: Callable[[], bool]
    ) -> None:
        self._work = work
        self._settings = settings
        self._run = settings.run.dir
        self._is_asked = is_asked
        self._on_event = on_event
        self._events = EventReader(self._run)
        self._log = EventLog(self._run)
        self._budget = Budget(
            settings.cluster.max_failures,
            settings.cluster.max_preemptions,
            committed=max(map(step_of, commits(self._run / "checkpoints")), default=0),
        )
        self._has_begun = False
        self._ours = 0
        """So many workers have a place, or are about to give it back."""

    def run(self) -> None:
        shutil.rmtree(self._run / HEARTBEATS, ignore_errors=True)
        before = self._settings.cluster.workers
        for attempt in count():
            workers = self._find_room()
            if workers != before:
                self._say("resized", f"{workers} of {self._settings.cluster.workers}")
            before = workers
            end = self._attempt(self._run / HEARTBEATS / str(attempt), workers)
            if end is None:
                return
            if not end.is_free:
                (self._run / "failure.txt").write_text("".join(traceback.format_exception(end.error)))
            if self._is_asked() and end.is_mendable:
                raise PreemptedError(self._budget.committed)
            if not end.is_free:
                self._wait(self._pause_after(end))

    def _find_room(self) -> int:
        """How many workers to start, as soon as there is room for any number that may be started."""
        try:
            say = partial(self._say, "waiting")
            return room.wait(self._settings, self._ours, say, self._give_up_if_asked)
        except room.NoRoomError as error:
            raise RunFailedError(f"this machine has no room for the run: {error}") from error

    def _attempt(self, heartbeats: Path, workers: int) -> _End | None:
        """One worker group, from its start until none of its processes is left; nothing if it finished."""
        from cluster.supervision.worker_group import WorkerGroup

        dog = Watchdog(heartbeats, self._settings.cluster.stuck_after)
        growth = room.Growth(self._settings, workers)
        committed = self._budget.committed
        take_back(self._run)  # what the supervisor itself has asked the group before this one
        self._has_begun, self._ours = False, workers
        stuck, asked = None, ""
        group = WorkerGroup(self._work, self._settings, workers, heartbeats)
        while group.is_running:
            self._show_events()
            if not self._has_begun:
                self._give_up_if_asked()  # there is no step in progress
            if not asked and room.is_any_leaving(dog.nodes()):
                asked = self._ask("leaving", "it is drained")
            larger = growth.look()
            if self._budget.committed > committed:
                committed = self._budget.committed
                if larger is not None and not asked:
                    self._ours = larger
                    asked = self._ask("growing", f"{larger} instead of {workers}")
            found = dog.look()
            if found is not None:
                stuck = found.reason
                watchdog.end([found.process])
                dog.restart_clock()
            time.sleep(LOOK_SECONDS)
        self._show_events()
        if group.error is None:
            return None
        # Ray has asked them to end. One that is stopped, or is still writing, must not meet its successor.
        left = dog.processes()
        watchdog.end(left)
        preempted = preemption(group.error)
        if preempted is not None:
            return _End(group.error, str(preempted), is_preemption=True, is_free=asked == "growing")
        if stuck is not None:
            return _End(group.error, stuck)
        if found_no_room(group.error):
            self._say("waiting", f"Ray found no room for {workers} workers")
            return _End(group.error, cause(group.error), is_free=True)
        mendable = is_mendable(group.error)
        reason = cause(group.error, [process.rank for process in left])
        # One that was asked to end by SIGTERM and then died has not failed.
        return _End(group.error, reason, mendable and dog.is_any_asked(), mendable)

    def _pause_after(self, end: _End) -> float:
        """Take how an attempt ended out of the budget for that; seconds until the next one."""
        budget = self._budget
        pause, left = None, 0
        if end.is_preemption:
            pause, left = budget.preemption()
        elif end.is_mendable:
            pause, left = budget.failure()
        if pause is None:
            often = " again and again without progress" if end.is_mendable and budget.max_failures else ""
            raise RunFailedError(
                f"pretraining in {self._run} failed{often}: {end.reason}; the same command resumes it from "
                "its last checkpoint, failure.txt there says more"
            ) from end.error
        # Within a dictionary: numbers that stand beside the step are metrics.
        restart = {"pause": pause, "left": left, "preemption": end.is_preemption}
        self._log("restarting", budget.committed, {"reason": end.reason, "restart": restart})
        self._show_events()
        return pause

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._give_up_if_asked()
            time.sleep(LOOK_SECONDS)

    def _give_up_if_asked(self) -> None:
        if self._is_asked():
            raise PreemptedError(self._budget.committed)

    def _ask(self, event: str, reason: str) -> str:
        """Say why, and ask the workers to finish and commit the step in progress; gives the event's name."""
        self._say(event, reason)
        ask(self._run)
        return event

    def _say(self, event: str, reason: str) -> None:
        self._log(event, self._budget.committed, {"reason": reason})
        self._show_events()

    def _show_events(self) -> None:
        for event in self._events.new():
            if event["event"] in ("started", "resumed"):
                self._has_begun = True
            if event["event"] in ("resumed", "checkpoint"):
                self._budget.committed = max(self._budget.committed, event["step"])
            self._on_event(event)
