"""``/v1/files``: the files of the caller's team."""

from __future__ import annotations

import tempfile

from anyio.to_thread import run_sync
from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, Response
from openai.types import FileDeleted, FileObject
from starlette.concurrency import run_in_threadpool

from cluster.door.callers import Called
from cluster.door.files import PURPOSE, file_object
from cluster.door.paging import Limit, Order, Page, page_of
from cluster.door.receiving import announced_bytes, receive
from cluster.door.refusals import bad_request
from cluster.pool.job import ENDED

router = APIRouter(prefix="/v1/files")


@router.post("", response_model=None)
async def upload(request: Request, caller: Called) -> FileObject:
    """Keep an uploaded file, once it has been checked."""
    most_bytes = caller.door.settings.most_file_bytes
    with caller.door.open_bytes.counted(caller.key.id, announced_bytes(request, most_bytes)):
        files = await run_in_threadpool(caller.files)
        files.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Nameless: it is gone with this process.
        with tempfile.TemporaryFile(dir=files.folder) as received:
            name, purpose = await receive(request, received, most_bytes)
            if purpose != PURPOSE:
                raise bad_request(f"purpose: {PURPOSE!r} is expected, not {purpose[:100]!r}", "purpose")
            added = await run_sync(files.add, caller.key.team, name, received, limiter=caller.door.checks)
    await run_in_threadpool(caller.pool.note, "uploaded", f"{added.id} {name}")
    return added


@router.get("", response_model=None)
def list_files(
    caller: Called, purpose: str = PURPOSE, after: str | None = None, limit: Limit = 1000,
    order: Order = "desc",
) -> Page:  # fmt: skip
    """List the team's files."""
    found = caller.files().all(caller.key.team) if purpose == PURPOSE else []
    ordered = found[:: 1 if order == "desc" else -1]
    return page_of(ordered, lambda file: file.id, lambda file: file, after, limit)


@router.get("/{file_id}", response_model=None)
def retrieve(file_id: str, caller: Called) -> FileObject:
    """Describe a file."""
    return file_object(caller.file(file_id))


@router.get("/{file_id}/content")
def content(file_id: str, caller: Called) -> Response:
    """The content of a file."""
    return FileResponse(caller.file(file_id), media_type="application/octet-stream")


@router.delete("/{file_id}", response_model=None)
def delete(file_id: str, caller: Called) -> FileDeleted:
    """Delete a file that no job needs."""
    path = caller.file(file_id)
    for job in caller.pool.jobs(caller.key.team):
        data = job.task["data"]
        if job.state not in ENDED and str(path) in (data["train"], data["validation"]):
            raise bad_request(f"job {job.id} is {job.state} and needs the file: cancel it first", "file_id")
    caller.files().delete(path)
    caller.pool.note("deleted", file_id)
    return FileDeleted(id=file_id, deleted=True, object="file")
