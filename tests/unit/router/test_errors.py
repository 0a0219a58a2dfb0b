"""Errors in the words of the two APIs, and as exceptions that can travel like any other."""

import contextlib

import pytest

from cluster.entities.workload import Surface
from deployments.router.wire.errors import ApiError, bad_request, body_too_large, model_not_found, overloaded


@pytest.mark.parametrize(
    ("error", "openai_type", "anthropic_type"),
    [
        (bad_request("no", param="n"), "invalid_request_error", "invalid_request_error"),
        (model_not_found("x", ["y"]), "invalid_request_error", "not_found_error"),
        (body_too_large(5), "invalid_request_error", "request_too_large"),
        (overloaded("no", status=429, retry_after_s=3), "rate_limit_error", "rate_limit_error"),
        (overloaded("no", status=503, retry_after_s=3), "server_error", "overloaded_error"),
        (ApiError(status=502, message="no", code="engine_failed"), "server_error", "api_error"),
    ],
)
def test_each_api_has_its_own_shape(error, openai_type, anthropic_type):
    for surface in (Surface.CHAT, Surface.RESPONSES, None):
        body = error.body(surface)["error"]
        assert set(body) == {"message", "type", "param", "code"}
        assert (body["type"], body["message"], body["code"]) == (openai_type, error.message, error.code)
    for surface in (Surface.MESSAGES, Surface.COUNT_TOKENS):
        wanted = {"type": "error", "error": {"type": anthropic_type, "message": error.message}}
        assert error.body(surface) == wanted


def test_overload_says_when_to_come_back():
    assert overloaded("no", status=503, retry_after_s=7).headers == {"retry-after": "7"}


def test_an_error_passes_through_a_context_manager():
    @contextlib.contextmanager
    def around():
        yield

    with pytest.raises(ApiError), around():
        raise bad_request("no")
