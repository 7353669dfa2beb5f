"""Receiving an uploaded file: a form of ``multipart/form-data``, written to the disk as it comes."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import IO

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.http import parse_options_header
from werkzeug.sansio.multipart import NEED_DATA, Data, Epilogue, Field, File, MultipartDecoder

from cluster.web.errors import ApiError

FORM_BYTES = 64 * 2**10
"""What a form may have beside the file."""
MOST_PARTS, LONGEST_PURPOSE = 16, 100


@dataclass
class _Form:
    """What has been read of a form beside the file's content."""

    name: str | None = None
    """The name of the file."""
    purpose: bytes = b""
    part: str = ""
    """The name of the part that is being read."""


def announced_bytes(request: Request, most_bytes: int) -> int:
    """The size of a request with a file of up to ``most_bytes``.

    It has to be announced: Ray Serve's proxy keeps in memory what comes faster than it is read.

    Raises:
        ApiError: if it is too large, or unknown.
    """
    if "content-length" not in request.headers or "transfer-encoding" in request.headers:
        message = "the size of the upload is needed: a header Content-Length, and no Transfer-Encoding"
        raise ApiError(HTTPStatus.LENGTH_REQUIRED, message, "file")
    size = int(request.headers["content-length"])
    if size > most_bytes + FORM_BYTES:
        raise _too_large(most_bytes)
    return size


async def receive(request: Request, to: IO[bytes], most_bytes: int) -> tuple[str, str]:
    """Write the part ``file`` of a request to a file.

    Returns:
        The file's name and the form's ``purpose``, as the client gives them.

    Raises:
        ApiError: for what is no form with a file, or one of more than ``most_bytes``.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != "multipart/form-data" or not options.get("boundary"):
        raise ApiError(HTTPStatus.BAD_REQUEST, "a form of type multipart/form-data is expected", "file")
    # The buffer holds no more than a message of the connection and the unfinished end of the one before it.
    decoder = MultipartDecoder(options["boundary"].encode(), 2**20, max_parts=MOST_PARTS)
    form = _Form()
    try:
        async for message in request.stream():
            decoder.receive_data(message or None)
            await run_in_threadpool(_take, decoder, form, to)
    except RequestEntityTooLarge:
        raise _too_large(most_bytes) from None
    except ValueError as error:  # also UnicodeDecodeError
        raise ApiError(HTTPStatus.BAD_REQUEST, f"the form is malformed: {error}", "file") from None
    if form.name is None:
        raise ApiError(HTTPStatus.BAD_REQUEST, "the form has no file", "file")
    if to.tell() > most_bytes:
        raise _too_large(most_bytes)
    return form.name, form.purpose.decode(errors="replace")


def _too_large(most_bytes: int) -> ApiError:
    message = f"the file is larger than {most_bytes} bytes"
    return ApiError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message, "file", "file_too_large")


def _take(decoder: MultipartDecoder, form: _Form, to: IO[bytes]) -> None:
    """Take what the decoder has read."""
    while (event := decoder.next_event()) is not NEED_DATA:
        if isinstance(event, Field | File):
            form.part = event.name
        if isinstance(event, File) and event.name == "file":
            if form.name is not None:
                raise ValueError("it has several files")
            form.name = event.filename
        elif isinstance(event, Data) and form.part == "file":
            to.write(event.data)
        elif isinstance(event, Data) and form.part == "purpose":
            form.purpose += event.data
            if len(form.purpose) > LONGEST_PURPOSE:
                raise ValueError("its purpose is too long")
        elif isinstance(event, Epilogue):
            return
