"""Supervisor of a run: restarts a failed worker group from the last committed checkpoint."""

from __future__ import annotations

import shutil
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.checkpoints.folder import commits, step_of
from cluster.runs import heartbeat
from cluster.runs.events import Event, EventLog, EventReader, LoggedEvent, Restart
from cluster.runs.failures import (
    PreemptedError,
    RunFailedError,
    cause,
    found_no_room,
    is_mendable,
    preemption,
)
from cluster.runs.goodput import account_of
from cluster.runs.pace import Pace
from cluster.runs.preemption import ask, take_back, taken
from cluster.settings import PretrainSettings
from cluster.supervision import room, stacks, watchdog
from cluster.supervision.metrics import RunMetrics
from cluster.supervision.stragglers import Stragglers
from cluster.supervision.watchdog import Watchdog
from odeformer.files.atomic import named
from odeformer.files.shown import masked

if TYPE_CHECKING:
    from cluster.supervision.worker_group import Work

OnEvent = Callable[[LoggedEvent], None]

FAILURE = "failure.txt"
OWN_EVENTS = (
    *(Event.LAUNCHED, Event.WAITING, Event.PLACED, Event.RESIZED, Event.GROWING, Event.LEAVING),
    *(Event.RESTARTING, Event.UNWRITABLE, Event.GOODPUT, Event.SLOW),
    *(Event.SCORED, Event.SCORING_REPEATED, Event.NOT_SCORED),
)
"""Events of this process. They are shown at once, as they may be impossible to write."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
LOOK_SECONDS = 0.2


@dataclass
class Budget:
    """How often a run may be restarted.

    Each new commit resets the count of failures: a long run may survive many of them, and one that fails
    repeatedly at the same place ends soon. Preemptions are counted separately.
    """

    max_failures: int
    max_preemptions: int
    committed: int = 0
    """Latest committed step."""
    _failed_at: int = -1
    _failures: int = 0
    _preemptions: int = 0

    def failure(self) -> tuple[float | None, int]:
        """Count a failure.

        Returns:
            Seconds to wait before the restart, or ``None`` if there must be no restart; and how many more
            failures without progress are allowed.
        """
        if self.committed > self._failed_at:
            self._failures = 0
        self._failed_at = self.committed
        self._failures += 1
        left = self.max_failures - self._failures
        pause = min(FIRST_PAUSE * 2.0 ** (self._failures - 1), LONGEST_PAUSE)
        return pause if left >= 0 else None, left

    def preemption(self) -> tuple[float | None, int]:
        """Count a preemption; returns the same as :meth:`failure`. A restart need not wait."""
        self._preemptions += 1
        left = self.max_preemptions - self._preemptions
        return 0.0 if left >= 0 else None, left


@dataclass(frozen=True)
class _End:
    """How an unfinished attempt ended."""

    error: BaseException
    reason: str
    is_preemption: bool = False
    is_mendable: bool = True
    is_free: bool = False
    """Neither a failure nor a preemption: not counted."""
    is_stuck: bool = False
    """Whether a worker was killed because it was stuck."""


def supervise(work: Work, settings: PretrainSettings, on_event: OnEvent) -> bool:
    """Run worker groups, one after another, until one finishes. Ray must be connected.

    Args:
        work: what each worker executes.
        on_event: called with each event of the run as it happens.

    Returns:
        Whether SIGTERM arrived too late to stop the workers. They have finished, and the rest must be brief.

    Raises:
        RunFailedError: when the workers failed too often, or in a way that a restart cannot help.
        PreemptedError: when this process was preempted (SIGTERM); the run can be resumed later.
    """
    with taken(settings.run.dir) as is_asked:
        _Supervisor(work, settings, on_event, is_asked).run()
        return is_asked()


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
        self._account, self._pace = account_of(self._run), Pace()
        self._metrics = RunMetrics(self._run.name, settings.train.steps)
        self._budget = Budget(
            settings.cluster.max_failures,
            settings.cluster.max_preemptions,
            committed=max(map(step_of, commits(self._run / "checkpoints")), default=0),
        )
        self._has_begun = False
        self._record = ""
        """Words that say where the traceback of the last failure is."""
        self._ours = 0
        """Number of workers whose resources this run holds, or is about to release."""

    def run(self) -> None:
        self._say(Event.LAUNCHED)
        try:
            self._run_groups()
        finally:
            self._say(Event.GOODPUT, **self._account.metrics())

    def _run_groups(self) -> None:
        """Run one group after another until one finishes."""
        shutil.rmtree(self._run / heartbeat.FOLDER, ignore_errors=True)
        before = self._settings.cluster.workers
        for attempt in count():
            workers = self._find_room()
            if workers != before:
                self._say(Event.RESIZED, reason=f"{workers} of {self._settings.cluster.workers}")
            before = workers
            self._say(Event.PLACED, workers=workers)
            end = self._attempt(self._run / heartbeat.FOLDER / str(attempt), workers)
            if end is None:
                return
            if not end.is_free:
                self._record_failure(end.error)
            if self._is_asked() and end.is_mendable:
                raise PreemptedError(self._budget.committed)
            if not end.is_free:
                self._wait(self._pause_after(end))

    def _find_room(self) -> int:
        """Wait for room, and return the number of workers to start."""
        try:
            return room.wait(self._settings, self._ours, self._say_waiting, self._give_up_if_asked)
        except room.NoRoomError as error:
            raise RunFailedError(f"this machine has no room for the run: {error}") from error

    def _attempt(self, heartbeats: Path, workers: int) -> _End | None:
        """Run one worker group until none of its processes is left. ``None`` means that it finished."""
        from cluster.supervision.worker_group import WorkerGroup

        dog = Watchdog(heartbeats, self._settings.cluster.stuck_after)
        growth, stragglers = room.Growth(self._settings, workers), Stragglers(workers)
        committed = self._budget.committed
        take_back(self._run)  # the supervisor may have stopped the group before this one
        self._has_begun, self._ours = False, workers
        stuck: watchdog.Stuck | None = None
        stopped_for: Event | None = None
        group = WorkerGroup(self._work, self._settings, workers, heartbeats)

        while group.is_running:
            self._show_events()
            self._metrics.refresh(self._account)
            if not self._has_begun:
                self._give_up_if_asked()  # there is no step in progress
            if self._is_asked() or stopped_for is not None:
                with suppress(OSError):  # asked again at the next look
                    ask(self._run)

            if stopped_for is None and room.is_any_leaving(dog.nodes()):
                stopped_for = self._stop(Event.LEAVING, "it is drained")

            larger = growth.look()
            if self._budget.committed > committed:
                committed = self._budget.committed
                if larger is not None and stopped_for is None:
                    self._ours = larger
                    stopped_for = self._stop(Event.GROWING, f"{larger} instead of {workers}")

            was_writable = dog.problem is None
            newly_stuck = dog.look()
            if dog.problem is None:
                self._log.write_waiting()
            elif was_writable:
                self._say(Event.UNWRITABLE, reason=str(dog.problem))
            for slow in stragglers.look(dog.beats()):
                self._say(Event.SLOW, reason=slow.reason)
            if newly_stuck is not None:
                stuck = self._look_into(newly_stuck, dog, heartbeats)
                watchdog.end([stuck.process])
                dog.restart_clock()
            time.sleep(LOOK_SECONDS)

        self._show_events()
        if group.error is None:
            return None
        # Ray has told the workers to end. One that is stopped or still writing must not meet its successor.
        left = dog.processes()
        watchdog.end(left)

        error, preempted = group.error, preemption(group.error)
        if preempted is not None:
            return _End(error, str(preempted), is_preemption=True, is_free=stopped_for is Event.GROWING)
        if stuck is not None:
            return _End(error, stuck.reason, is_stuck=True)
        if found_no_room(error):
            self._say_waiting(f"Ray found no room for {workers} workers")
            return _End(error, cause(error), is_free=True)
        mendable = is_mendable(error)
        reason = cause(error, [process.rank for process in left])
        # A worker that died after SIGTERM was preempted; it has not failed.
        return _End(error, reason, mendable and dog.is_any_asked(), mendable)

    def _look_into(self, stuck: watchdog.Stuck, dog: Watchdog, heartbeats: Path) -> watchdog.Stuck:
        """Write the stacks of all workers beside the log, and say where the stuck one waits."""
        processes = dog.processes()
        states = watchdog.states(processes, heartbeats)
        report = stacks.report(states, {process.rank: process.thread for process in processes})
        with suppress(OSError):
            (self._run / stacks.FILE_NAME).write_text(masked(report), encoding="utf-8")
        return stuck.seen(states.get(stuck.process.rank))

    def _record_failure(self, failure: BaseException) -> None:
        file = self._run / FAILURE
        try:
            with named(file):
                file.write_text(masked("".join(traceback.format_exception(failure))), encoding="utf-8")
            self._record = f"{FAILURE} there has the traceback"
        except OSError as error:
            self._record = f"the traceback cannot be written ({error})"

    def _pause_after(self, end: _End) -> float:
        """Count how an attempt ended; seconds to wait before the next one."""
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
                f"its last checkpoint, and {self._record}"
            ) from end.error
        restart: Restart = {
            "pause": pause,
            "left": left,
            "preemption": end.is_preemption,
            "cause": "preemption" if end.is_preemption else "stuck" if end.is_stuck else "failure",
        }
        self._say(Event.RESTARTING, reason=end.reason, restart=restart)
        return pause

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._give_up_if_asked()
            time.sleep(LOOK_SECONDS)

    def _give_up_if_asked(self) -> None:
        self._metrics.refresh(self._account)  # it is asked again and again while the run waits
        if self._is_asked():
            raise PreemptedError(self._budget.committed)

    def _stop(self, event: Event, reason: str) -> Event:
        """Log the event for which the workers are then asked to commit the step in progress and stop."""
        self._say(event, reason=reason)
        return event

    def _say_waiting(self, reason: str) -> None:
        self._say(Event.WAITING, reason=reason)

    def _say(self, event: Event, **fields: Any) -> None:
        self._show_events()
        self._show(self._log(event, self._budget.committed, fields))

    def _show_events(self) -> None:
        for event in self._events.new():
            if event["event"] in (Event.STARTED, Event.RESUMED):
                self._has_begun = True
            if event["event"] in (Event.RESUMED, Event.CHECKPOINT):
                self._budget.committed = max(self._budget.committed, event["step"])
            if event["event"] not in OWN_EVENTS:
                self._show(event)

    def _show(self, event: LoggedEvent) -> None:
        """Count an event, and pass it on."""
        self._account.add(event)
        self._pace.add(event)
        self._metrics.take(event, self._pace.left(self._settings.train.steps))
        self._on_event(event)
