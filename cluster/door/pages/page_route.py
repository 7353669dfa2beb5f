"""Routes that answer with a page, also when they refuse."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from fastapi.routing import APIRoute

from cluster.door.pages.rendering import render
from cluster.door.pages.signing_in import COOKIE, forget_key
from cluster.web.errors import ApiError

logger = logging.getLogger(__name__)


class PageRoute(APIRoute):
    """A route whose refusals are pages; without a valid key, the form to sign in."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()

        async def answered(request: Request) -> Response:
            try:
                return await answer(request)
            except ApiError as error:
                if error.status == HTTPStatus.UNAUTHORIZED:
                    return _sign_in_first(request)
                return render(
                    "error.html", error.status, title=error.status.phrase.capitalize(), message=str(error)
                )
            except OSError as error:
                logger.warning("%s", error)
                message = "The pool is away or restarts. Try again in a moment."
                return render("error.html", HTTPStatus.SERVICE_UNAVAILABLE, title="Not now", message=message)

        return answered


def _sign_in_first(request: Request) -> Response:
    was_in = COOKIE in request.cookies
    answer = render(
        "sign_in.html",
        HTTPStatus.UNAUTHORIZED,
        to=request.url.path if request.method == "GET" else "",
        refused="Your key is not valid any more." if was_in else "",
    )
    if was_in:
        forget_key(answer)
    return answer
