"""``/v1/files``: the files of the caller's team."""

from __future__ import annotations

import tempfile
from typing import Annotated, Any

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Request
from fastapi.responses import FileResponse, Response
from openai.types import FileDeleted
from starlette.concurrency import run_in_threadpool

from cluster.door.callers import Caller, Callers
from cluster.door.files import PURPOSE, file_object
from cluster.door.paging import Limit, Order, page_of
from cluster.door.receiving import receive
from cluster.door.refusals import bad_request
from cluster.pool.job import ENDED


def file_routes(callers: Callers, checks: CapacityLimiter) -> APIRouter:
    """The routes.

    Args:
        checks: limits how many files are read at a time.
    """
    router = APIRouter(prefix="/v1/files")
    Called = Annotated[Caller, Depends(callers)]  # noqa: N806

    @router.post("")
    async def upload(request: Request, caller: Called) -> dict[str, Any]:
        files = await run_in_threadpool(caller.files)
        files.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Nameless: it is gone with this process.
        with tempfile.TemporaryFile(dir=files.folder) as received:
            name, purpose = await receive(request, received, caller.settings.most_file_bytes)
            if purpose != PURPOSE:
                raise bad_request(f"purpose: {PURPOSE!r} is expected, not {purpose[:100]!r}", "purpose")
            added = await run_sync(files.add, caller.key.team, name, received, limiter=checks)
        await run_in_threadpool(caller.pool.note, "uploaded", f"{added.id} {name}")
        return added.model_dump(mode="json")

    @router.get("")
    def list_files(
        caller: Called, purpose: str = PURPOSE, after: str | None = None, limit: Limit = 1000,
        order: Order = "desc",
    ) -> dict[str, Any]:  # fmt: skip
        found = caller.files().all(caller.key.team) if purpose == PURPOSE else []
        shown = [file.model_dump(mode="json") for file in found[:: 1 if order == "desc" else -1]]
        return page_of(shown, after, limit)

    @router.get("/{file_id}")
    def retrieve(file_id: str, caller: Called) -> dict[str, Any]:
        return file_object(caller.file(file_id)).model_dump(mode="json")

    @router.get("/{file_id}/content")
    def content(file_id: str, caller: Called) -> Response:
        return FileResponse(caller.file(file_id), media_type="application/octet-stream")

    @router.delete("/{file_id}")
    def delete(file_id: str, caller: Called) -> dict[str, Any]:
        path = caller.file(file_id)
        for job in caller.pool.jobs(caller.key.team):
            data = job.task["data"]
            if job.state not in ENDED and str(path) in (data["train"], data["validation"]):
                raise bad_request(
                    f"job {job.id} is {job.state} and needs the file: cancel it first", "file_id"
                )
        caller.files().delete(path)
        caller.pool.note("deleted", file_id)
        return FileDeleted(id=file_id, deleted=True, object="file").model_dump(mode="json")

    return router
