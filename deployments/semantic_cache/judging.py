"""Judging in the background: would a stored answer have been right for a text that was answered fresh?

It exists apart from look-ups because nobody who asks waits for it: evidence and promotion come later.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from cluster.policy.semantic_cache.evidence import Judgement
from cluster.policy.semantic_cache.store import StoredAnswer
from cluster.policy.semantic_cache.tier import SemanticDecision, SemanticTier
from deployments.semantic_cache.agreement import Agreement
from deployments.semantic_cache.document_thread import DocumentThread
from deployments.semantic_cache.documents import Document, Documents
from deployments.semantic_cache.near_counts import NearCounts

logger = logging.getLogger("tidemill.cache.near")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Two answers to compare: a fresh one, and the stored one that was near."""

    question: str
    category: str
    decision: SemanticDecision
    entry_id: str
    fresh: Document


class Judging:
    """The cases of one replica. All methods belong to one event loop.

    Args:
        tier: Learns from what is judged.
        agreement: Compares answers.
        documents: Keep what was judged.
        thread: Theirs.
        counts: What is judged and what is left out.
        read: Reads an entry's answer; None if it is gone.
        promoted: Called after an entry has taken another one's answer.
        backlog_max: Cases that wait.
    """

    def __init__(
        self,
        tier: SemanticTier,
        agreement: Agreement,
        documents: Documents,
        thread: DocumentThread,
        counts: NearCounts,
        *,
        read: Callable[[StoredAnswer], Awaitable[Document | None]],
        promoted: Callable[[], None],
        backlog_max: int,
    ) -> None:
        self._tier = tier
        self._agreement = agreement
        self._documents = documents
        self._thread = thread
        self._counts = counts
        self._read = read
        self._promoted = promoted
        self._cases: asyncio.Queue[Case] = asyncio.Queue(maxsize=backlog_max)

    def add(self, case: Case) -> None:
        """Lets a case wait its turn, unless too many do."""
        try:
            self._cases.put_nowait(case)
        except asyncio.QueueFull:
            self._counts.unjudged += 1

    async def settled(self) -> None:
        """Returns when nothing waits any more."""
        await self._cases.join()

    async def run(self) -> None:
        """Judges whatever comes until it is cancelled."""
        while True:
            case = await self._cases.get()
            try:
                await self._judge(case)
            except Exception:
                self._counts.unjudged += 1
                logger.exception("a near match could not be judged")
            finally:
                self._cases.task_done()

    async def _judge(self, case: Case) -> None:
        stored = case.decision.entry
        if stored is None:
            return
        document_id = stored.document_id
        document = await self._read(stored)
        if document is None:
            return
        agrees = await self._agreement.of(case.question, case.fresh, document)
        if agrees is None:
            self._counts.unjudged += 1
            return
        judgement = Judgement(
            similarity=case.decision.similarity,
            is_wrong=not agrees,
            around=case.decision.around,
            document_id=document_id,
        )
        self._tier.judged(case.category, judgement)
        self._counts.judged(case.category, judgement)
        self._thread.write(lambda: self._documents.write_judgement(case.category, judgement))
        if self._tier.should_promote(case.entry_id, stored.entry_id, judgement):
            entry = self._tier.store.get(case.entry_id)
            if entry is not None:
                self._thread.write(lambda: self._documents.promote(entry))
            self._promoted()
