"""The cache's documents on a Redis or Valkey server, for replicas on several machines.

Keys begin with `tidemill:near:`. Entry and answer are written in one MULTI, so that neither is
there alone.
"""

import json
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import redis

from cluster.policy.semantic_cache.evidence import Judgement
from cluster.policy.semantic_cache.exact_scan import Vector
from cluster.policy.semantic_cache.identity import Partition
from cluster.policy.semantic_cache.store import PurgeScope, StoredAnswer
from deployments.semantic_cache.documents import (
    JUDGEMENTS_KEPT,
    Document,
    Kept,
    blob_of,
    entry_of,
    judgement_meta,
    judgement_of,
    meta_of,
    vector_of,
)

_PREFIX = "tidemill:near:"
_JUDGEMENTS = f"{_PREFIX}judged"
_PARTITIONS = f"{_PREFIX}partitions"
_TIMEOUT_S = 2.0
_PROMOTE = """
if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('HSET', KEYS[1], 'meta', ARGV[1]) end
"""


class RedisDocuments:
    """See `Documents`."""

    resting: None = None
    """The server's memory is all there is."""

    def __init__(self, url: str, *, password: str | None = None) -> None:
        self._url = url
        self._password = {} if password is None else {"password": password}
        self._client: Any = None

    def open(self) -> None:
        """See `Documents`."""
        self._client = redis.Redis.from_url(
            self._url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S, **self._password
        )
        self._client.ping()

    def close(self) -> None:
        """See `Documents`."""
        if self._client is not None:
            self._client.close()

    def write(self, entry: StoredAnswer, vector: Vector, document: Document, *, expires_at_s: float) -> None:
        """See `Documents`."""
        with self._client.pipeline(transaction=True) as together:
            together.hset(
                _document(entry.document_id),
                mapping={"body": document.body, "content_type": document.content_type},
            )
            together.hset(_entry(entry.entry_id), mapping={"meta": meta_of(entry), "vector": blob_of(vector)})
            together.expireat(_document(entry.document_id), int(expires_at_s) + 1)
            together.expireat(_entry(entry.entry_id), int(expires_at_s) + 1)
            together.sadd(_PARTITIONS, _name(entry.partition))
            together.sadd(_members(entry.partition), entry.entry_id)
            together.execute()

    def promote(self, entry: StoredAnswer) -> None:
        """See `Documents`."""
        # Without its vector, an entry that expired meanwhile would come back for good.
        self._client.eval(_PROMOTE, 1, _entry(entry.entry_id), meta_of(entry))

    def read(self, document_id: str) -> Document | None:
        """See `Documents`."""
        body, content_type = self._client.hmget(_document(document_id), "body", "content_type")
        if body is None or content_type is None:
            return None
        return Document(body=body, content_type=content_type.decode())

    def entries(self, partition: Partition, known: AbstractSet[str] = frozenset()) -> list[Kept]:
        """See `Documents`."""
        found: list[Kept] = []
        for entry_id in sorted(self._client.smembers(_members(partition))):
            if entry_id.decode() in known:
                continue
            meta, vector = self._client.hmget(_entry(entry_id.decode()), "meta", "vector")
            if meta is None or vector is None:
                continue
            entry = entry_of(meta)
            if self._client.exists(_document(entry.document_id)):
                found.append((entry, vector_of(vector)))
        return found

    def near(
        self, scope: PurgeScope, vector: Vector, *, similarity_min: float, answers: AbstractSet[str]
    ) -> list[StoredAnswer]:
        """See `Documents`."""
        found: list[StoredAnswer] = []
        for partition in self._partitions():
            kept = list(self._vectors(partition))
            named = {*answers}
            named |= {
                entry.document_id
                for entry, at in kept
                if scope.covers(entry) and float(at @ vector) >= similarity_min
            }
            found += [entry for entry, _ in kept if entry.document_id in named]
        return found

    def forget(self, entries: Sequence[StoredAnswer], document_ids: Sequence[str]) -> None:
        """See `Documents`."""
        with self._client.pipeline(transaction=True) as together:
            for entry in entries:
                together.delete(_entry(entry.entry_id))
                together.srem(_members(entry.partition), entry.entry_id)
            for document_id in document_ids:
                together.delete(_document(document_id))
            together.execute()

    def forget_scope(self, scope: PurgeScope) -> int:
        """See `Documents`."""
        doomed: list[StoredAnswer] = []
        kept: set[str] = set()
        for partition in self._partitions():
            entries = list(self._known(partition))
            covered = [entry for entry in entries if scope.covers(entry)]
            if scope.entry_id is not None:
                named = {entry.document_id for entry in covered}
                covered = [entry for entry in entries if entry.document_id in named]
            gone = {entry.entry_id for entry in covered}
            doomed += covered
            kept |= {entry.document_id for entry in entries if entry.entry_id not in gone}
        self.forget(doomed, sorted({entry.document_id for entry in doomed} - kept))
        return len(doomed)

    def forget_expired(self, *, now_s: float) -> None:  # noqa: ARG002 - the server has a clock
        """See `Documents`. The server has done it; what is left are names in the lists of partitions."""
        for partition in self._partitions():
            for entry_id in self._client.smembers(_members(partition)):
                if not self._client.exists(_entry(entry_id.decode())):
                    self._client.srem(_members(partition), entry_id)
            if not self._client.exists(_members(partition)):
                self._client.srem(_PARTITIONS, _name(partition))

    def write_judgement(self, category: str, judgement: Judgement) -> None:
        """See `Documents`."""
        with self._client.pipeline(transaction=True) as together:
            together.rpush(_JUDGEMENTS, json.dumps([category, judgement_meta(judgement)]))
            together.ltrim(_JUDGEMENTS, -JUDGEMENTS_KEPT, -1)
            together.execute()

    def judgements(self) -> list[tuple[str, Judgement]]:
        """See `Documents`."""
        rows = (json.loads(row) for row in self._client.lrange(_JUDGEMENTS, 0, -1))
        return [(category, judgement_of(meta)) for category, meta in rows]

    def _known(self, partition: Partition) -> Iterator[StoredAnswer]:
        """Entries of a partition, those as well whose answers have expired before them."""
        for entry_id in self._client.smembers(_members(partition)):
            meta = self._client.hget(_entry(entry_id.decode()), "meta")
            if meta is not None:
                yield entry_of(meta)

    def _vectors(self, partition: Partition) -> Iterator[Kept]:
        """The same with their vectors."""
        for entry_id in self._client.smembers(_members(partition)):
            meta, vector = self._client.hmget(_entry(entry_id.decode()), "meta", "vector")
            if meta is not None and vector is not None:
                yield entry_of(meta), vector_of(vector)

    def _partitions(self) -> Iterator[Partition]:
        for name in self._client.smembers(_PARTITIONS):
            yield Partition(*json.loads(name))


def _name(partition: Partition) -> str:
    return json.dumps(list(partition))


def _members(partition: Partition) -> str:
    return f"{_PREFIX}partition:{_name(partition)}"


def _entry(entry_id: str) -> str:
    return f"{_PREFIX}entry:{entry_id}"


def _document(document_id: str) -> str:
    return f"{_PREFIX}document:{document_id}"
