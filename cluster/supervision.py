"""A run that survives: a worker group that fails is started again from the last committed checkpoint."""

from __future__ import annotations

import shutil
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster import watchdog
from cluster.events import EventLog, EventReader
from cluster.failures import PreemptedError, RunFailedError, cause, is_mendable, preemption
from cluster.settings import PretrainSettings
from cluster.training.preemption import taken
from cluster.watchdog import Watchdog

if TYPE_CHECKING:
    from cluster.worker_group import Work

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
    is_preemption: bool
    is_mendable: bool


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
        commits = (self._run / "checkpoints").glob("step-*")
        self._budget = Budget(
            settings.cluster.max_failures,
            settings.cluster.max_preemptions,
            committed=max((int(commit.name.removeprefix("step-")) for commit in commits), default=0),
        )
        self._has_begun = False

    def run(self) -> None:
        shutil.rmtree(self._run / HEARTBEATS, ignore_errors=True)
        for attempt in count():
            end = self._attempt(self._run / HEARTBEATS / str(attempt))
            if end is None:
                return
            (self._run / "failure.txt").write_text("".join(traceback.format_exception(end.error)))
            if self._is_asked() and end.is_mendable:
                raise PreemptedError(self._budget.committed)
            self._wait(self._pause_after(end))

    def _attempt(self, heartbeats: Path) -> _End | None:
        """One worker group, from its start until none of its processes is left; nothing if it finished."""
        from cluster.worker_group import WorkerGroup

        dog = Watchdog(heartbeats, self._settings.cluster.stuck_after)
        self._has_begun = False
        stuck = None
        group = WorkerGroup(self._work, self._settings, heartbeats)
        while group.is_running:
            self._show_events()
            if self._is_asked() and not self._has_begun:
                raise PreemptedError(self._budget.committed)  # there is no step in progress
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
            return _End(group.error, str(preempted), is_preemption=True, is_mendable=True)
        if stuck is not None:
            return _End(group.error, stuck, is_preemption=False, is_mendable=True)
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
            if self._is_asked():
                raise PreemptedError(self._budget.committed)
            time.sleep(LOOK_SECONDS)

    def _show_events(self) -> None:
        for event in self._events.new():
            if event["event"] in ("started", "resumed"):
                self._has_begun = True
            if event["event"] in ("resumed", "checkpoint"):
                self._budget.committed = max(self._budget.committed, event["step"])
            self._on_event(event)
