"""A job's event log as OpenAI's events, whose ids are the places in the log behind them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from openai.types.fine_tuning import FineTuningJobEvent

from cluster.door.form import EVENT
from cluster.door.paging import Order, Page, page
from cluster.runs.events import FILE_NAME, Event, LoggedEvent, placed_events, words_of

BLOCK = 2**18
"""Bytes of a log that are read at a time."""
_ID = re.compile(rf"{EVENT}(\d{{1,18}})")
_METRICS = (Event.STEP, Event.VALIDATION)
_WARNINGS = (
    *(Event.SPIKE, Event.SKIPPED, Event.ROLLBACK, Event.RESTARTING, Event.UNWRITABLE, Event.TRACKING_AWAY),
    *(Event.CHECKPOINT_FAILED, Event.CHECKPOINT_DAMAGED, Event.NOT_REGISTERED, Event.NOT_PROMOTED),
)


class PlacedEvent(NamedTuple):
    """An event, and the offset behind its line."""

    end: int
    event: LoggedEvent


def events_after(folder: Path, offset: int) -> list[PlacedEvent]:
    """The events of a job's folder behind an offset, oldest first: all in the next block."""
    try:
        with (folder / FILE_NAME).open("rb") as log:
            log.seek(offset)
            data = log.read(BLOCK)
            return list(_placed(data if data.endswith(b"\n") else data + log.readline(), offset))
    except FileNotFoundError:
        return []


def events_before(folder: Path, offset: int | None) -> list[PlacedEvent]:
    """The events of a job's folder that end before an offset, or all; newest first: those of a block."""
    try:
        with (folder / FILE_NAME).open("rb") as log:
            end = log.seek(0, 2) if offset is None else max(0, offset - 1)
            start = log.seek(max(0, end - BLOCK))
            # From the middle of a line on, what is left of it is no event.
            return [placed for placed in _placed(log.read(end - start), start) if placed.end <= end][::-1]
    except FileNotFoundError:
        return []


def _placed(data: bytes, offset: int) -> Iterator[PlacedEvent]:
    return (PlacedEvent(*placed) for placed in placed_events(data, offset))


def offset_of(event_id: str) -> int | None:
    """The offset behind the event of an id; ``None`` for what is no id."""
    found = _ID.fullmatch(event_id)
    return int(found[1]) if found else None


def event_object(placed: PlacedEvent) -> FineTuningJobEvent:
    """An event in OpenAI's form, with our own as its ``data``."""
    event = placed.event
    level: Literal["info", "warn", "error"] = "error" if event["event"] == Event.FAILED else "info"
    return FineTuningJobEvent(
        id=f"{EVENT}{placed.end}",
        created_at=int(event["time"]),
        level="warn" if event["event"] in _WARNINGS else level,
        message=words_of(event),
        object="fine_tuning.job.event",
        data=event,
        type="metrics" if event["event"] in _METRICS else "message",
    )


def event_page(folder: Path, offset: int | None, limit: int, order: Order) -> Page:
    """A page of a job's events, behind the one that ends at an offset."""

    def read(offset: int | None) -> list[PlacedEvent]:
        return events_after(folder, offset or 0) if order == "asc" else events_before(folder, offset)

    shown = read(offset)[:limit]
    return page([event_object(placed) for placed in shown], bool(shown) and bool(read(shown[-1].end)))
