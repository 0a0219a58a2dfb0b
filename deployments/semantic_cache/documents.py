"""What outlives the cache's process: entries with their vectors, answers, and what was judged.

It exists apart from the index because vectors must be in memory and answers need not: an answer is read when
it is served. A partition's entries are read when it is first asked about, so that a replica that takes it
over finds what its predecessor stored. An entry and its answer are written in one transaction: what is torn
away is missing whole.
"""

import json
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol

import numpy as np

from cluster.policy.semantic_cache.evidence import Judgement
from cluster.policy.semantic_cache.exact_scan import Vector
from cluster.policy.semantic_cache.identity import Partition
from cluster.policy.semantic_cache.store import PurgeScope, StoredAnswer
from cluster.policy.semantic_cache.surroundings import Surroundings

JUDGEMENTS_KEPT = 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A whole answer as it went to a client."""

    body: bytes
    content_type: str


Kept = tuple[StoredAnswer, Vector]


class Resting(Protocol):
    """Entries that are on disk only. See `deployments.semantic_cache.resting`."""

    def __len__(self) -> int: ...

    def rest(self, entries: Sequence[StoredAnswer]) -> None: ...  # noqa: D102

    def wake(self, entries: Sequence[StoredAnswer]) -> None: ...  # noqa: D102

    def nearest(self, partition: Partition, vector: Vector, count: int) -> list[Kept]: ...  # noqa: D102


class Documents(Protocol):
    """Blocking; each instance is used by one thread."""

    @property
    def resting(self) -> Resting | None:
        """What is on disk only; None for a store that keeps no such entries, or is not open."""
        ...

    def open(self) -> None:
        """Connects, and makes what is not there yet."""
        ...

    def close(self) -> None:
        """Writes what is open and disconnects."""
        ...

    def write(self, entry: StoredAnswer, vector: Vector, document: Document, *, expires_at_s: float) -> None:
        """Keeps an entry with its answer, or neither."""
        ...

    def promote(self, entry: StoredAnswer) -> None:
        """Keeps what an entry refers to now."""
        ...

    def read(self, document_id: str) -> Document | None:
        """An answer."""
        ...

    def entries(self, partition: Partition, known: AbstractSet[str] = frozenset()) -> list[Kept]:
        """The entries of a partition whose answers are there, but for those that are known."""
        ...

    def near(
        self, scope: PurgeScope, vector: Vector, *, similarity_min: float, answers: AbstractSet[str]
    ) -> list[StoredAnswer]:
        """All entries of a scope that are near a text, loaded or not, by looking at every one: for operators.

        Args:
            scope: Where to look.
            vector: The text's.
            similarity_min: What is near.
            answers: Documents; who is answered by one of them, or by what was found, is found as well.
        """
        ...

    def forget(self, entries: Sequence[StoredAnswer], document_ids: Sequence[str]) -> None:
        """Deletes entries and answers."""
        ...

    def forget_scope(self, scope: PurgeScope) -> int:
        """Deletes entries of a scope, loaded or not, with answers nobody refers to; how many entries.

        A scope that names an entry means its answer: all who share it are forgotten.
        """
        ...

    def forget_expired(self, *, now_s: float) -> None:
        """Deletes what is too old to be served, loaded or not."""
        ...

    def write_judgement(self, category: str, judgement: Judgement) -> None:
        """Keeps what was judged."""
        ...

    def judgements(self) -> list[tuple[str, Judgement]]:
        """What was judged, the oldest first."""
        ...


def meta_of(entry: StoredAnswer) -> str:
    """An entry as JSON, without its vector."""
    return json.dumps(asdict(entry), separators=(",", ":"))


def entry_of(meta: str | bytes) -> StoredAnswer:
    """The inverse of `meta_of`."""
    known = _known(StoredAnswer, json.loads(meta))
    return StoredAnswer(**{**known, "partition": Partition(*known["partition"])})


def judgement_meta(judgement: Judgement) -> str:
    """What was judged, as JSON."""
    return json.dumps(asdict(judgement), separators=(",", ":"))


def judgement_of(meta: str | bytes) -> Judgement:
    """The inverse of `judgement_meta`."""
    known = _known(Judgement, json.loads(meta))
    return Judgement(**{**known, "around": Surroundings(**_known(Surroundings, known["around"]))})


def vector_of(blob: bytes) -> Vector:
    """A vector from its bytes."""
    return np.frombuffer(blob, dtype="<f4").astype(np.float32)


def blob_of(vector: Vector) -> bytes:
    """A vector's bytes."""
    return vector.astype("<f4").tobytes()


def _known(kind: type[StoredAnswer | Judgement | Surroundings], meta: dict[str, Any]) -> dict[str, Any]:
    """What this release knows of what may have been written by a later one, before it was taken back."""
    return {each.name: meta[each.name] for each in fields(kind) if each.name in meta}
