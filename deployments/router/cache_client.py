"""Asks the semantic-cache deployment before any engine is asked, and gives it what the engines answered.

The cache can only help: whatever goes wrong with it, the request goes on without it.
"""

import asyncio
import hashlib
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
import orjson

from cluster.config.semantic_cache import SemanticCacheConfig
from cluster.policy.semantic_cache.identity import SemanticIdentity, outside_the_answer
from deployments.messages import (
    CACHE_AGE,
    CACHE_ASKER,
    CACHE_COST,
    CACHE_ENERGY,
    CACHE_ENTRY,
    CACHE_KEY,
    CACHE_LEASE,
    CACHE_MODEL,
    CACHE_OUTCOME,
    CACHE_SIMILARITY,
    CACHE_TENANT,
    CACHE_TEXT_SIGNALS,
    CACHE_TIER,
    CacheQuery,
    TextSignals,
)
from deployments.router.wire.errors import overloaded
from deployments.router.wire.requests import ParsedRequest

logger = logging.getLogger("tidemill.router.cache")

_PURGE_TIMEOUT_S = 30.0
_SIGN_OF_LIFE_S = 2.0
_UNTRACED: Mapping[str, str] = {}
OPT_HEADER = "x-tidemill-cache"
"""Request header: `on` opts in although the answer is not deterministic, `off` opts out."""
_ID = re.compile(rb'"id":\s?"((?:chatcmpl-|cmpl-|resp_|msg_)[A-Za-z0-9_-]+)"')
_MODEL = re.compile(rb'"model":\s?"([A-Za-z0-9._:-]+)"')


@dataclass(frozen=True, slots=True)
class CachedAnswer:
    """A hit."""

    body: bytes
    content_type: str
    tier: str
    age_s: str
    similarity: str | None = None
    """Of the semantic tier: how near what was asked is to what was answered."""
    entry: str | None = None


@dataclass(frozen=True, slots=True)
class CacheMiss:
    """Nothing there; with a lease, others wait for what this request computes."""

    key: str
    model: str
    """The name it was asked under: while the model is open, that which leaves it open."""
    owner: str
    """The replica that said so, and that gets the answer."""
    lease: str | None = None
    text_signals: TextSignals | None = None


class _Busy:
    """Somebody else computes the answer to an identical request."""


def may_look_up(headers: Mapping[str, str]) -> bool:
    """Whether the caller accepts a stored answer."""
    control = headers.get("cache-control", "").lower()
    return "no-cache" not in control and "no-store" not in control


def is_cacheable(request: ParsedRequest, headers: Mapping[str, str]) -> bool:
    """Whether an equal request would get an equal answer, or the caller says that one will do."""
    choice = headers.get(OPT_HEADER, "").lower()
    if choice == "off" or "no-store" in headers.get("cache-control", "").lower():
        return False
    body = request.body
    if not request.surface.generates or body.get("previous_response_id") or body.get("background"):
        return False
    if choice == "on":
        return True
    # A tool call has effects outside; replaying one must be asked for.
    return body.get("temperature") == 0 and not body.get("tools")


def key_of(request: ParsedRequest, *, policy_epoch: str = "", knowledge_version: str = "") -> str:
    """SHA-256 of everything that determines the answer and its form.

    Args:
        request: what is asked.
        policy_epoch: of the cache; another one makes all that is stored unreachable.
        knowledge_version: what the caller says its answers depend on beside the request.
    """
    left_out = outside_the_answer(request.surface)
    material = {k: v for k, v in request.body.items() if k not in left_out}
    digest = hashlib.sha256(orjson.dumps([request.surface.value, policy_epoch, knowledge_version]))
    digest.update(orjson.dumps(material, option=orjson.OPT_SORT_KEYS))
    return digest.hexdigest()


def epoch_with(policy_epoch: str, weights: str) -> str:
    """The epoch in which answers of some adapters' weights are stored: other weights begin anew."""
    return f"{policy_epoch}\0{weights}" if weights else policy_epoch


def with_new_id(body: bytes, make_id: Callable[[], str]) -> bytes:
    """A stored answer under an id of its own, so that clients that log ids do not see one twice."""
    found = _ID.search(body[:4096])
    if found is None:
        return body
    old = found.group(1)
    prefix = re.match(rb"chatcmpl-|cmpl-|resp_|msg_", old)
    assert prefix is not None  # noqa: S101 - the pattern begins with it
    return body.replace(old, prefix.group(0) + make_id().encode())


def model_of(body: bytes) -> str | None:
    """The model that a stored answer says it is from."""
    found = _MODEL.search(body[:4096])
    return None if found is None else found.group(1).decode()


def _text_signals(headers: Mapping[str, str]) -> TextSignals | None:
    value = headers.get(CACHE_TEXT_SIGNALS)
    if value is None:
        return None
    try:
        return TextSignals.from_header(value)
    except (ValueError, TypeError, KeyError) as error:
        logger.warning("text signals cannot be read: %s", error)
        return None


class CacheClient:
    """The connection to the cache; `urls` says where its replicas are at the moment."""

    def __init__(
        self,
        config: SemanticCacheConfig,
        session: Callable[[], aiohttp.ClientSession],
        urls: Callable[[], Sequence[str]],
        *,
        router_id: str,
    ) -> None:
        self._config = config
        self._session = session
        self._urls = urls
        self._named = {CACHE_ASKER: router_id}
        self._living: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Give signs of life from now on: without them, leases end."""
        if self._config.enabled and self._config.exact.single_flight_wait_s > 0:
            self._living = asyncio.create_task(self._live())

    async def close(self) -> None:
        """Give no more of them."""
        if self._living is not None:
            self._living.cancel()
            await asyncio.gather(self._living, return_exceptions=True)

    async def _live(self) -> None:
        while True:
            await asyncio.sleep(_SIGN_OF_LIFE_S)
            await asyncio.gather(*(self._post(url, "/alive", {}, b"") for url in self._urls()))

    async def look_up(
        self,
        request: ParsedRequest,
        tenant: str,
        *,
        text: str = "",
        text_wait_s: float = 0.0,
        near: SemanticIdentity | None = None,
        knowledge_version: str = "",
        weights: str = "",
        load: float = 0.0,
        trace_headers: Mapping[str, str] = _UNTRACED,
    ) -> CachedAnswer | CacheMiss | None:
        """A stored answer, a miss, or None if the cache is away. May wait for an identical request.

        Args:
            request: what is asked.
            tenant: who asks.
            text: what its signals are wanted of, if it is a miss; empty for none.
            text_wait_s: how long a miss may wait for them.
            near: where near matches belong; None if none would do.
            knowledge_version: the caller's.
            weights: stands for the adapters that may answer; empty for a model itself.
            load: how overloaded the fleet is, 0 to 1.
            trace_headers: what names the request's trace.
        """
        key = key_of(
            request,
            policy_epoch=epoch_with(self._config.semantic.policy_epoch, weights),
            knowledge_version=knowledge_version,
        )
        asked = str(request.body["model"])
        owner = self._owner(f"{tenant}/{asked}/{key if near is None else near.scope}")
        if owner is None:
            return None
        query = CacheQuery(
            tenant=tenant,
            model=asked,
            key=key,
            single_flight=self._config.exact.single_flight_wait_s > 0,
            waits=False,
            text=text if near is None else near.text,
            text_signals_wait_s=text_wait_s if text else 0.0,
            scope="" if near is None else near.scope,
            load=load,
        )
        patience_s = self._config.lookup_timeout_s + text_wait_s
        try:
            found = await self._ask_owner(owner, query, trace_headers, patience_s=patience_s)
            if isinstance(found, _Busy):
                # Only who knows what for waits longer than for a cache that is slow.
                patience_s += self._config.exact.single_flight_wait_s
                waiting = replace(query, waits=True)
                found = await self._ask_owner(owner, waiting, trace_headers, patience_s=patience_s)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            logger.warning("cache look-up: %s: %s", type(error).__name__, error)
            return None
        return None if isinstance(found, _Busy) else found

    async def _ask_owner(
        self, owner: str, query: CacheQuery, trace_headers: Mapping[str, str], *, patience_s: float
    ) -> "CachedAnswer | CacheMiss | _Busy | None":
        timeout = aiohttp.ClientTimeout(total=patience_s, sock_connect=self._config.lookup_timeout_s)
        async with self._session().post(
            f"{owner}/lookup",
            data=orjson.dumps(query.to_json()),
            headers={"content-type": "application/json", **self._named, **trace_headers},
            timeout=timeout,
        ) as response:
            content = await response.read()
            outcome = response.headers.get(CACHE_OUTCOME)
            if outcome == "hit":
                return CachedAnswer(
                    body=content,
                    content_type=response.headers.get("content-type", "application/json"),
                    tier=response.headers.get(CACHE_TIER, "exact"),
                    age_s=response.headers.get(CACHE_AGE, "0"),
                    similarity=response.headers.get(CACHE_SIMILARITY),
                    entry=response.headers.get(CACHE_ENTRY),
                )
            if response.status != 204:
                logger.warning("cache look-up: status %d %s", response.status, content[:200])
                return None
            if outcome == "wait":
                return _Busy()
            return CacheMiss(
                key=query.key,
                model=query.model,
                owner=owner,
                lease=response.headers.get(CACHE_LEASE),
                text_signals=_text_signals(response.headers),
            )

    async def read_text(self, text: str, *, wait_s: float) -> TextSignals | None:
        """A text's signals without a look-up; None if they do not come in time."""
        url = self._owner(text)
        if url is None:
            return None
        try:
            async with self._session().post(
                f"{url}/text-signals",
                data=orjson.dumps({"text": text, "wait_s": wait_s}),
                headers={"content-type": "application/json"},
                timeout=aiohttp.ClientTimeout(total=wait_s),
            ) as response:
                return _text_signals(response.headers)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            logger.warning("text signals: %s: %s", type(error).__name__, error)
            return None

    async def store(
        self,
        miss: CacheMiss,
        *,
        tenant: str,
        content_type: str,
        body: bytes,
        energy_j: float = 0.0,
        cost_usd: float = 0.0,
        trace_headers: Mapping[str, str] = _UNTRACED,
    ) -> None:
        """Give an answer to the cache and to everybody who waits for it."""
        headers = {
            CACHE_TENANT: tenant,
            CACHE_MODEL: miss.model,
            CACHE_KEY: miss.key,
            CACHE_ENERGY: f"{energy_j:.6g}",
            CACHE_COST: f"{cost_usd:.6g}",
            "content-type": content_type,
            **trace_headers,
        }
        if miss.lease is not None:
            headers[CACHE_LEASE] = miss.lease
        await self._post(miss.owner, "/store", headers, body)

    async def release(self, miss: CacheMiss, trace_headers: Mapping[str, str] = _UNTRACED) -> None:
        """Say that no answer will come, so that somebody who waits computes it."""
        if miss.lease is not None:
            await self._post(miss.owner, "/release", {CACHE_LEASE: miss.lease, **trace_headers}, b"")

    async def purge(self, scope: Mapping[str, Any]) -> tuple[int, bytes]:
        """Forget what a scope covers, on all replicas; the cache's status and body.

        Raises:
            ApiError: 503, a replica did not answer.
        """
        return await self._ask_all("/purge", scope)

    async def inspect(self, scope: Mapping[str, Any]) -> tuple[int, bytes]:
        """Entries of the semantic tier, of all replicas.

        Raises:
            ApiError: 503, a replica did not answer.
        """
        return await self._ask_all("/inspect", scope)

    async def stats(self) -> tuple[int, bytes]:
        """What all replicas hold and have done.

        Raises:
            ApiError: 503, a replica did not answer.
        """
        return await self._ask_all("/stats", None)

    async def _ask_all(self, path: str, content: Mapping[str, Any] | None) -> tuple[int, bytes]:
        """One answer of all replicas: numbers are added, lists joined; the first error, if there is one."""
        urls = self._urls()
        if not urls:
            raise overloaded("The semantic cache is not running.", status=503, retry_after_s=5)
        # All are asked, whatever one says: a purge must not spare one because another is gone.
        asked = (self._ask(url + path, content) for url in urls)
        replies = await asyncio.gather(*asked, return_exceptions=True)
        answers: list[dict[str, Any]] = []
        for reply in replies:
            if isinstance(reply, BaseException):
                raise reply
            if reply[0] >= 400:
                return reply
            answers.append(orjson.loads(reply[1]))
        if content is None:
            return 200, orjson.dumps({"replicas": answers})
        merged = answers[0]
        for answer in answers[1:]:
            merged = {name: value + answer[name] for name, value in merged.items()}
        return 200, orjson.dumps(merged)

    async def _ask(self, url: str, content: Mapping[str, Any] | None) -> tuple[int, bytes]:
        timeout = aiohttp.ClientTimeout(total=_PURGE_TIMEOUT_S)
        method = "GET" if content is None else "POST"
        try:
            async with self._session().request(
                method, url, json=None if content is None else dict(content), timeout=timeout
            ) as response:
                return response.status, await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            message = f"The semantic cache did not answer: {type(error).__name__}."
            raise overloaded(message, status=503, retry_after_s=5) from error

    def _owner(self, key: str) -> str | None:
        """The replica that a partition belongs to: rendezvous hashing (Thaler and Ravishankar, 1998).

        When a replica comes or goes, only what belongs to it moves.
        """

        def weight(url: str) -> bytes:
            return hashlib.blake2b(f"{url} {key}".encode(), digest_size=8).digest()

        return max(self._urls(), key=weight, default=None)

    async def _post(self, url: str, path: str, headers: Mapping[str, str], body: bytes) -> None:
        timeout = aiohttp.ClientTimeout(total=self._config.lookup_timeout_s)
        try:
            async with self._session().post(
                url + path, data=body, headers={**self._named, **headers}, timeout=timeout
            ) as response:
                if response.status >= 400:
                    logger.warning("cache %s: %d %s", path, response.status, (await response.read())[:200])
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            logger.warning("cache %s: %s: %s", path, type(error).__name__, error)
