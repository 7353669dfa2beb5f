"""Answers to what the engine raises."""

from __future__ import annotations

from http import HTTPStatus

from cluster.web.errors import ApiError

FAILURES = (ValueError, OverflowError, RuntimeError, ArithmeticError)
"""What the engine raises, or tells a request."""


def as_api_error(error: Exception) -> ApiError:
    """The answer to one of the engine's errors."""
    if isinstance(error, OverflowError):
        return ApiError(HTTPStatus.TOO_MANY_REQUESTS, str(error), code="rate_limit_exceeded")
    if isinstance(error, ValueError):
        return ApiError(HTTPStatus.BAD_REQUEST, str(error))
    return ApiError(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
