"""The exact tier: bounds, time to live, isolation of tenants, exact accounting.

Invariants, checked against a slow model under random operations: the same answers are held in the same order
of use, bytes equal the sum of what is held, no bound is ever exceeded, nobody reads another tenant's answer.
"""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.config.semantic_cache import ExactTierConfig
from deployments.semantic_cache.exact import Entry, EntryKey, EvictionReason, ExactTier


def config(**changes):
    return ExactTierConfig.model_construct(**{**ExactTierConfig().model_dump(), **changes})


def entry(body=b"answer", stored_at_s=0.0):
    return Entry(body=body, content_type="application/json", stored_at_s=stored_at_s)


def key(name="k", tenant="a", model="m"):
    return EntryKey(tenant=tenant, model=model, key=name)


def test_returns_what_was_stored():
    tier = ExactTier(config())
    tier.put(key(), entry(b"x"))
    assert tier.get(key(), now_s=1.0) == entry(b"x")
    assert tier.get(key("other"), now_s=1.0) is None
    assert tier.get(key(model="n"), now_s=1.0) is None


def test_a_hit_does_not_renew_the_time_to_live():
    tier = ExactTier(config(ttl_s=10.0))
    tier.put(key(), entry(stored_at_s=100.0))
    for now_s in (101.0, 105.0, 109.999):
        assert tier.get(key(), now_s=now_s) is not None
    assert tier.get(key(), now_s=110.0) is None
    assert tier.stats().evictions[EvictionReason.EXPIRED] == 1
    assert tier.stats().bytes == 0


def test_storing_again_starts_a_new_life():
    tier = ExactTier(config(ttl_s=10.0))
    tier.put(key("older"), entry(stored_at_s=0.0))
    tier.put(key("other"), entry(stored_at_s=1.0))
    tier.put(key("older"), entry(b"new", stored_at_s=9.0))
    assert tier.expire(now_s=12.0) == 1
    assert tier.get(key("older"), now_s=12.0) == entry(b"new", stored_at_s=9.0)
    assert sum(tier.stats().evictions.values()) == 1


def test_the_least_recently_used_goes_first():
    tier = ExactTier(config(entries_max=2))
    tier.put(key("1"), entry())
    tier.put(key("2"), entry())
    tier.get(key("1"), now_s=0.0)
    tier.put(key("3"), entry())
    assert tier.get(key("2"), now_s=0.0) is None
    assert tier.get(key("1"), now_s=0.0) is not None
    assert tier.stats().evictions[EvictionReason.CAPACITY] == 1


def test_a_tenant_over_its_share_pays_with_its_own_answers():
    tier = ExactTier(config(bytes_max=100, tenant_share_max=0.5, entry_bytes_max=50))
    tier.put(key("theirs", tenant="b"), entry(b"x" * 50))
    for name in "123":
        tier.put(key(name), entry(b"x" * 20))
    assert tier.get(key("1"), now_s=0.0) is None
    assert tier.tenant_bytes("a") == 40
    assert tier.get(key("theirs", tenant="b"), now_s=0.0) is not None
    assert tier.stats().evictions == {
        EvictionReason.CAPACITY: 0,
        EvictionReason.TENANT_SHARE: 1,
        EvictionReason.EXPIRED: 0,
        EvictionReason.PURGED: 0,
    }


@pytest.mark.parametrize(("size_bytes", "is_stored"), [(50, True), (51, False)])
def test_an_answer_larger_than_the_bound_is_not_stored_and_evicts_nothing(size_bytes, is_stored):
    tier = ExactTier(config(bytes_max=200, tenant_share_max=0.5, entry_bytes_max=50))
    tier.put(key("kept"), entry(b"x" * 50))
    assert tier.put(key("new"), entry(b"x" * size_bytes)) is is_stored
    assert tier.get(key("kept"), now_s=0.0) is not None
    assert tier.stats().too_large == (not is_stored)


def test_within_a_tenants_share_too_the_least_recently_used_goes_first():
    tier = ExactTier(config(bytes_max=100, tenant_share_max=0.5, entry_bytes_max=50))
    tier.put(key("1"), entry(b"x" * 20))
    tier.put(key("2"), entry(b"x" * 20))
    tier.get(key("1"), now_s=0.0)
    tier.put(key("3"), entry(b"x" * 20))
    assert [tier.get(key(name), now_s=0.0) is not None for name in "123"] == [True, False, True]


def test_the_bytes_of_all_tenants_together_are_bounded():
    tier = ExactTier(config(bytes_max=100, tenant_share_max=1.0, entry_bytes_max=100))
    tier.put(key(tenant="a"), entry(b"x" * 50))
    tier.put(key(tenant="b"), entry(b"x" * 50))
    assert tier.stats().bytes == 100
    tier.put(key(tenant="c"), entry(b"x"))
    assert tier.stats().bytes == 51
    assert tier.get(key(tenant="a"), now_s=0.0) is None


def test_an_answer_larger_than_a_tenants_share_is_not_stored():
    tier = ExactTier(config(bytes_max=100, tenant_share_max=0.1, entry_bytes_max=50))
    assert not tier.put(key(), entry(b"x" * 11))
    assert tier.put(key(), entry(b"x" * 10))


@pytest.mark.parametrize(
    ("tenant", "model", "left"),
    [
        (None, None, set()),
        ("a", None, {("b", "m"), ("b", "n")}),
        (None, "m", {("a", "n"), ("b", "n")}),
        ("a", "m", {("a", "n"), ("b", "m"), ("b", "n")}),
    ],
)
def test_purge_forgets_what_it_names_and_nothing_else(tenant, model, left):
    tier = ExactTier(config())
    every = {(t, m) for t in "ab" for m in "mn"}
    for t, m in every:
        tier.put(key(tenant=t, model=m), entry())
    assert tier.purge(tenant=tenant, model=model) == len(every) - len(left)
    assert {(t, m) for t, m in every if tier.get(key(tenant=t, model=m), now_s=0.0)} == left
    assert tier.stats().evictions[EvictionReason.PURGED] == len(every) - len(left)
    assert tier.stats().tenants == len({t for t, _ in left})


@dataclass
class SlowModel:
    """The same contract over one list, least recently used first."""

    config: ExactTierConfig
    held: list[tuple[EntryKey, Entry]] = field(default_factory=list)
    evictions: dict[EvictionReason, int] = field(default_factory=lambda: dict.fromkeys(EvictionReason, 0))

    def bytes(self, tenant=None):
        return sum(len(e.body) for k, e in self.held if tenant in (None, k.tenant))

    def drop(self, doomed, reason):
        gone = [item for item in self.held if doomed(*item)]
        self.held = [item for item in self.held if item not in gone]
        self.evictions[reason] += len(gone)

    def drop_first(self, doomed, reason):
        first = next(k for k, e in self.held if doomed(k))
        self.drop(lambda k, _: k == first, reason)

    def get(self, wanted, now_s):
        self.drop(
            lambda k, e: k == wanted and now_s - e.stored_at_s >= self.config.ttl_s, EvictionReason.EXPIRED
        )
        found = next((item for item in self.held if item[0] == wanted), None)
        if found is None:
            return None
        self.held.remove(found)
        self.held.append(found)
        return found[1]

    def put(self, wanted, new):
        size, share = len(new.body), int(self.config.bytes_max * self.config.tenant_share_max)
        if size > self.config.entry_bytes_max or size > share:
            return
        self.drop(lambda _, e: new.stored_at_s - e.stored_at_s >= self.config.ttl_s, EvictionReason.EXPIRED)
        self.held = [item for item in self.held if item[0] != wanted]
        while self.bytes(wanted.tenant) and self.bytes(wanted.tenant) + size > share:
            self.drop_first(lambda k: k.tenant == wanted.tenant, EvictionReason.TENANT_SHARE)
        while self.held and (
            len(self.held) >= self.config.entries_max or self.bytes() + size > self.config.bytes_max
        ):
            self.drop_first(lambda _: True, EvictionReason.CAPACITY)
        self.held.append((wanted, new))

    def purge(self, tenant, model):
        self.drop(lambda k, _: tenant in (None, k.tenant) and model in (None, k.model), EvictionReason.PURGED)


keys = st.builds(
    EntryKey, tenant=st.sampled_from("abc"), model=st.sampled_from("mn"), key=st.sampled_from("123")
)
operations = st.lists(
    st.one_of(
        st.tuples(st.just("put"), keys, st.integers(1, 45)),
        st.tuples(st.just("put"), keys, st.integers(5, 20)),
        st.tuples(st.just("get"), keys, st.none()),
        st.tuples(st.just("purge"), st.sampled_from([None, "a", "b"]), st.sampled_from([None, "m", "n"])),
        st.tuples(st.just("pass"), st.floats(0.0, 4.0), st.none()),
    ),
    min_size=10,
    max_size=60,
)


@given(
    operations=operations,
    entries_max=st.integers(3, 18),
    bytes_max=st.integers(20, 150),
    share=st.sampled_from([0.2, 0.5, 1.0]),
)
def test_does_what_the_slow_model_does(operations, entries_max, bytes_max, share):
    settings = config(
        entries_max=entries_max, bytes_max=bytes_max, tenant_share_max=share, entry_bytes_max=40, ttl_s=10.0
    )
    tier, model, now_s = ExactTier(settings), SlowModel(settings), 0.0
    for number, (what, first, second) in enumerate(operations):
        if what == "put":
            new = entry(bytes([number % 256]) * second, stored_at_s=now_s)
            tier.put(first, new)
            model.put(first, new)
        elif what == "get":
            assert tier.get(first, now_s=now_s) == model.get(first, now_s)
        elif what == "purge":
            tier.purge(first, second)
            model.purge(first, second)
        else:
            now_s += first
        assert list(tier._by_use) == [k for k, _ in model.held]
        stats = tier.stats()
        assert stats.evictions == model.evictions
        assert (stats.entries, stats.bytes) == (len(model.held), model.bytes())
        assert stats.bytes <= bytes_max
        assert stats.entries <= entries_max
        for tenant in "abc":
            assert tier.tenant_bytes(tenant) == model.bytes(tenant) <= int(bytes_max * share)


@given(
    operations=st.lists(
        st.tuples(st.sampled_from(["put", "get"]), st.sampled_from("ab"), st.sampled_from("123")), max_size=80
    )
)
def test_two_tenants_never_read_each_others_answers(operations):
    tier = ExactTier(config(entries_max=4))
    for what, tenant, name in operations:
        if what == "put":
            tier.put(key(name, tenant=tenant), entry(f"secret of {tenant}".encode()))
        else:
            found = tier.get(key(name, tenant=tenant), now_s=0.0)
            assert found is None or found.body == f"secret of {tenant}".encode()
