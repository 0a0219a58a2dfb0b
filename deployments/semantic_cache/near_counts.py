"""What the semantic tier of one replica has done since it started, by category."""

from collections import Counter, OrderedDict

from cluster.policy.semantic_cache.evidence import Judgement
from cluster.policy.semantic_cache.store import StoredAnswer
from cluster.policy.semantic_cache.tier import SemanticDecision

SIMILARITY_BUCKETS = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.975, 1.0)
AGE_BUCKETS_S = (60.0, 300.0, 900.0, 3600.0, 14_400.0, 86_400.0)
SILENT_LOOKUPS_MIN = 100
"""A tenant that asked so often and never had anything near has fingerprints that never match."""
TENANTS_WATCHED_MAX = 1024


_HEARD = -1
"""Of a tenant that had something near once."""


class Histogram:
    """Counts by upper bound, as Prometheus wants them."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        """One more."""
        place = next((index for index, bound in enumerate(self.bounds) if value <= bound), len(self.bounds))
        self.counts[place] += 1
        self.sum += value


class NearCounts:
    """Counters and histograms; read when they are scraped."""

    def __init__(self) -> None:
        self.verdicts: Counter[tuple[str, str]] = Counter()
        self.guards: Counter[str] = Counter()
        self.judgements: Counter[tuple[str, str]] = Counter()
        self.saved_tokens = 0
        self.saved_s = 0.0
        self.saved_energy_j = 0.0
        self.saved_usd = 0.0
        self.woken = 0
        self.unshared = 0
        self.unjudged = 0
        self.unwritten = 0
        self.unread = 0
        self.away = 0
        self.similarity = Histogram(SIMILARITY_BUCKETS)
        self.age_s = Histogram(AGE_BUCKETS_S)
        self._silent: OrderedDict[str, int] = OrderedDict()

    def decided(self, category: str, tenant: str, decision: SemanticDecision) -> None:
        """A look-up ended."""
        self.verdicts[category, decision.verdict.value] += 1
        if decision.guard is not None:
            self.guards[decision.guard.value] += 1
        if decision.similarity > 0:
            self.similarity.add(decision.similarity)
            self._silent[tenant] = _HEARD
        elif self._silent.get(tenant) != _HEARD:
            self._silent[tenant] = self._silent.get(tenant, 0) + 1
        self._silent.move_to_end(tenant)
        if len(self._silent) > TENANTS_WATCHED_MAX:
            self._silent.popitem(last=False)

    def served(self, entry: StoredAnswer, age_s: float) -> None:
        """A stored answer went out."""
        self.saved_tokens += entry.saved_tokens
        self.saved_s += entry.saved_s
        self.saved_energy_j += entry.saved_energy_j
        self.saved_usd += entry.saved_usd
        self.age_s.add(age_s)

    def judged(self, category: str, judgement: Judgement) -> None:
        """A near match was judged."""
        self.judgements[category, "wrong" if judgement.is_wrong else "right"] += 1

    @property
    def silent_tenants(self) -> int:
        """Tenants that ask often and have never had anything near."""
        return sum(count >= SILENT_LOOKUPS_MIN for count in self._silent.values())
