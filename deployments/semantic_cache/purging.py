"""Purges of the semantic tier: what a scope covers goes, in memory and wherever it lies besides.

It exists apart from look-ups because a purge must reach what no look-up has loaded, and must not let come
back what is being read or computed while it runs.
"""

import logging
from dataclasses import dataclass

from cluster.policy.semantic_cache.exact_scan import Vector
from cluster.policy.semantic_cache.store import PurgeScope, Removal, SemanticStore, StoredAnswer
from deployments.semantic_cache.document_thread import DocumentThread
from deployments.semantic_cache.documents import Documents
from deployments.semantic_cache.exact import EntryKey

logger = logging.getLogger("tidemill.cache.purging")


@dataclass(frozen=True, slots=True, kw_only=True)
class Purged:
    """What came of a purge."""

    entries: int
    requests: list[EntryKey]
    """Those that the entries answered: equal requests must not get what is forgotten either."""
    is_whole: bool
    """Whether the documents were reached. If not, what they hold comes back with them."""


class Purging:
    """The purges of one replica. All methods belong to one event loop.

    Args:
        store: What is in memory.
        documents: What outlives the process.
        thread: Theirs.
    """

    def __init__(self, store: SemanticStore, documents: Documents, thread: DocumentThread) -> None:
        self._store = store
        self._documents = documents
        self._thread = thread
        self.begun = 0
        """Purges so far: what was read from the documents before the last one may be gone."""

    async def purge(self, scope: PurgeScope, vector: Vector | None, *, similarity_min: float) -> Purged:
        """Forgets what a scope covers; with a vector, only what is near it."""
        on_disk, is_whole = await self._near_on_disk(scope, vector, similarity_min)
        # From here on nothing may be awaited before the documents are told, lest it come back meanwhile.
        self.begun += 1
        doomed = self._covered(scope, vector, similarity_min, on_disk)
        for entry in doomed:
            self._store.remove(entry.entry_id, Removal.PURGED)
        freed = {*self._store.freed_documents(), *(entry.document_id for entry in doomed)}
        self._store.removed_entries()

        def forget() -> int:
            # First what no replica has loaded, which lies on disk only.
            gone = self._documents.forget_scope(scope) if vector is None else 0
            self._documents.forget(doomed, sorted(freed))
            return gone

        gone = 0
        try:
            gone = await self._thread.run(forget)
        except Exception as error:  # noqa: BLE001 - whatever a store raises
            logger.warning("a purge did not reach the documents: %s: %s", type(error).__name__, error)
            is_whole = False
        requests = [_request(entry) for entry in doomed]
        return Purged(entries=max(len(doomed), gone), requests=requests, is_whole=is_whole)

    def _covered(
        self,
        scope: PurgeScope,
        vector: Vector | None,
        similarity_min: float,
        on_disk: list[StoredAnswer],
    ) -> list[StoredAnswer]:
        if vector is None:
            doomed = [entry for entry in self._store.entries() if scope.covers(entry)]
        else:
            near = self._store.near(vector, scope, similarity_min=similarity_min)
            doomed = [*(entry for entry, _ in near), *on_disk]
        if vector is not None or scope.entry_id is not None:
            # Who calls an answer wrong means the answer, whichever text it was given to.
            named = {entry.document_id for entry in doomed}
            doomed += [entry for entry in self._store.entries() if entry.document_id in named]
        return list({entry.entry_id: entry for entry in doomed}.values())

    async def _near_on_disk(
        self, scope: PurgeScope, vector: Vector | None, similarity_min: float
    ) -> tuple[list[StoredAnswer], bool]:
        """What is near a text in the documents, and whether they could be read."""
        if vector is None:
            return [], True
        in_memory = self._store.near(vector, scope, similarity_min=similarity_min)
        named = {entry.document_id for entry, _ in in_memory}
        try:
            found = await self._thread.run(
                lambda: self._documents.near(scope, vector, similarity_min=similarity_min, answers=named)
            )
        except Exception as error:  # noqa: BLE001 - whatever a store raises
            logger.warning("a purge did not reach the documents: %s: %s", type(error).__name__, error)
            return [], False
        return found, True


def _request(entry: StoredAnswer) -> EntryKey:
    return EntryKey(tenant=entry.partition.tenant, model=entry.partition.model, key=entry.exact_key)
