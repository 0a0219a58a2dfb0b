"""Reading what others send to the cache: bounded, typed, and refused with the name of the field at fault.

Names of tenants and models are printable ASCII, because they travel in JSON one way and in headers the other,
and must mean the same partition in both.
"""

import re
from collections.abc import Mapping
from typing import Any

import orjson
from starlette.requests import Request

from deployments.messages import CacheQuery
from deployments.semantic_cache.errors import ApiError
from deployments.semantic_cache.exact import EntryKey

_NAME = re.compile(r"[\x21-\x7e]{1,256}")
_KEY = re.compile(r"[0-9a-f]{64}")
_WAIT_S_MAX = 60.0


async def read_body(request: Request, *, bytes_max: int) -> bytes:
    """The whole body.

    Raises:
        ApiError: 413 if it is larger than `bytes_max`.
    """
    too_large = ApiError(f"the body has more than {bytes_max} bytes", code="body_too_large", status=413)
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > bytes_max:
        raise too_large
    chunks: list[bytes] = []
    size_bytes = 0
    async for chunk in request.stream():
        size_bytes += len(chunk)
        if size_bytes > bytes_max:
            raise too_large
        chunks.append(chunk)
    return b"".join(chunks)


async def read_object(request: Request, *, bytes_max: int) -> dict[str, Any]:
    """The body as a JSON object.

    Raises:
        ApiError: 413 if it is too large, 400 if it is anything else.
    """
    body = await read_body(request, bytes_max=bytes_max)
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ApiError(f"the body is not JSON: {error}", code="invalid_json") from None
    if not isinstance(data, dict):
        raise ApiError("the body must be a JSON object", code="invalid_json")
    return data


def cache_query(data: Mapping[str, Any]) -> CacheQuery:
    """A look-up from its JSON. Fields that are not known are ignored: the asker may be of a newer release.

    Raises:
        ApiError: A field is missing or of the wrong type.
    """
    text = data.get("text", "")
    if not isinstance(text, str):
        raise _wrong("text", "must be a string")
    single_flight = data.get("single_flight", True)
    if not isinstance(single_flight, bool):
        raise _wrong("single_flight", "must be true or false")
    return CacheQuery(
        tenant=_name(data.get("tenant"), "tenant"),
        model=_name(data.get("model"), "model"),
        key=_key(data.get("key"), "key"),
        text=text,
        text_signals_wait_s=_seconds(data.get("text_signals_wait_s", 0.0), "text_signals_wait_s"),
        single_flight=single_flight,
    )


def text_query(data: Mapping[str, Any]) -> tuple[str, float]:
    """Text and patience of an asker who wants a text's signals and no answer.

    Raises:
        ApiError: A field is missing or of the wrong type.
    """
    text = data.get("text")
    if not isinstance(text, str) or not text:
        raise _wrong("text", "must be a string that is not empty")
    return text, _seconds(data.get("wait_s"), "wait_s")


def entry_key(headers: Mapping[str, str], *, tenant: str, model: str, key: str) -> EntryKey:
    """The key of an answer from the headers of the given names.

    Raises:
        ApiError: A header is missing or malformed.
    """
    return EntryKey(
        tenant=_name(headers.get(tenant), tenant),
        model=_name(headers.get(model), model),
        key=_key(headers.get(key), key),
    )


def purge_scope(data: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Tenant and model of a purge; None means all.

    Raises:
        ApiError: A field is of the wrong type, or unknown: a misspelt one would purge everything.
    """
    for name in data:
        if name not in {"tenant", "model"}:
            raise _wrong(name, "is not known; a purge has tenant and model")
    tenant, model = data.get("tenant"), data.get("model")
    return (
        None if tenant is None else _name(tenant, "tenant"),
        None if model is None else _name(model, "model"),
    )


def _name(value: Any, field: str) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise _wrong(field, "must be 1 to 256 printable ASCII characters without spaces")
    return value


def _seconds(value: Any, field: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _WAIT_S_MAX:
        raise _wrong(field, f"must be a number of seconds, 0 to {_WAIT_S_MAX:.0f}")
    return float(value)


def _key(value: Any, field: str) -> str:
    if not isinstance(value, str) or not _KEY.fullmatch(value):
        raise _wrong(field, "must be a SHA-256 in lower-case hex (64 characters)")
    return value


def _wrong(field: str, problem: str) -> ApiError:
    return ApiError(f"{field!r} {problem}", param=field, code="invalid_value")
