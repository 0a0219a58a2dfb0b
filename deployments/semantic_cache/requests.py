"""Reading what others send to the cache: bounded, typed, and refused with the name of the field at fault.

Names of tenants and models are printable ASCII, because they travel in JSON one way and in headers the other,
and must mean the same partition in both.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.requests import Request

from cluster.policy.semantic_cache.store import PurgeScope
from deployments.messages import CACHE_COST, CACHE_ENERGY, CacheQuery
from deployments.semantic_cache.errors import ApiError
from deployments.semantic_cache.exact import EntryKey

_NAME = re.compile(r"[\x21-\x7e]{1,256}")
_KEY = re.compile(r"[0-9a-f]{64}")
_WAIT_S_MAX = 60.0
_SCOPE_NAMES = ("tenant", "model", "category", "entry_id")
_SIMILARITY_MIN = 0.9
_INSPECTED_MAX = 1000


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


async def departure(request: Request) -> None:
    """Returns when the client has gone."""
    # After the body, the only message left is the one that says the client has gone.
    while (await request.receive())["type"] != "http.disconnect":
        pass


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
    waits = data.get("waits", True)
    if not isinstance(waits, bool):
        raise _wrong("waits", "must be true or false")
    return CacheQuery(
        tenant=_name(data.get("tenant"), "tenant"),
        model=_name(data.get("model"), "model"),
        key=_key(data.get("key"), "key"),
        text=text,
        text_signals_wait_s=_seconds(data.get("text_signals_wait_s", 0.0), "text_signals_wait_s"),
        single_flight=single_flight,
        waits=waits,
        load=_share(data.get("load", 0.0), "load"),
        scope="" if data.get("scope") in {None, ""} else _key(data.get("scope"), "scope"),
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


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryScope:
    """Which entries are meant; what is None does not matter."""

    entries: PurgeScope
    text: str | None
    """Only what is near it."""
    similarity_min: float

    @property
    def is_of_the_semantic_tier(self) -> bool:
        """Whether it names what only that tier knows."""
        return bool(self.entries.category or self.entries.entry_id or self.text)


def purge_scope(data: Mapping[str, Any]) -> EntryScope:
    """The scope of a purge; without any field, all.

    Raises:
        ApiError: A field is of the wrong type, or unknown: a misspelt one would purge everything.
    """
    for name in data:
        if name not in {*_SCOPE_NAMES, "text", "similarity"}:
            raise _wrong(name, f"is not known; a purge has {', '.join(_SCOPE_NAMES)}, text and similarity")
    text, similarity = data.get("text"), data.get("similarity", _SIMILARITY_MIN)
    if text is not None and (not isinstance(text, str) or not text):
        raise _wrong("text", "must be a string that is not empty")
    if text is None and "similarity" in data:
        raise _wrong("similarity", "says how near to text, which is missing")
    names = {name: data.get(name) for name in _SCOPE_NAMES}
    found = {name: None if value is None else _name(value, name) for name, value in names.items()}
    return EntryScope(entries=PurgeScope(**found), text=text, similarity_min=_share(similarity, "similarity"))


def inspect_query(data: Mapping[str, Any]) -> tuple[EntryScope, int]:
    """The scope of an inspection and how many entries are wanted.

    Raises:
        ApiError: A field is of the wrong type or unknown.
    """
    rest = dict(data)
    count = rest.pop("count", 20)
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= _INSPECTED_MAX:
        raise _wrong("count", f"must be an integer from 1 to {_INSPECTED_MAX}")
    return purge_scope(rest), count


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What an answer took to compute."""

    energy_j: float
    cost_usd: float


def spent_on(headers: Mapping[str, str]) -> Spent:
    """What the router says of an answer's energy and price."""
    return Spent(energy_j=_amount(headers.get(CACHE_ENERGY)), cost_usd=_amount(headers.get(CACHE_COST)))


def _amount(value: str | None) -> float:
    """A header's number; 0 where there is none or nothing sensible."""
    try:
        found = float(value or 0.0)
    except ValueError:
        return 0.0
    return found if math.isfinite(found) and found >= 0 else 0.0


def _name(value: Any, field: str) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise _wrong(field, "must be 1 to 256 printable ASCII characters without spaces")
    return value


def _seconds(value: Any, field: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _WAIT_S_MAX:
        raise _wrong(field, f"must be a number of seconds, 0 to {_WAIT_S_MAX:.0f}")
    return float(value)


def _share(value: Any, field: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise _wrong(field, "must be a number from 0 to 1")
    return float(value)


def _key(value: Any, field: str) -> str:
    if not isinstance(value, str) or not _KEY.fullmatch(value):
        raise _wrong(field, "must be a SHA-256 in lower-case hex (64 characters)")
    return value


def _wrong(field: str, problem: str) -> ApiError:
    return ApiError(f"{field!r} {problem}", param=field, code="invalid_value")
