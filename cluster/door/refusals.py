"""What is wrong with a request, in OpenAI's form: by the request's field, and by the line of a file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus

from pydantic import ValidationError

from cluster.door.form import EXTENSION
from cluster.runs.failures import QueueFullError
from cluster.web.errors import ApiError

_FIELDS = {"base": "model", "name": "suffix", "metadata": "metadata"}
"""Fields of a request by those of a task that they become; all others are in the extension."""
_LINE = re.compile(r"[ (]line (\d+)[ )]")


def not_found(what: str, given: str, param: str) -> ApiError:
    """The answer to an id that is unknown or another team's, which are not told apart."""
    return ApiError(HTTPStatus.NOT_FOUND, f"there is no {what} {given[:100]!r}", param, "not_found")


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """The answer to a request that is wrong."""
    return ApiError(HTTPStatus.BAD_REQUEST, message, param, code)


def bad_file(message: str, param: str) -> ApiError:
    """The answer to a file that cannot be trained on, with the line if one is to blame."""
    line = _LINE.search(message)
    more = {} if line is None else {"line": int(line[1])}
    return ApiError(HTTPStatus.BAD_REQUEST, message, param, "invalid_file", **more)


def bad_settings(error: ValidationError) -> ApiError:
    """The answer to settings that no task can have."""
    fault = error.errors()[0]
    place = ".".join(map(str, fault["loc"]))
    param = _param(place)
    return bad_request(f"{param}: {fault['msg'].removeprefix('Value error, ')}", param)


def bad_task(error: Exception, files: Mapping[str, str]) -> ApiError:
    """The answer to a task that the pool does not take.

    Args:
        files: the field of the request that names it, for each path of a file.
    """
    message = str(error)
    if isinstance(error, QueueFullError):
        return ApiError(HTTPStatus.TOO_MANY_REQUESTS, message, code="rate_limit_exceeded")
    field = re.match(r"\w*", message)
    place = field[0] if field else ""
    if place == "team":
        return bad_request("team: the key's team is none of the pool's")  # which others there are, is theirs
    if place != "data":
        return bad_request(message, _param(place) if place in (*_FIELDS, "priority", "deadline") else None)
    # The file that is to blame comes first.
    named = sorted((path for path in files if path in message), key=message.find)
    for path in named:
        message = message.replace(path, path.rpartition("/")[2])
    return bad_file(message, files[named[0]] if named else "training_file")


def _param(place: str) -> str:
    field, _, rest = place.partition(".")
    within = (_FIELDS[field], rest) if field in _FIELDS else (EXTENSION, place)
    return ".".join(filter(None, within))
