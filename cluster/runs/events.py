"""The event log of a run: one JSON object per line, appended by rank 0 and by the driver."""

from __future__ import annotations

import errno
import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from enum import StrEnum
from io import FileIO
from pathlib import Path
from typing import Any, Literal, TypedDict

from odeformer.files.atomic import named
from odeformer.files.shown import masked_values

FILE_NAME = "events.jsonl"
BYTES_AT_ONCE = 2**22

logger = logging.getLogger(__name__)


class Event(StrEnum):
    """Every kind of event, with the fields that it may have besides ``time``, ``event`` and ``step``.

    A ``*`` in a field's name stands for any text. Numbers become metrics in MLflow.
    """

    fields: tuple[str, ...]

    def __new__(cls, name: str, *fields: str) -> Event:
        event = str.__new__(cls, name)
        event._value_ = name
        event.fields = fields
        return event

    LAUNCHED = "launched"  # a command begins with the run, or takes it up again
    PLACED = "placed", "workers"  # the cluster has room; the workers are being started
    STARTED = "started", "workers", "reason"  # from step 0; the reason is why it compiles or not
    RESUMED = "resumed", "workers", "reason"  # from a checkpoint
    FINISHED = "finished"  # the last step is committed
    FAILED = "failed"
    INTERRUPTED = "interrupted"  # the driver was ended, for example by Ctrl-C
    PREEMPTED = "preempted"  # the driver received SIGTERM, and the step in progress was committed

    # An optimizer step was applied. ``tokens`` counts from the beginning of the run.
    STEP = (
        "step",
        *("loss", "depth", "learning_rate", "gradient_norm", "tokens", "tokens_per_second"),
        *("mfu", "model_flops_per_second", "*_seconds", "loss/*"),  # by source
    )
    # At the end of a command: see :class:`cluster.runs.goodput.Account`.
    GOODPUT = "goodput", "goodput", "seconds_*"
    SLOW = "slow", "reason"  # a worker that the others wait for in every step
    CORRUPTED = "corrupted", "reason"  # the same micro-batch gave other bits the second time

    TOO_LONG = "too_long", "examples_cut", "examples_left_out"  # of a task, for its sequence length
    # Losses by depth, and by source and depth; scores of tasks.
    VALIDATION = "validation", "validation_*", "validation/*"
    NEW_PART = "new_part", "reason"  # of the run, with another mixture of sources
    SPIKE = "spike", "loss", "limit"
    SKIPPED = "skipped", "reason", "samples", "loss"  # the ids of the samples that may be the cause
    ROLLBACK = "rollback", "reason", "to"  # the step of the checkpoint

    CHECKPOINT = "checkpoint", "checkpoint_seconds", "blocked_seconds"  # for which training waited
    CHECKPOINT_FAILED = "checkpoint_failed", "reason"
    CHECKPOINT_DAMAGED = "checkpoint_damaged", "reason"
    CHECKPOINT_CONVERTED = "checkpoint_converted", "reason"  # from another number of workers or ZeRO stage
    CHECKPOINT_MIRRORED = "checkpoint_mirrored", "mirror_seconds"
    CHECKPOINT_FETCHED = "checkpoint_fetched", "reason"  # from the mirror
    MIRROR_AWAY = "mirror_away", "reason"

    SCORED = "scored", "*/*"  # the checkpoint of this step, by ``evaluate``: scores by task or text and depth
    SCORING_REPEATED = "scoring_repeated", "reason"  # it died or hung, and is begun again
    NOT_SCORED = "not_scored", "reason"
    SCORES_WAIT = "scores_wait", "reason"  # training has ended, and checkpoints wait to be scored

    WAITING = "waiting", "reason"  # for room on the cluster
    RESIZED = "resized", "reason"  # the next worker group has another number of workers
    GROWING = "growing", "reason"  # stopped to continue with more workers
    LEAVING = "leaving", "reason"  # stopped because a node is being drained
    RESTARTING = "restarting", "reason", "restart"  # see :class:`Restart`
    UNWRITABLE = "unwritable", "reason"  # ``run.dir``, for now; events wait in memory

    TRACKING_AWAY = "tracking_away", "reason"  # MLflow cannot be reached; metrics wait in the log
    TRACKING_BACK = "tracking_back"
    TRACKING_BEHIND = "tracking_behind"  # the run ended before MLflow had all of its metrics
    NOT_REGISTERED = "not_registered", "reason"  # the registry could not be reached at the end
    NOT_PROMOTED = "not_promoted", "reason"  # the promotion gate of a job could not be evaluated

    SYSTEM = "system", "system/*"  # metrics of a node, in its own log; ``step`` is in seconds


LoggedEvent = dict[str, Any]
"""An event read from a log: ``time`` in seconds since the epoch, ``event``, ``step``, and its own fields."""


Cause = Literal["failure", "preemption", "stuck"]
"""What made a restart of the workers necessary."""


class Restart(TypedDict):
    """The field ``restart`` of ``restarting``: nested, as numbers beside the step would become metrics."""

    pause: float
    """Seconds until the restart."""
    left: int
    """How many more restarts of this kind are allowed."""
    preemption: bool
    """Whether the workers were preempted rather than failed."""
    cause: Cause


class EventLog:
    """Appends events to ``folder/events.jsonl``, from any thread.

    Events that cannot be written, as on a full disk, wait in memory for a later call; a warning says so once.
    """

    def __init__(self, folder: Path, name: str = FILE_NAME) -> None:
        self._path = folder / name
        self._file: FileIO | None = None
        self._is_torn = False
        self._waiting: deque[bytes] = deque()
        self._is_failing = False
        self._lock = threading.Lock()

    def __call__(self, event: str, step: int, values: Mapping[str, Any]) -> LoggedEvent:
        """Append an event that happened at an optimizer step, with its fields; returns it."""
        logged = {"time": time.time(), "event": event, "step": step, **masked_values(values)}
        with self._lock:
            self._waiting.append(json.dumps(logged).encode() + b"\n")
        self.write_waiting()
        return logged

    def write_waiting(self) -> None:
        """Try again to write the events that wait in memory."""
        with self._lock:
            try:
                with named(self._path):
                    self._write()
                self._is_failing = False
            except OSError as error:
                if not self._is_failing:
                    logger.warning("events wait in memory: %s", error)
                self._is_failing = True

    def _write(self) -> None:
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._is_torn = self._path.exists() and not _ends_with_newline(self._path)
            self._file = self._path.open("ab", buffering=0)
        while self._waiting:
            # A line that this or another process could not finish must not swallow the next one.
            line = b"\n" * self._is_torn + self._waiting[0]
            self._is_torn = True
            if self._file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._is_torn = False
            self._waiting.popleft()


class EventReader:
    """Reads the events that were appended to a folder's log since the last call."""

    def __init__(self, folder: Path, from_end: bool = True) -> None:
        self._path = folder / FILE_NAME
        self._offset = self._path.stat().st_size if from_end and self._path.exists() else 0

    def new(self) -> list[LoggedEvent]:
        """The new events. A line that is still being written is left for the next call."""
        events, self._offset = events_from(self._path, self._offset)
        return events


def events_from(path: Path, offset: int, limit: int = -1) -> tuple[list[LoggedEvent], int]:
    """Read the events from a byte offset on.

    Lines that are not JSON objects, left by a killed process, are ignored.

    Args:
        limit: about how many bytes to read; all by default.

    Returns:
        The events, and the offset after the last complete line.
    """
    if not path.exists():
        return [], offset
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read(limit)
        if limit >= 0 and not data.endswith(b"\n"):
            data += file.readline()
    complete = data[: data.rfind(b"\n") + 1]
    return [event for _, event in placed_events(complete, offset)], offset + len(complete)


def placed_events(data: bytes, offset: int) -> Iterator[tuple[int, LoggedEvent]]:
    """The events in the lines of a part of a log, each with the byte offset behind its line.

    Args:
        offset: that at which the part begins.
    """
    for line in data.splitlines(keepends=True):
        offset += len(line)
        try:
            event = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:
            continue
        if isinstance(event, dict):
            yield offset, event


def logged(folder: Path, *kinds: Event) -> Iterator[LoggedEvent]:
    """The events in a folder's log, or those of some kinds, oldest first; none if there is no log."""
    offset, end = -1, 0
    while end > offset:
        offset = end
        events, end = events_from(folder / FILE_NAME, offset, BYTES_AT_ONCE)
        yield from (event for event in events if not kinds or event.get("event") in kinds)


def words_of(event: LoggedEvent) -> str:
    """An event in a line of text, without its time."""
    words = [event["event"], str(event["step"])]
    for key, value in event.items():
        if key not in ("time", "event", "step"):
            words.append(f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}")
    return " ".join(words)


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        if size == 0:
            return True
        file.seek(size - 1)
        return file.read(1) == b"\n"
