"""Signing in to the page: the key is kept in a cookie that no script and no other site can use."""

from __future__ import annotations

from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Annotated
from urllib.parse import parse_qs, urlsplit

from fastapi import Depends, Request
from fastapi.responses import Response

from cluster.door.callers import Caller, counted
from cluster.web.errors import ApiError

HOME = "/pool"
"""Path of the page, and the only one to which its cookie is sent."""
COOKIE = "odeformer_key"
FORM_BYTES = 4096


async def _signed_in(request: Request) -> AsyncIterator[Caller]:
    async with counted(request, request.cookies.get(COOKIE)) as caller:
        yield caller


SignedIn = Annotated[Caller, Depends(_signed_in)]
"""The caller whose key is in the cookie; without a valid one the form to sign in is shown."""


def from_this_site(request: Request) -> None:
    """Refuse what a page of another site makes a browser send; every route that changes something does.

    Browsers say where a request comes from in headers that no page can set: ``Sec-Fetch-Site`` where the
    address is trustworthy (TLS, or this machine), ``Origin`` everywhere.

    Raises:
        ApiError: if it comes from elsewhere, or does not say so.
    """
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin", "")
    is_ours = (
        urlsplit(origin).netloc == request.headers.get("host") if site is None else site == "same-origin"
    )
    if not is_ours:
        raise ApiError(HTTPStatus.FORBIDDEN, "the request does not come from this page")


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a small form.

    Raises:
        ApiError: for a larger one.
    """
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > FORM_BYTES:
            raise ApiError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the form is larger than {FORM_BYTES} bytes")
    fields = parse_qs(content.decode("utf-8", "replace"))
    return {name: values[0] for name, values in fields.items()}


def keep_key(response: Response, request: Request, key: str) -> None:
    """Sign a browser in, until it is closed or signs out."""
    is_tls = "https" in (request.url.scheme, request.headers.get("x-forwarded-proto"))
    response.set_cookie(COOKIE, key, path=HOME, secure=is_tls, httponly=True, samesite="lax")


def forget_key(response: Response) -> None:
    """Sign a browser out."""
    response.delete_cookie(COOKIE, path=HOME, httponly=True, samesite="lax")
