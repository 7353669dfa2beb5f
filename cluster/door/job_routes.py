"""``/v1/fine_tuning``: the jobs of the caller's team, or of all teams for an admin."""

from __future__ import annotations

from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Annotated

from anyio.to_thread import run_sync
from fastapi import APIRouter, Header, Request
from fastapi.responses import StreamingResponse
from openai.types.fine_tuning import FineTuningJob
from starlette.concurrency import run_in_threadpool

from cluster.door.callers import Called
from cluster.door.creation import JobRequest, create
from cluster.door.events import event_page, offset_of
from cluster.door.following import follow
from cluster.door.form import public_id
from cluster.door.jobs import checkpoints, job_object
from cluster.door.paging import Limit, Order, Page, page_of
from cluster.door.refusals import bad_request
from cluster.door.status import StatusSeen, status_seen
from cluster.web.bodies import read_body

router = APIRouter(prefix="/v1/fine_tuning")


@router.get("/key")
def key(caller: Called) -> dict[str, str]:
    """Tell whom the request's key is for."""
    return {"id": caller.key.id, "team": caller.key.team, "role": caller.key.role}


@router.get("/pool", response_model=None)
def pool(caller: Called) -> StatusSeen:
    """Show the slots, and the share, usage and budget of the caller's team."""
    return status_seen(caller.pool.status(), caller.of)


@router.post("/jobs", response_model=None)
async def create_job(
    request: Request, caller: Called, idempotency_key: Annotated[str | None, Header()] = None
) -> FineTuningJob:
    """Queue a job; the same request again is the same job."""
    body = await read_body(request, JobRequest, caller.door.settings.most_body_bytes)

    def made() -> FineTuningJob:
        job = create(caller.pool, caller.files(), caller.key.team, body, idempotency_key)
        return job_object(caller.pool.job(job), caller.of)

    return await run_sync(made, limiter=caller.door.checks)


@router.get("/jobs", response_model=None)
def list_jobs(caller: Called, after: str | None = None, limit: Limit = 20, order: Order = "desc") -> Page:
    """List the jobs that the caller may see."""
    jobs = caller.pool.jobs(caller.of)[:: -1 if order == "desc" else 1]
    return page_of(jobs, lambda job: public_id(job.id), partial(job_object, of=caller.of), after, limit)


@router.get("/jobs/{job_id}", response_model=None)
def retrieve(job_id: str, caller: Called) -> FineTuningJob:
    """Describe a job."""
    return job_object(caller.job(job_id), caller.of)


@router.post("/jobs/{job_id}/cancel", response_model=None)
def cancel(job_id: str, caller: Called) -> FineTuningJob:
    """Cancel a job."""
    caller.pool.cancel(caller.job(job_id).id)
    return job_object(caller.job(job_id), caller.of)


@router.post("/jobs/{job_id}/resume", response_model=None)
def resume(job_id: str, caller: Called) -> FineTuningJob:
    """Go on with a failed or cancelled job from its last commit."""
    job = caller.job(job_id)
    try:
        caller.pool.retry(job.id)
    except ValueError as error:
        raise bad_request(str(error), "fine_tuning_job_id") from None
    return job_object(caller.job(job_id), caller.of)


@router.get("/jobs/{job_id}/events", response_model=None)
async def events(
    job_id: str, caller: Called, after: str | None = None, limit: Limit = 20, order: Order = "desc",
    stream: bool = False,
) -> StreamingResponse | Page:  # fmt: skip
    """List a job's events, a page of them or as a stream."""
    job = await run_in_threadpool(caller.job, job_id)
    offset = None if after is None else offset_of(after)
    if after is not None and offset is None:
        raise bad_request(f"after: there is no {after[:100]!r} in this list", "after")
    if stream:
        return StreamingResponse(follow(caller, job_id, offset or 0), media_type="text/event-stream")
    return await run_in_threadpool(event_page, Path(job.folder), offset, limit, order)


@router.get("/jobs/{job_id}/checkpoints", response_model=None)
def list_checkpoints(job_id: str, caller: Called, after: str | None = None, limit: Limit = 10) -> Page:
    """List a job's commits."""
    return page_of(checkpoints(caller.job(job_id)), attrgetter("id"), lambda made: made, after, limit)
