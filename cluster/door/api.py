"""The door's application: OpenAI's routes for files and fine-tuning jobs, and the page over them."""

from __future__ import annotations

import logging
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from cluster.door import file_routes, job_routes
from cluster.door.callers import Door
from cluster.door.pages import routes
from cluster.door.pages.progress import ProgressLogs
from cluster.door.pages.rendering import STATIC
from cluster.door.pages.signing_in import HOME
from cluster.door.settings import DoorSettings
from cluster.web.errors import ApiError, answer_errors

logger = logging.getLogger(__name__)


def make_app(settings: DoorSettings) -> FastAPI:
    """The application, for the pool of the cluster that this process is connected to."""
    app = FastAPI(title="Odeformer", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(AtFullPaths)
    answer_errors(app)

    @app.exception_handler(OSError)
    async def away(request: Request, error: OSError) -> Response:
        """A pool that is not there or restarts, or a full disk: worth another try."""
        logger.warning("%s", error)
        answer = ApiError(HTTPStatus.SERVICE_UNAVAILABLE, "the pool is away, or its disk is full: try again")
        return JSONResponse(answer.content, answer.status)

    app.state.door, app.state.progress = Door(settings), ProgressLogs()
    for router in (file_routes.router, job_routes.router, routes.router):
        app.include_router(router)
    app.mount(f"{HOME}/static", StaticFiles(directory=STATIC))
    return app


class AtFullPaths:
    """Has routes see whole paths, where Ray Serve has mounted the application at a part of them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app({**scope, "root_path": ""}, receive, send)
