"""The HTTP surface of the cache, a plain ASGI app: look-ups, stores, leases, purges, embeddings, metrics.

It exists apart from its Ray Serve deployment so that routers talk plain HTTP to it and tests need no cluster.
All state belongs to one process and one event loop; nothing in a look-up awaits between reading the store and
taking the lease.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import orjson
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from cluster.config.semantic_cache import SemanticCacheConfig
from cluster.policy.semantic_cache.identity import Partition
from cluster.policy.semantic_cache.tier import SemanticQuery
from deployments.encoder.encoder import Encoder, EncoderBusyError
from deployments.messages import (
    CACHE_AGE,
    CACHE_ASKER,
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
from deployments.semantic_cache.askers import Askers
from deployments.semantic_cache.documents import Documents
from deployments.semantic_cache.embeddings import encoded, parse_embeddings, render_embeddings
from deployments.semantic_cache.errors import (
    ApiError,
    answer_api_error,
    answer_crash,
    answer_disconnect,
    answer_http_exception,
)
from deployments.semantic_cache.exact import Entry, EntryKey, ExactTier
from deployments.semantic_cache.exposition import CacheCounts, LookupOutcome, render_metrics
from deployments.semantic_cache.near import NearHit, NearMatches
from deployments.semantic_cache.requests import (
    EntryScope,
    cache_query,
    departure,
    entry_key,
    inspect_query,
    purge_scope,
    read_body,
    read_object,
    spent_on,
    text_query,
)
from deployments.semantic_cache.single_flight import Lease, LeaseMismatchError, SingleFlight, Waiter
from deployments.semantic_cache.text_reader import TextReader

logger = logging.getLogger("tidemill.cache")

NOTED_IN_TRACES = {CACHE_OUTCOME: "tidemill.cache"}
"""What a look-up's span says: the attribute by the header of the answer that holds it."""
_JSON = {"content-type": "application/json"}
_CONTENT_TYPE_CHARS_MAX = 256


class CacheService:
    """The cache of one replica behind `app`.

    Args:
        config: The deployment's section.
        now: Seconds on a clock that never goes backwards; ages are measured with it.
        body_bytes_max: Bound on JSON bodies; larger ones get 413 (`gateway.body_bytes_max` in a cluster).
        reads_texts: Whether text signals may be asked for, which takes a second and 80 MB at the start.
        documents: What outlives the process; needed where near matches are configured.
        wall_s: Unix time; ages of near matches are measured with it, because they outlive the process.
    """

    def __init__(
        self,
        config: SemanticCacheConfig,
        now: Callable[[], float],
        *,
        body_bytes_max: int = 8 * 1024 * 1024,
        reads_texts: bool = False,
        documents: Documents | None = None,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._now = now
        self._body_bytes_max = body_bytes_max
        self._exact = ExactTier(config.exact)
        self._flights = SingleFlight(config.exact)
        self._askers = Askers(now)
        self._encoder = Encoder(config.encoder)
        self._reader = TextReader(self._encoder) if reads_texts or config.semantic.enabled else None
        self._near: NearMatches | None = None
        if config.semantic.enabled and documents is not None:
            has_peers = config.replicas > 1
            self._near = NearMatches(
                config.semantic, documents, self._encoder, wall_s=wall_s, has_peers=has_peers
            )
        self._lookups = dict.fromkeys(LookupOutcome, 0)
        self.app = Starlette(
            routes=[
                Route("/lookup", self._lookup, methods=["POST"]),
                Route("/store", self._store, methods=["POST"]),
                Route("/release", self._release, methods=["POST"]),
                Route("/alive", self._alive, methods=["POST"]),
                Route("/purge", self._purge, methods=["POST"]),
                Route("/inspect", self._inspect, methods=["POST"]),
                Route("/text-signals", self._text_signals, methods=["POST"]),
                Route("/v1/embeddings", self._embeddings, methods=["POST"]),
                Route("/stats", self._stats, methods=["GET"]),
                Route("/metrics", self._metrics, methods=["GET"]),
                Route("/health", self._health, methods=["GET"]),
            ],
            exception_handlers={
                ApiError: answer_api_error,
                HTTPException: answer_http_exception,
                ClientDisconnect: answer_disconnect,
                Exception: answer_crash,
            },
        )

    @property
    def near(self) -> NearMatches | None:
        """The semantic tier, where it is configured."""
        return self._near

    async def start(self) -> None:
        """Loads the encoder, away from the event loop.

        Raises:
            EncoderUnavailableError: The encoder's files are not installed.
        """
        await self._encoder.load()
        if self._reader is not None:
            await self._reader.load()
        if self._near is not None:
            await self._near.start()

    async def close(self) -> None:
        """Lets all who wait compute for themselves and ends the encoder's thread."""
        self._flights.close()
        if self._near is not None:
            await self._near.close()
        await self._encoder.close()

    async def _lookup(self, request: Request) -> Response:
        self._hear(request)
        query = cache_query(await read_object(request, bytes_max=self._body_bytes_max))
        key = EntryKey(tenant=query.tenant, model=query.model, key=query.key)
        entry = self._exact.get(key, now_s=self._now())
        if entry is not None:
            return self._hit(entry, LookupOutcome.HIT)
        signals = None
        if query.text and (query.text_signals_wait_s > 0 or self._wants_near(query)):
            # Before the lease is taken, which must not be lost with an asker who leaves meanwhile.
            signals = await self._read(query.text, wait_s=self._patience_s(query))
            near = await self._look_near(key, query, signals)
            entry = self._exact.get(key, now_s=self._now())
            if entry is not None:
                return self._hit(entry, LookupOutcome.HIT)
            if near is not None:
                return self._near_hit(near)
        read = None if signals is None or query.text_signals_wait_s == 0 else signals.to_header()
        return await self._flown(key, query, read, request)

    async def _flown(self, key: EntryKey, query: CacheQuery, read: str | None, request: Request) -> Response:
        """The miss, or what somebody else computes meanwhile."""
        if query.single_flight and not query.waits and self._flights.is_led(key):
            return Response(status_code=204, headers={CACHE_OUTCOME: "wait"})
        turn = self._flights.ask(key, request.headers.get(CACHE_ASKER, "")) if query.single_flight else None
        if not isinstance(turn, Waiter):
            return self._miss(turn, read)
        outcome = await self._flights.wait(turn, gone=departure(request))
        if isinstance(outcome, Entry):
            return self._hit(outcome, LookupOutcome.SHARED)
        return self._miss(outcome, read)

    async def _text_signals(self, request: Request) -> Response:
        text, wait_s = text_query(await read_object(request, bytes_max=self._body_bytes_max))
        read = await self._read(text, wait_s=wait_s)
        headers = {} if read is None else {CACHE_TEXT_SIGNALS: read.to_header()}
        return Response(status_code=204, headers=headers)

    def _wants_near(self, query: CacheQuery) -> bool:
        return self._near is not None and bool(query.scope)

    def _patience_s(self, query: CacheQuery) -> float:
        near_s = self._config.semantic.embedding_wait_s if self._wants_near(query) else 0.0
        return max(query.text_signals_wait_s, near_s)

    async def _look_near(
        self, key: EntryKey, query: CacheQuery, signals: TextSignals | None
    ) -> NearHit | None:
        """A near match; whatever goes wrong with it makes a miss."""
        near = self._near
        if near is None or not query.scope:
            return None
        if signals is None:
            near.counts.unread += 1
            return None
        wanted = SemanticQuery(
            partition=Partition(query.tenant, query.model, query.scope),
            text=query.text,
            vector=np.array(signals.embedding, dtype=np.float32),
            category=signals.category,
            language=signals.language,
        )
        try:
            return await near.look_up(key, wanted, load=query.load)
        except Exception:
            logger.exception("near matches could not be looked up")
            return None

    async def _read(self, text: str, *, wait_s: float) -> TextSignals | None:
        """A text's signals; None if they do not come in time. The asker goes on without them."""
        if self._reader is None or not self._encoder.is_loaded:
            return None
        try:
            async with asyncio.timeout(wait_s):
                return await self._reader.read(text)
        except (EncoderBusyError, TimeoutError):
            return None

    async def _store(self, request: Request) -> Response:
        key = entry_key(request.headers, tenant=CACHE_TENANT, model=CACHE_MODEL, key=CACHE_KEY)
        content_type = _content_type(request)
        token = request.headers.get(CACHE_LEASE)
        self._admits(token, key)
        try:
            body = await read_body(request, bytes_max=self._exact.answer_bytes_max)
        except ClientDisconnect:
            self._flights.release(token or "")
            raise
        except ApiError:
            # Who waits would get an answer of this size one after the other; they rather compute at once.
            self._exact.refuse()
            self._flights.land(key, None)
            raise
        # Again, because a purge may have come while the body was read.
        if not self._admits(token, key):
            self._flights.release(token or "")
            return Response(status_code=204)
        entry = Entry(body=body, content_type=content_type, stored_at_s=self._now())
        self._exact.put(key, entry)
        if self._near is not None:
            self._near.keep(key, entry, spent_on(request.headers))
        self._flights.land(key, entry)
        return Response(status_code=204)

    async def _release(self, request: Request) -> Response:
        token = request.headers.get(CACHE_LEASE)
        if not token:
            raise ApiError(f"the header {CACHE_LEASE} is missing", param=CACHE_LEASE, code="invalid_value")
        self._flights.release(token)
        return Response(status_code=204)

    async def _alive(self, request: Request) -> Response:
        self._hear(request)
        return Response(status_code=204)

    def _hear(self, request: Request) -> None:
        """A router lives; what those were computing that do not, somebody who waits computes now."""
        if self._askers.heard(request.headers.get(CACHE_ASKER, "")):
            self._flights.release_of(self._askers.silent)

    async def _purge(self, request: Request) -> Response:
        scope = purge_scope(await read_object(request, bytes_max=self._body_bytes_max))
        # First what may be refused: a purge that fails has forgotten nothing.
        vector = await self._vector(scope) if self._near is not None else None
        count = 0
        # An equal request is answered by the exact tier whatever its category: it must forget as well.
        if not scope.is_of_the_semantic_tier:
            count = self._exact.purge(tenant=scope.entries.tenant, model=scope.entries.model)
        elif self._near is None:
            raise ApiError("the semantic tier is off (semantic_cache.semantic.enabled)", status=409)
        self._flights.void(scope.entries.tenant, scope.entries.model)
        if self._near is not None:
            purged = await self._near.purge(scope.entries, vector=vector, similarity_min=scope.similarity_min)
            # An answer that both tiers hold is one.
            count = max(count, purged.entries, sum(self._exact.forget(key) for key in purged.requests))
            if not purged.is_whole:
                message = "the cache's documents are away: what they hold comes back with them; purge again"
                raise ApiError(message, code="documents_away", status=503, retry_after_s=5)
        return Response(orjson.dumps({"purged": count}), headers=_JSON)

    async def _inspect(self, request: Request) -> Response:
        scope, count = inspect_query(await read_object(request, bytes_max=self._body_bytes_max))
        if self._near is None:
            raise ApiError("the semantic tier is off (semantic_cache.semantic.enabled)", status=409)
        found = self._near.inspect(scope.entries, await self._vector(scope), count=count)
        return Response(orjson.dumps({"entries": found}), headers=_JSON)

    async def _vector(self, scope: EntryScope) -> NDArray[np.float32] | None:
        if scope.text is None:
            return None
        row: NDArray[np.float32] = (await encoded(self._encoder, [scope.text])).vectors[0]
        return row

    async def _embeddings(self, request: Request) -> Response:
        data = await read_object(request, bytes_max=self._body_bytes_max)
        wanted = parse_embeddings(data, self._config.encoder)
        encoding = await encoded(self._encoder, wanted.texts)
        return Response(render_embeddings(wanted, encoding, self._config.encoder.model), headers=_JSON)

    async def _stats(self, _request: Request) -> Response:
        stats = {
            "lookups": self._lookups,
            "exact": asdict(self._counts().exact),
            "single_flight": asdict(self._flights.stats()),
            "semantic": None if self._near is None else self._near.stats(),
            "encoder": {
                "model": self._config.encoder.model,
                "loaded": self._encoder.is_loaded,
                "texts_encoded": self._encoder.texts_encoded,
            },
        }
        return Response(orjson.dumps(stats, option=orjson.OPT_NON_STR_KEYS), headers=_JSON)

    async def _metrics(self, _request: Request) -> Response:
        body, content_type = render_metrics(self._counts(), self._near)
        return Response(body, headers={"content-type": content_type})

    async def _health(self, _request: Request) -> Response:
        status, word = (200, "ok") if self._encoder.is_loaded else (503, "starting")
        return Response(orjson.dumps({"status": word}), status_code=status, headers=_JSON)

    def _counts(self) -> CacheCounts:
        self._exact.expire(now_s=self._now())
        return CacheCounts(
            lookups=self._lookups, exact=self._exact.stats(), waiters=self._flights.stats().waiters
        )

    def _admits(self, token: str | None, key: EntryKey) -> bool:
        try:
            return self._flights.check(token, key)
        except LeaseMismatchError as error:
            raise ApiError(str(error), param=CACHE_LEASE, code="lease_mismatch") from error

    def _hit(self, entry: Entry, outcome: LookupOutcome) -> Response:
        self._lookups[outcome] += 1
        return Response(
            entry.body,
            headers={
                "content-type": entry.content_type,
                CACHE_OUTCOME: "hit",
                CACHE_TIER: "exact",
                CACHE_AGE: f"{entry.age_s(self._now()):.3f}",
            },
        )

    def _near_hit(self, found: NearHit) -> Response:
        self._lookups[LookupOutcome.HIT] += 1
        return Response(
            found.document.body,
            headers={
                "content-type": found.document.content_type,
                CACHE_OUTCOME: "hit",
                CACHE_TIER: "semantic",
                CACHE_AGE: f"{found.age_s:.3f}",
                CACHE_SIMILARITY: f"{found.similarity:.4f}",
                CACHE_ENTRY: found.entry.entry_id,
            },
        )

    def _miss(self, lease: Lease | None, read: str | None) -> Response:
        self._lookups[LookupOutcome.MISS] += 1
        headers = {CACHE_OUTCOME: "miss"}
        if read is not None:
            headers[CACHE_TEXT_SIGNALS] = read
        if lease is not None:
            headers[CACHE_LEASE] = lease.token
        return Response(status_code=204, headers=headers)


def _content_type(request: Request) -> str:
    content_type = request.headers.get("content-type", "")
    if not 0 < len(content_type) <= _CONTENT_TYPE_CHARS_MAX:
        raise ApiError(
            f"the header content-type must have 1 to {_CONTENT_TYPE_CHARS_MAX} characters",
            param="content-type",
            code="invalid_value",
        )
    return content_type
