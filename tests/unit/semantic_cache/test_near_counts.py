"""Which tenants never find anything, without keeping a name for ever."""

from cluster.policy.semantic_cache.tier import SemanticDecision, Verdict
from deployments.semantic_cache.near_counts import SILENT_LOOKUPS_MIN, TENANTS_WATCHED_MAX, NearCounts

NOTHING = SemanticDecision(verdict=Verdict.MISS, threshold=0.9)
SOMETHING = SemanticDecision(verdict=Verdict.NEAR, threshold=0.9, similarity=0.7)


def test_a_tenant_that_never_finds_anything_is_silent():
    counts = NearCounts()
    for _ in range(SILENT_LOOKUPS_MIN):
        counts.decided("chat", "mill", NOTHING)
        counts.decided("chat", "weir", NOTHING)
    assert counts.silent_tenants == 2
    counts.decided("chat", "weir", SOMETHING)
    assert counts.silent_tenants == 1


def test_names_of_tenants_are_bounded_whatever_they_find():
    counts = NearCounts()
    for number in range(2 * TENANTS_WATCHED_MAX):
        counts.decided("chat", f"tenant-{number}", SOMETHING)
    assert len(counts._silent) <= TENANTS_WATCHED_MAX
