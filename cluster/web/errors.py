"""Errors in OpenAI's form."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastapi import FastAPI, Request
    from fastapi.responses import Response


class ApiError(Exception):
    """An answer in OpenAI's form of an error.

    Args:
        param: the field of the request that is wrong.
        code: a word for programs.
        more: further fields, such as the line of a file.
    """

    def __init__(
        self,
        status: HTTPStatus,
        message: str,
        param: str | None = None,
        code: str | None = None,
        **more: Any,
    ):
        super().__init__(message)
        self.status = status
        kind = "server_error" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"
        self.content = {"error": {"message": message, "type": kind, "param": param, "code": code, **more}}


def invalid_key() -> ApiError:
    """The answer to a request without a key that is known."""
    return ApiError(
        HTTPStatus.UNAUTHORIZED, "a valid key is needed: Authorization: Bearer KEY", code="invalid_api_key"
    )


def answer_errors(app: FastAPI, on_refusal: Callable[[ApiError], None] = lambda error: None) -> None:
    """Have an application answer every error in OpenAI's form.

    Args:
        on_refusal: called with each :class:`ApiError` that is answered.
    """
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse
    from starlette.exceptions import HTTPException

    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> Response:
        on_refusal(error)
        return JSONResponse(error.content, error.status)

    @app.exception_handler(Exception)
    async def own_mistake(request: Request, error: Exception) -> Response:
        message = "an error of the server's: its log has the cause"
        return JSONResponse(ApiError(HTTPStatus.INTERNAL_SERVER_ERROR, message).content, 500)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        status = HTTPStatus(error.status_code)
        return JSONResponse(ApiError(status, str(error.detail)).content, status)

    @app.exception_handler(RequestValidationError)
    async def wrong_parameter(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        name = str(first["loc"][-1])
        wrong = ApiError(HTTPStatus.BAD_REQUEST, f"{name}: {first['msg']}", name)
        return JSONResponse(wrong.content, wrong.status)
