"""The event log of a run: one JSON object a line, appended by rank 0, followed by whoever wants to watch."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILE_NAME = "events.jsonl"


class EventLog:
    """Appends events to ``folder/events.jsonl``, from any thread."""

    def __init__(self, folder: Path, name: str = FILE_NAME) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # A line that a dying process could not finish must not swallow the next one.
        torn = path.exists() and not _ends_a_line(path)
        self._file = path.open("a", buffering=1)
        self._lock = threading.Lock()
        if torn:
            self._file.write("\n")

    def __call__(self, event: str, step: int, values: Mapping[str, Any]) -> None:
        """Append an event: what happened, at which optimizer step, with which numbers and words."""
        line = json.dumps({"time": time.time(), "event": event, "step": step, **values}) + "\n"
        with self._lock:
            self._file.write(line)


class EventReader:
    """Reads the events that were appended to a folder's log since the last call."""

    def __init__(self, folder: Path, from_end: bool = True) -> None:
        self._path = folder / FILE_NAME
        self._offset = self._path.stat().st_size if from_end and self._path.exists() else 0

    def new(self) -> list[dict[str, Any]]:
        """Whole lines only: one still being written is left for the next call."""
        events, self._offset = events_from(self._path, self._offset)
        return events


def events_from(path: Path, offset: int, limit: int = -1) -> tuple[list[dict[str, Any]], int]:
    """The events in whole lines from a byte offset on, in about ``limit`` bytes; and where they end.

    A line that is no event is passed over: a process was killed in the middle of it.
    """
    if not path.exists():
        return [], offset
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read(limit)
        if limit >= 0 and not data.endswith(b"\n"):
            data += file.readline()
    whole = data[: data.rfind(b"\n") + 1]
    events = []
    for line in whole.splitlines():
        try:
            events.append(json.loads(line))
        except ValueError:
            continue
    return [event for event in events if isinstance(event, dict)], offset + len(whole)


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        if size == 0:
            return True
        file.seek(size - 1)
        return file.read(1) == b"\n"
