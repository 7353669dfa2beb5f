"""Errors in OpenAI's form."""

from __future__ import annotations

from http import HTTPStatus

FAILURES = (ValueError, OverflowError, RuntimeError, ArithmeticError)
"""What the engine raises, or tells a request."""


class ApiError(Exception):
    """An answer in OpenAI's form of an error."""

    def __init__(self, status: HTTPStatus, message: str, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.status = status
        kind = "server_error" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"
        self.content = {"error": {"message": message, "type": kind, "param": param, "code": code}}


def as_api_error(error: Exception) -> ApiError:
    """The answer to one of the engine's errors."""
    if isinstance(error, OverflowError):
        return ApiError(HTTPStatus.TOO_MANY_REQUESTS, str(error), code="rate_limit_exceeded")
    if isinstance(error, ValueError):
        return ApiError(HTTPStatus.BAD_REQUEST, str(error))
    return ApiError(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
