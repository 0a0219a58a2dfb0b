"""Errors of the cache's HTTP surface, in the shape that clients of the OpenAI API expect."""

from http import HTTPStatus

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response


class ApiError(Exception):
    """An answer other than success.

    Attributes:
        message: For people.
        param: The field at fault, if there is one.
        code: For programs.
        status: The HTTP status.
        retry_after_s: Set where trying again helps.
    """

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        status: int = 400,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code
        self.status = status
        self.retry_after_s = retry_after_s


async def answer_api_error(_request: Request, error: Exception) -> Response:
    """The response for an `ApiError`."""
    if not isinstance(error, ApiError):
        raise error
    headers = {} if error.retry_after_s is None else {"retry-after": str(error.retry_after_s)}
    return _response(error, headers)


async def answer_http_exception(_request: Request, error: Exception) -> Response:
    """The response for an unknown path or a wrong method."""
    if not isinstance(error, HTTPException):
        raise error
    code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
    shaped = ApiError(error.detail, code=code, status=error.status_code)
    return _response(shaped, dict(error.headers or {}))


async def answer_disconnect(_request: Request, error: Exception) -> Response:
    """Nobody reads it, but it keeps a departure from being logged as a crash."""
    if not isinstance(error, ClientDisconnect):
        raise error
    return _response(ApiError("the client has left", code="client_left", status=400), {})


async def answer_crash(_request: Request, _error: Exception) -> Response:
    """The response for a defect of ours; the server logs the traceback."""
    return _response(ApiError("internal error", code="internal_error", status=500), {})


def _response(error: ApiError, headers: dict[str, str]) -> Response:
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    body = {"error": {"message": error.message, "type": kind, "param": error.param, "code": error.code}}
    return Response(
        orjson.dumps(body),
        status_code=error.status,
        headers={**headers, "content-type": "application/json"},
    )
