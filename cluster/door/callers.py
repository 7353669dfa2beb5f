"""Callers of the door: who a request's key belongs to, and what that caller may see."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from anyio import CapacityLimiter
from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool

from cluster.door.files import Files
from cluster.door.jobs import pool_id
from cluster.door.refusals import not_found
from cluster.door.settings import DoorSettings
from cluster.pool import Pool
from cluster.pool.access import Key
from cluster.pool.job import JobDetails
from cluster.web.errors import invalid_key
from cluster.web.keys import key_of
from cluster.web.open_requests import OpenRequests


@dataclass(frozen=True)
class Caller:
    """The holder of a request's key, and the pool on the holder's behalf."""

    key: Key
    text: str = field(repr=False)
    """The key itself."""
    pool: Pool
    door: Door

    @property
    def of(self) -> str | None:
        """The team whose jobs the caller sees; ``None`` for those of all."""
        return None if self.key.role == "admin" else self.key.team

    def is_still_valid(self) -> bool:
        """Whether the key has been neither revoked nor expired since."""
        return self.pool.key(self.text) is not None

    def files(self) -> Files:
        """The files in the pool's folder."""
        return Files(Path(self.pool.status()["dir"]), self.door.settings)

    def file(self, file_id: str) -> Path:
        """The path of one of the team's files.

        Raises:
            ApiError: for an id that is unknown or another team's.
        """
        path = self.files().path(self.key.team, file_id)
        if path is None:
            raise not_found("file", file_id, "file_id")
        return path

    def job(self, given: str) -> JobDetails:
        """A job that the caller may see.

        Raises:
            ApiError: for an id that is unknown or another team's.
        """
        found = pool_id(given)
        if found is not None and self.of in (None, found[0]):
            try:
                return self.pool.job(found[1])
            except ValueError:
                pass
        raise not_found("fine-tuning job", given, "fine_tuning_job_id")


class Door:
    """What the routes of an application share.

    Args:
        checks: how many files are read at a time: each takes a core, and memory for its examples.
    """

    def __init__(self, settings: DoorSettings, checks: int = 2) -> None:
        self.settings = settings
        self.checks = CapacityLimiter(checks)
        self.open_requests = OpenRequests(settings.most_open)
        self.open_bytes = OpenRequests(settings.most_open_bytes, "bytes of uploads")

    def caller(self, text: str | None) -> Caller:
        """The caller with a key.

        Raises:
            ApiError: without a valid key.
            ConnectionError: when there is no pool.
        """
        pool = Pool.connect()  # each time: another pool may have taken this one's place
        key = None if text is None else pool.key(text)
        if text is None or key is None:
            raise invalid_key()
        return Caller(key, text, pool.asked_by(key.who), self)


@asynccontextmanager
async def counted(request: Request, text: str | None) -> AsyncIterator[Caller]:
    """The caller with a key, counted until the answer is sent.

    Raises:
        ApiError: without a valid key, or with too many open requests.
    """
    door: Door = request.app.state.door
    caller = await run_in_threadpool(door.caller, text)
    with door.open_requests.counted(caller.key.id):
        yield caller


async def _called(request: Request) -> AsyncIterator[Caller]:
    async with counted(request, key_of(request.headers.get("authorization", ""))) as caller:
        yield caller


Called = Annotated[Caller, Depends(_called)]
"""The caller of a route; without a valid key nothing else is done."""
