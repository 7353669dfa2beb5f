"""Reading the JSON body of a request, refused by the field that is wrong."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from cluster.web.errors import ApiError

Body = TypeVar("Body", bound=BaseModel)


async def read_bytes(request: Request, most_bytes: int) -> bytes:
    """The body of a request, of limited size."""
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > most_bytes:
            raise ApiError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body is larger than {most_bytes} bytes")
    return bytes(content)


async def read_body(request: Request, kind: type[Body], most_bytes: int) -> Body:
    """The body of a request, checked."""
    content = await read_bytes(request, most_bytes)
    try:
        parsed = json.loads(content, parse_constant=_no_constant)
        json.dumps(parsed, ensure_ascii=False).encode("utf-8")  # half a surrogate is no text
    except (ValueError, RecursionError) as error:
        raise ApiError(HTTPStatus.BAD_REQUEST, f"the body is not JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise ApiError(HTTPStatus.BAD_REQUEST, "the body is not a JSON object")
    try:
        return kind.model_validate(parsed)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else None
        place = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise ApiError(HTTPStatus.BAD_REQUEST, f"{place}: {message}" if place else message, name) from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number of JSON")
