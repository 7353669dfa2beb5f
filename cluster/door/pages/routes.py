"""``/pool``: the page over the pool, for whoever has a key."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Literal

from fastapi import APIRouter, Depends, Request
from fastapi.responses import RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from cluster.door.callers import Door
from cluster.door.form import public_id
from cluster.door.jobs import seen_by
from cluster.door.pages import views
from cluster.door.pages.drawing import chart
from cluster.door.pages.page_route import PageRoute
from cluster.door.pages.progress import ProgressLogs
from cluster.door.pages.rendering import render
from cluster.door.pages.signing_in import (
    HOME,
    SignedIn,
    forget_key,
    from_this_site,
    keep_key,
    read_form,
)
from cluster.door.refusals import bad_request
from cluster.door.status import status_seen
from cluster.pool.job import ENDED
from cluster.web.errors import ApiError

ENDED_AT_ONCE = 20
"""Number of ended jobs on a page."""
_OURS = re.compile(rf"{HOME}(/jobs/[A-Za-z0-9._-]+)?")

router = APIRouter(prefix=HOME, route_class=PageRoute)
FromThisSite = Depends(from_this_site)


@router.get("")
def overview(
    request: Request, caller: SignedIn, team: str | None = None, after: str | None = None
) -> Response:
    """Show the slots, the usage of the caller's team, and its jobs; for an admin those of all teams."""
    logs: ProgressLogs = request.app.state.progress
    seen = [seen_by(job, caller.of) for job in caller.pool.jobs(caller.of) if team in (None, job.team)]
    ended = sorted((job for job in seen if job.state in ENDED), key=lambda job: job.changed, reverse=True)
    places = {public_id(job.id): place for place, job in enumerate(ended)}
    start = places.get(after or "", -1) + 1
    shown = ended[start : start + ENDED_AT_ONCE]
    status = status_seen(caller.pool.status(), caller.of)
    return render(
        "overview.html",
        key=caller.key,
        is_admin=caller.of is None,
        team=team,
        status=status,
        own=next((one for one in status["teams"] if one["team"] == caller.key.team), None),
        running=[views.row(job, logs) for job in seen if job.state in ("running", "trained")],
        queued=[job for job in seen if job.state == "queued"],
        ended=shown,
        ended_count=len(ended),
        older=public_id(shown[-1].id) if start + ENDED_AT_ONCE < len(ended) else None,
    )


@router.get("/jobs/{job_id}")
def job(request: Request, job_id: str, caller: SignedIn) -> Response:
    """Show a job: its loss, its lineage, its scores, and what happened to it."""
    logs: ProgressLogs = request.app.state.progress
    found = seen_by(caller.job(job_id), caller.of)
    row = views.row(found, logs)
    return render(
        "job.html",
        key=caller.key,
        job=found,
        row=row,
        chart=chart(row.progress),
        parent=found.task.get("preference", {}).get("parent"),
        files=views.files(found),
        digest=views.digest(found),
        model=views.model(found),
        scores=views.scores(row.progress),
        settings=views.settings(found),
        action=views.action(found),
    )


@router.post("/jobs/{job_id}/{action}", dependencies=[FromThisSite])
def act(job_id: str, action: Literal["cancel", "resume"], caller: SignedIn) -> Response:
    """Cancel or resume a job, and show it."""
    found = caller.job(job_id)
    try:
        caller.pool.cancel(found.id) if action == "cancel" else caller.pool.retry(found.id)
    except ValueError as error:
        raise bad_request(str(error)) from None
    return RedirectResponse(f"{HOME}/jobs/{public_id(found.id)}", HTTPStatus.SEE_OTHER)


@router.post("/sign-in", dependencies=[FromThisSite])
async def sign_in(request: Request) -> Response:
    """Sign in with the key of a form, and show the page that was asked for."""
    form, door = await read_form(request), request.app.state.door
    assert isinstance(door, Door)
    key, to = form.get("key", "").strip(), form.get("to", "")
    to = to if _OURS.fullmatch(to) else HOME
    try:
        await run_in_threadpool(door.caller, key)
    except ApiError as error:
        return render("sign_in.html", error.status, to=to, refused="This key is not valid.")
    answer = RedirectResponse(to, HTTPStatus.SEE_OTHER)
    keep_key(answer, request, key)
    return answer


@router.post("/sign-out", dependencies=[FromThisSite])
def sign_out() -> Response:
    """Forget the key in the browser."""
    answer = RedirectResponse(HOME, HTTPStatus.SEE_OTHER)
    forget_key(answer)
    return answer
