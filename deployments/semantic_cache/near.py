"""The semantic tier of one replica: `SemanticTier` with documents behind it and a judge in the background.

Everything that decides is in `cluster.policy.semantic_cache`; this brings it entries from disk, answers, time
and chance. Reading and writing happen on one thread of its own, so that the event loop never waits for a
disk. Whatever goes wrong here makes a miss.
"""

import asyncio
import contextlib
import logging
import math
import random
import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cluster.config.semantic_cache import SemanticTierConfig
from cluster.policy.semantic_cache.exact_scan import Vector
from cluster.policy.semantic_cache.identity import Partition
from cluster.policy.semantic_cache.store import PurgeScope, Removal, StoredAnswer
from cluster.policy.semantic_cache.tier import SemanticDecision, SemanticQuery, SemanticTier, Verdict
from deployments.encoder.encoder import Encoder
from deployments.encoder.graph_index import GraphIndex
from deployments.encoder.minilm import DIMENSIONS
from deployments.semantic_cache.agreement import Agreement
from deployments.semantic_cache.answers import read_answer
from deployments.semantic_cache.document_thread import DocumentsAwayError, DocumentThread
from deployments.semantic_cache.documents import Document, Documents
from deployments.semantic_cache.exact import Entry, EntryKey
from deployments.semantic_cache.judging import Case, Judging
from deployments.semantic_cache.near_counts import NearCounts
from deployments.semantic_cache.near_report import near_listing, near_report
from deployments.semantic_cache.purging import Purged, Purging
from deployments.semantic_cache.requests import Spent

logger = logging.getLogger("tidemill.cache.near")

SCAN_MAX = 8_192
"""Entries of one partition that are looked at one by one: 0.6 ms."""
_PENDING_MAX = 4_096
"""Misses whose answers may still come; the oldest is forgotten."""
_PARTITIONS_LOADED_MAX = 100_000
_WOKEN_MAX = 4
"""Entries brought back to memory for one look-up."""
REOPEN_AFTER_S = 5.0
SWEEP_AFTER_S = 60.0
_OWNED_FOR_S = 60.0
"""Who was not asked about a partition for so long looks at what is on disk again."""
_NO_ROOM = frozenset({Removal.QUOTA, Removal.CAPACITY})
_DISK_SWEEP_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NearHit:
    """An answer to a text that means the same."""

    document: Document
    entry: StoredAnswer
    similarity: float
    age_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pending:
    query: SemanticQuery
    decision: SemanticDecision
    asked_at_s: float


class NearMatches:
    """Near matches of one replica. All methods belong to one event loop.

    Args:
        config: The tier's section.
        documents: What outlives the process; used on a thread of its own.
        encoder: Makes vectors of answers, to compare them.
        wall_s: The time; ages must mean the same after a restart.
        has_peers: Whether other replicas may own what this one holds.
        draw: A random number from 0 to 1.
    """

    def __init__(
        self,
        config: SemanticTierConfig,
        documents: Documents,
        encoder: Encoder,
        *,
        wall_s: Callable[[], float],
        has_peers: bool = False,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._config = config
        self._documents = documents
        self._agreement = Agreement(config.contract, encoder)
        self._wall_s = wall_s
        self._has_peers = has_peers
        self._draw = draw
        self._latest_s = 0.0
        self._swept_disk_at_s = 0.0
        self.counts = NearCounts()
        self.tier = SemanticTier(
            config, dimensions=DIMENSIONS, new_index=lambda: GraphIndex(DIMENSIONS, scan_max=SCAN_MAX)
        )
        self._thread = DocumentThread(config.documents, self.counts)
        self._purging = Purging(self.tier.store, documents, self._thread)
        self._loaded: OrderedDict[Partition, float] = OrderedDict()
        """With when each was asked last."""
        self._loading: dict[Partition, asyncio.Task[None]] = {}
        self._pending: OrderedDict[EntryKey, _Pending] = OrderedDict()
        self._judging = Judging(
            self.tier,
            self._agreement,
            documents,
            self._thread,
            self.counts,
            read=self._read,
            promoted=self._forget_removed,
            backlog_max=config.contract.judging_backlog_max,
        )
        self._tasks: list[asyncio.Task[None]] = []
        self.is_open = False
        """Whether the documents have been there once."""

    async def start(self) -> None:
        """Opens the documents, takes up the evidence and begins to judge.

        If they are away, what does not need them is answered already.
        """
        try:
            await self._open()
        except Exception as error:  # noqa: BLE001 - whatever a store raises
            logger.warning("the cache's documents are away: %s: %s", type(error).__name__, error)
            self._tasks.append(asyncio.create_task(self._open_later()))
        self._tasks.append(asyncio.create_task(self._judging.run()))
        self._tasks.append(asyncio.create_task(self._sweep_now_and_then()))

    async def close(self) -> None:
        """Stops judging and writes what is open."""
        for task in self._tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self._agreement.close()
        await self._thread.run(self._documents.close)
        self._thread.close()

    async def _open(self) -> None:
        await self._thread.run(self._documents.open)
        self.tier.evidence.restore(await self._thread.run(self._documents.judgements))
        self.is_open = True

    async def _sweep_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_AFTER_S)
            if self.is_open:
                self.sweep()

    async def _open_later(self) -> None:
        while not self.is_open:
            await asyncio.sleep(REOPEN_AFTER_S)
            # Whatever goes wrong, it has been said once.
            with contextlib.suppress(Exception):
                await self._open()

    async def look_up(self, key: EntryKey, query: SemanticQuery, *, load: float = 0.0) -> NearHit | None:
        """An answer to serve, or None; what is asked is remembered until its answer comes."""
        if not self.is_open:
            self.counts.away += 1
            return None
        try:
            return await self._looked_up(key, query, load=load)
        except DocumentsAwayError:
            return None

    async def _looked_up(self, key: EntryKey, query: SemanticQuery, *, load: float) -> NearHit | None:
        await self._load(query.partition)
        now_s = self._now_s()
        self.tier.see_load(load, now_s=now_s)
        if self._config.disk_entries_max and not self.tier.would_serve(query, now_s=now_s):
            await self._wake(query)
        decision = self.tier.look_up(query, now_s=now_s, draw=self._draw())
        self.counts.decided(query.category, query.partition.tenant, decision)
        entry = decision.entry
        if decision.verdict is Verdict.SERVE and entry is not None:
            document = await self._read(entry)
            if document is not None:
                age_s = max(0.0, now_s - entry.stored_at_s)
                self.counts.served(entry, age_s)
                return NearHit(document=document, entry=entry, similarity=decision.similarity, age_s=age_s)
            decision = SemanticDecision(verdict=Verdict.MISS, threshold=decision.threshold)
        if decision.verdict is not Verdict.OFF:
            self._pending[key] = _Pending(query=query, decision=decision, asked_at_s=now_s)
            self._pending.move_to_end(key)
            if len(self._pending) > _PENDING_MAX:
                self._pending.popitem(last=False)
        return None

    def keep(self, key: EntryKey, answer: Entry, spent: Spent) -> None:
        """Takes in the answer to what was asked under a key, if near matches were asked for it."""
        pending = self._pending.pop(key, None)
        if pending is None:
            return
        facts = read_answer(answer.body, answer.content_type)
        if facts is None or not facts.may_be_shared:
            self.counts.unshared += 1
            return
        now_s = self._now_s()
        model_s = max(0.0, now_s - pending.asked_at_s)
        self.tier.answered(pending.query.category, model_s=model_s)
        entry_id = secrets.token_hex(12)
        entry = StoredAnswer(
            entry_id=entry_id,
            partition=pending.query.partition,
            category=pending.query.category,
            language=pending.query.language,
            text=pending.query.text,
            document_id=entry_id,
            document_bytes=len(answer.body),
            saved_s=model_s,
            saved_tokens=facts.output_tokens,
            saved_energy_j=spent.energy_j,
            saved_usd=spent.cost_usd,
            stored_at_s=now_s,
            exact_key=key.key,
        )
        document = Document(body=answer.body, content_type=answer.content_type)
        if not self.tier.store.put(entry, pending.query.vector):
            return
        expires_at_s = now_s + self._life_s(entry.category)
        self._thread.write(
            lambda: self._documents.write(entry, pending.query.vector, document, expires_at_s=expires_at_s)
        )
        self._forget_removed()
        if pending.decision.entry is not None:
            case = Case(
                question=pending.query.text,
                category=pending.query.category,
                decision=pending.decision,
                entry_id=entry_id,
                fresh=document,
            )
            self._judging.add(case)

    def sweep(self) -> None:
        """Forgets what is too old."""
        now_s = self._now_s()
        # Under load entries live longer; what none may serve any more goes.
        self.tier.store.expire(now_s=now_s, stretch=1.0 + self._config.default.ttl_relaxation_max)
        self._forget_removed()
        if now_s - self._swept_disk_at_s >= _DISK_SWEEP_S:
            self._swept_disk_at_s = now_s
            self._thread.write(lambda: self._documents.forget_expired(now_s=now_s))

    async def purge(
        self, scope: PurgeScope, *, vector: Vector | None = None, similarity_min: float = 1.0
    ) -> Purged:
        """Forgets what a scope covers, on disk as well; with a vector, only what is near it.

        What is being computed now for a text of the scope is not kept either.
        """
        for key, pending in list(self._pending.items()):
            covers = scope.tenant in {None, key.tenant} and scope.model in {None, key.model}
            if covers and scope.category in {None, pending.query.category} and scope.entry_id is None:
                del self._pending[key]
        return await self._purging.purge(scope, vector, similarity_min=similarity_min)

    def inspect(self, scope: PurgeScope, vector: Vector | None, *, count: int) -> list[dict[str, Any]]:
        """Entries of a scope for people; nearest first where a text is given, else newest first."""
        return near_listing(self.tier.store, scope, vector, count=count, now_s=self._now_s())

    def stats(self) -> dict[str, Any]:
        """What the tier holds and decides, for people."""
        return near_report(self.tier, self.counts)

    async def settled(self) -> None:
        """Returns when everything that waits is judged and written."""
        await self._judging.settled()
        await self._thread.run(lambda: None)

    async def _load(self, partition: Partition) -> None:
        """Reads a partition that is new here, or that may have had another owner since it was asked."""
        now_s = self._now_s()
        if self._is_asked(partition):
            self._loaded[partition] = now_s
            return
        loading = self._loading.get(partition)
        if loading is None:
            self._thread.refuse_if_away()
            loading = self._loading[partition] = asyncio.create_task(self._load_from_disk(partition))
            loading.add_done_callback(lambda _: self._loading.pop(partition))
        await self._thread.in_time(loading)

    async def _load_from_disk(self, partition: Partition) -> None:
        purges = -1
        while purges != self._purging.begun:
            # What was read before a purge must not come back after it.
            purges = self._purging.begun
            known = self.tier.store.of(partition) if partition in self._loaded else frozenset()
            kept = await self._thread.run(lambda: self._documents.entries(partition, known))  # noqa: B023
        self._loaded[partition] = self._now_s()
        if len(self._loaded) > _PARTITIONS_LOADED_MAX:
            self._loaded.popitem(last=False)
        for entry, vector in kept:
            is_too_old = self._now_s() - entry.stored_at_s >= self._life_s(entry.category)
            if self.tier.store.get(entry.entry_id) is None and not is_too_old:
                self.tier.store.put(entry, vector)
        self._forget_removed()

    async def _wake(self, query: SemanticQuery) -> None:
        """Brings what is near and has no room in memory back there; the look-up that follows decides."""
        resting = self._documents.resting
        if resting is None or not len(resting):
            return
        purges = self._purging.begun
        found = await self._thread.ask(lambda: resting.nearest(query.partition, query.vector, _WOKEN_MAX))
        if purges != self._purging.begun:
            return
        floor = self.tier.store.policy(query.category).threshold_min
        near = ((entry, vector) for entry, vector in found if float(vector @ query.vector) >= floor)
        woken = [entry for entry, vector in near if self.tier.store.put(entry, vector)]
        if woken:
            self.counts.woken += len(woken)
            self._thread.write(lambda: resting.wake(woken))
            self._forget_removed()

    async def _read(self, entry: StoredAnswer) -> Document | None:
        document_id = entry.document_id
        document = await self._thread.ask(lambda: self._documents.read(document_id))
        if document is None or self.tier.store.get(entry.entry_id) is None:
            # Purged, here or by another replica, while it was looked for.
            self.tier.store.remove(entry.entry_id, Removal.PURGED)
            return None
        return document

    def _life_s(self, category: str) -> float:
        policy = self.tier.store.policy(category)
        return policy.ttl_s * (1.0 + policy.ttl_relaxation_max)

    def _forget_removed(self) -> None:
        """Lets rest on disk what memory had no room for, and deletes there what is not to be kept."""
        freed = self.tier.store.freed_documents()
        removed = self.tier.store.removed_entries()
        no_room = [entry for entry, reason in removed if reason in _NO_ROOM]
        gone = [entry for entry, reason in removed if reason not in _NO_ROOM]
        resting = self._documents.resting if self._config.disk_entries_max else None
        if resting is None:
            # What may have another owner by now has room there.
            gone += [entry for entry in no_room if not self._has_peers or self._is_asked(entry.partition)]
            left = {entry.document_id for entry in no_room} - {entry.document_id for entry in gone}
            freed = [document_id for document_id in freed if document_id not in left]
        elif no_room:
            self._thread.write(lambda: resting.rest(no_room))
        if freed or gone:
            self._thread.write(lambda: self._documents.forget(gone, freed))

    def _is_asked(self, partition: Partition) -> bool:
        return self._now_s() - self._loaded.get(partition, -math.inf) < _OWNED_FOR_S

    def _now_s(self) -> float:
        # The store must not see time go back when the machine's clock is set.
        self._latest_s = max(self._latest_s, self._wall_s())
        return self._latest_s
