"""Errors as clients of the OpenAI and Anthropic APIs expect them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cluster.entities.reasons import Reason
from cluster.entities.workload import Surface

_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


@dataclass(kw_only=True)
class ApiError(Exception):
    """A request that gets an error for an answer."""

    status: int
    message: str
    code: str
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    reason: Reason | None = None
    """Why admission turned the request away, where the status alone does not say it."""

    def body(self, surface: Surface | None) -> dict[str, Any]:
        """The JSON body, in the shape of the surface's API."""
        if surface in (Surface.MESSAGES, Surface.COUNT_TOKENS):
            kind = _ANTHROPIC_TYPES.get(self.status, "api_error")
            return {"type": "error", "error": {"type": kind, "message": self.message}}
        if self.status == 429:
            kind = "rate_limit_error"
        elif self.status == 402:
            kind = "insufficient_quota"
        else:
            kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def bad_request(message: str, *, param: str | None = None, code: str = "invalid_request") -> ApiError:
    """400."""
    return ApiError(status=400, message=message, code=code, param=param)


def model_not_found(name: object, known: list[str]) -> ApiError:
    """404 with what would be right."""
    message = f"The model {name!r} does not exist. Models here: {', '.join(known)}."
    return ApiError(status=404, message=message, code="model_not_found", param="model")


def body_too_large(limit_bytes: int) -> ApiError:
    """413."""
    message = f"The request body is larger than {limit_bytes} bytes."
    return ApiError(status=413, message=message, code="request_too_large")


def wrong_media_type(kind: str) -> ApiError:
    """415."""
    sent = f"not {kind!r}" if kind else "and the request names none"
    message = f"The body's content type must be application/json, {sent}."
    return ApiError(status=415, message=message, code="unsupported_media_type")


def wrong_content_encoding(kind: str) -> ApiError:
    """415, with what would do (RFC 7694)."""
    message = f"The body is compressed (content-encoding: {kind}); send it as it is."
    headers = {"accept-encoding": "identity"}
    return ApiError(status=415, message=message, code="unsupported_content_encoding", headers=headers)


def headers_too_large(limit_bytes: int) -> ApiError:
    """431."""
    message = f"The request's headers are larger than {limit_bytes} bytes."
    return ApiError(status=431, message=message, code="headers_too_large")


def body_too_slow(limit_s: float) -> ApiError:
    """408."""
    message = f"The request body was not complete after {limit_s:g} s."
    return ApiError(status=408, message=message, code="request_timeout", headers={"connection": "close"})


def overloaded(message: str, *, status: int, retry_after_s: int, reason: Reason | None = None) -> ApiError:
    """429 (queue full) or 503 (nobody to answer)."""
    return ApiError(
        status=status,
        message=message,
        code="rate_limit_exceeded" if status == 429 else "overloaded",
        headers={"retry-after": str(retry_after_s)},
        reason=reason,
    )
