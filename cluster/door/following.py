"""A job's events as server-sent events, until it has ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

from openai.types.fine_tuning import FineTuningJobEvent
from starlette.concurrency import run_in_threadpool

from cluster.door.callers import Caller
from cluster.door.events import event_object, events_after
from cluster.door.form import EVENT
from cluster.pool.job import ENDED, Job

LOOK_SECONDS = 1.0
QUIET_SECONDS = 15.0
"""After so long without an event a comment is sent: proxies close connections that are silent."""


async def follow(caller: Caller, given: str, offset: int) -> AsyncIterator[str]:
    """The events of a job behind an offset as they come, a last one that says how it ended, and ``[DONE]``.

    It also ends, without these, when the caller's key has become invalid.
    """
    said = time.monotonic()
    while True:
        job = await run_in_threadpool(_look, caller, given)
        if job is None:
            return
        while placed := await run_in_threadpool(events_after, Path(job.folder), offset):
            offset = placed[-1].end
            for one in placed:
                yield _sent(event_object(one))
            said = time.monotonic()
        if job.state in ENDED:
            yield _sent(_last(job, offset))
            yield "data: [DONE]\n\n"
            return
        if time.monotonic() - said > QUIET_SECONDS:
            yield ": waiting\n\n"
            said = time.monotonic()
        await asyncio.sleep(LOOK_SECONDS)


def _look(caller: Caller, given: str) -> Job | None:
    return caller.job(given) if caller.is_still_valid() else None


def _last(job: Job, offset: int) -> FineTuningJobEvent:
    return FineTuningJobEvent(
        id=f"{EVENT}{offset}",
        created_at=int(job.changed),
        level="error" if job.state == "failed" else "info",
        message=f"{job.state}: {job.error}" if job.error else job.state,
        object="fine_tuning.job.event",
        type="message",
    )


def _sent(event: FineTuningJobEvent) -> str:
    return f"data: {event.model_dump_json()}\n\n"
