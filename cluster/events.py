"""The event log of a run: one JSON object a line, appended by rank 0, followed by whoever wants to watch."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

FILE_NAME = "events.jsonl"


class EventLog:
    """Appends events to ``folder/events.jsonl``."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / FILE_NAME).open("a", buffering=1)

    def __call__(self, event: str, step: int, values: dict[str, float]) -> None:
        """Append an event: what happened, at which optimizer step, with which numbers."""
        self._file.write(json.dumps({"time": time.time(), "event": event, "step": step, **values}) + "\n")


class EventReader:
    """Reads the events that were appended to a folder's log since the last call."""

    def __init__(self, folder: Path, from_end: bool = True) -> None:
        self._path = folder / FILE_NAME
        self._offset = self._path.stat().st_size if from_end and self._path.exists() else 0

    def new(self) -> list[dict[str, Any]]:
        """Whole lines only: one still being written is left for the next call."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [json.loads(line) for line in whole.splitlines()]
