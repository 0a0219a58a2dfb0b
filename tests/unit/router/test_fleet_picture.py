"""The router's picture of the fleet: whatever happens to requests and replicas, the counters come back.

Invariants, after any interleaving: no counter is ever negative; when every dispatch is released, all are
zero; releasing twice counts once; a replica that has left and is idle is forgotten.
"""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cluster.config import parse_config
from cluster.config.routing import ReplicaRoutingConfig
from cluster.entities.fleet import FleetPlan, PoolObservation
from cluster.entities.pool import PoolName, PrefixCacheReport, ReplicaId, ReplicaPhase, ReplicaReport, Role
from cluster.entities.workload import RequestSignals, Surface
from cluster.performance.profiles import pool_performance
from deployments.messages import FleetState, PublishedPlan, ReplicaLoad, RouterShare, ServiceReport
from deployments.router.fleet.view import FleetPicture
from tests.examples import examples

CONFIG = ReplicaRoutingConfig(put_aside_first_s=1.0, assumed_prefill_tokens_per_s=500.0)
ANSWERING = {Role.DECODE, Role.COMBINED}
IDS = ("a", "b", "c")
_POOLS = parse_config("models: {sim: {source: s}}\npools: {decode: {model: sim, gpu_type: A100}}")
PERFORMANCE = replace(
    pool_performance(_POOLS.pools["decode"], _POOLS.models["sim"]),
    step_per_sequence_s=0.003,
    step_per_context_token_s=1e-5,
)


def report(name="a", **changes):
    fields: dict[str, Any] = {
        "replica_id": ReplicaId(name),
        "pool": PoolName("decode"),
        "role": Role.DECODE,
        "model": "sim",
        "gpu_type": "cpu",
        "url": f"http://{name}",
        "phase": ReplicaPhase.READY,
        "observed_at_s": 0.0,
        "started_at_s": 0.0,
    }
    return ReplicaReport(**(fields | changes))


def fleet(*reports, version=1, services=()):
    return FleetState(version=version, replicas=reports, services=services)


def signals(tokens=100, hashes=(), **changes):
    fields: dict[str, Any] = {"surface": Surface.CHAT, "model": "sim", "tenant": "t", "prompt_tokens": tokens}
    return RequestSignals(**fields, block_hashes=tuple(hashes), block_tokens=10, **changes)


def picture_of(*reports, shared=False):
    picture = FleetPicture(CONFIG, shared=shared, now_s=lambda: 0.0)
    picture.apply(fleet(*reports))
    return picture


def view(picture, name="a", asked=None):
    views = picture.views(asked or signals(), ANSWERING)
    return next(found for found in views if found.replica_id == name)


class Interleaving(RuleBasedStateMachine):
    """Requests start, proceed and end while replicas come and go."""

    def __init__(self):
        super().__init__()
        self.picture = FleetPicture(CONFIG, shared=False, now_s=lambda: 0.0)
        self.present = set(IDS)
        self.open = []
        self.told = 0
        self.released = 0
        self.picture.on_change(self.heard)
        self.apply()

    def heard(self):
        self.told += 1

    def apply(self):
        self.picture.apply(fleet(*(report(name) for name in sorted(self.present))))

    @precondition(lambda self: self.present)
    @rule(data=st.data(), tokens=st.integers(0, 500), blocks=st.integers(0, 8), split=st.booleans())
    def dispatch(self, data, tokens, blocks, split):
        name = data.draw(st.sampled_from(sorted(self.present)))
        asked = signals(tokens, range(blocks))
        self.open.append(self.picture.dispatch(ReplicaId(name), asked, computed_elsewhere=split))

    @precondition(lambda self: self.open)
    @rule(data=st.data(), what=st.sampled_from(["first_token", "recompute", "release", "release"]))
    def proceed(self, data, what):
        dispatch = data.draw(st.sampled_from(self.open))
        if what == "recompute":
            dispatch.recompute(data.draw(st.integers(0, 500)))
        else:
            getattr(dispatch, what)()
        if what == "release" and data.draw(st.booleans()):
            self.open.remove(dispatch)

    @rule(name=st.sampled_from(IDS))
    def come_or_go(self, name):
        self.present ^= {name}
        self.apply()

    @rule(name=st.sampled_from(IDS), now_s=st.floats(0, 1e6))
    def fail(self, name, now_s):
        self.picture.failed(ReplicaId(name), now_s=now_s, draw=0.5)
        self.picture.succeeded(ReplicaId(name))

    @invariant()
    def no_counter_is_negative(self):
        for load in self.picture._loads.values():
            assert load.requests >= 0
            assert 0 <= load.waiting <= load.requests
            assert load.pending_prefill_tokens >= 0
            assert load.decode_tokens >= 0

    def teardown(self):
        told = self.told
        for dispatch in self.open:
            dispatch.release()
            dispatch.release()
        assert self.told - told <= len(self.open)
        for load in self.picture._loads.values():
            counts = (load.requests, load.waiting, load.pending_prefill_tokens, load.decode_tokens)
            assert counts == (0, 0, 0, 0)
        self.apply()
        assert set(self.picture._loads) == self.present


TestInterleaving = Interleaving.TestCase
TestInterleaving.settings = settings(max_examples=examples(60), stateful_step_count=30, deadline=None)


def test_a_request_weighs_its_uncached_prompt_then_its_context():
    picture = picture_of(report())
    dispatch = picture.dispatch(ReplicaId("a"), signals(100), computed_elsewhere=False)
    assert (view(picture).pending_prefill_tokens, view(picture).decode_tokens) == (100, 0)
    assert view(picture).requests_in_flight == picture.in_flight(ReplicaId("a")) == 1
    dispatch.first_token()
    assert (view(picture).pending_prefill_tokens, view(picture).decode_tokens) == (0, 100)
    dispatch.release()
    assert (view(picture).requests_in_flight, view(picture).decode_tokens) == (0, 0)


def test_a_prompt_computed_elsewhere_weighs_nothing_until_it_is_recomputed():
    picture = picture_of(report())
    dispatch = picture.dispatch(ReplicaId("a"), signals(100), computed_elsewhere=True)
    assert view(picture).pending_prefill_tokens == 0
    dispatch.recompute(80)
    assert view(picture).pending_prefill_tokens == 80
    dispatch.first_token()
    assert view(picture).pending_prefill_tokens == 0
    dispatch.release()


def test_what_a_replica_has_seen_is_cached_there_and_only_there():
    picture = picture_of(report("a"), report("b"))
    asked = signals(35, (1, 2, 3))
    picture.dispatch(ReplicaId("a"), asked, computed_elsewhere=False).release()
    assert view(picture, "a", asked).cached_tokens == 30
    assert view(picture, "b", asked).cached_tokens == 0
    assert view(picture, "a", signals(12, (1, 2, 9))).cached_tokens == 12
    again = picture.dispatch(ReplicaId("a"), asked, computed_elsewhere=False)
    assert view(picture, "a").pending_prefill_tokens == 5
    again.release()


def test_other_routers_requests_count_until_they_are_not_heard_of_any_more():
    now = [50.0]
    picture = FleetPicture(CONFIG, shared=True, now_s=lambda: now[0])
    picture.apply(fleet(report("a")))
    foreign = ReplicaLoad(requests=5, waiting=2, pending_prefill_tokens=900, decode_tokens=70)
    picture.hear(RouterShare(loads={ReplicaId("a"): foreign}))
    picture.dispatch(ReplicaId("a"), signals(100), computed_elsewhere=False)
    seen = view(picture)
    assert (seen.requests_in_flight, seen.requests_waiting) == (6, 3)
    assert (seen.pending_prefill_tokens, seen.decode_tokens) == (1000, 70)
    now[0] += 5.1
    assert view(picture).requests_in_flight == 1


def test_routers_tell_what_they_have_in_flight_and_what_was_computed():
    one, other = picture_of(report("a"), report("b"), shared=True), picture_of(report("a"), shared=True)
    asked = signals(100, range(10))
    dispatch = one.dispatch(ReplicaId("a"), asked, computed_elsewhere=False)
    share = one.share()
    assert share.computed == (), "it was only sent"
    assert share.loads == {"a": ReplicaLoad(requests=1, waiting=1, pending_prefill_tokens=100)}
    dispatch.first_token()
    elsewhere = one.dispatch(ReplicaId("b"), asked, computed_elsewhere=False)
    elsewhere.first_token()
    other.hear(one.share())
    assert view(other, asked=asked).cached_tokens == 100
    assert len(other.memory.prefixes) == 10, "b is not there as far as it knows"
    assert one.share().computed == (), "told once"


def test_a_failure_puts_aside_forgets_the_prefixes_and_a_success_forgives():
    picture = picture_of(report())
    asked = signals(30, (1, 2, 3))
    picture.dispatch(ReplicaId("a"), asked, computed_elsewhere=False).release()
    picture.failed(ReplicaId("a"), now_s=10.0, draw=0.5)
    assert view(picture, "a", asked).put_aside_until_s == 11.0
    assert view(picture, "a", asked).cached_tokens == 0
    picture.succeeded(ReplicaId("a"))
    assert view(picture).put_aside_until_s == 0.0
    picture.failed(ReplicaId("nobody"), now_s=10.0, draw=0.5)


def test_a_replica_that_leaves_takes_its_health_and_prefixes_along():
    picture = picture_of(report("a"), report("b"))
    asked = signals(30, (1, 2, 3))
    picture.dispatch(ReplicaId("a"), asked, computed_elsewhere=False).release()
    picture.failed(ReplicaId("a"), now_s=10.0, draw=0.5)
    picture.apply(fleet(report("b")))
    assert [found.replica_id for found in picture.views(asked, ANSWERING)] == ["b"]
    picture.apply(fleet(report("a"), report("b")))
    back = view(picture, "a", asked)
    assert (back.cached_tokens, back.put_aside_until_s) == (0, 0.0)


def test_views_are_filtered_by_model_role_and_exclusion():
    picture = picture_of(
        report("a"),
        report("b", role=Role.PREFILL),
        report("c", role=Role.COMBINED),
        report("d", model="other"),
        report("e", phase=ReplicaPhase.DRAINING),
    )

    def names(roles, exclude=()):
        return {found.replica_id for found in picture.views(signals(), roles, exclude)}

    assert names(ANSWERING) == {"a", "c", "e"}
    assert names({Role.PREFILL}) == {"b"}
    assert names(ANSWERING, [ReplicaId("a")]) == {"c", "e"}
    assert view(picture, "e").phase is ReplicaPhase.DRAINING


def test_the_measured_rate_wins_over_the_assumed_one():
    picture = picture_of(report("a"), report("b", prefill_tokens_per_s=77.0, max_concurrent_requests=3))
    assert view(picture, "a").prefill_tokens_per_s == 500.0
    assert (view(picture, "b").prefill_tokens_per_s, view(picture, "b").max_concurrent_requests) == (77.0, 3)


def test_ready_means_that_somebody_would_answer():
    assert not picture_of().ready("sim")
    assert not picture_of(report(role=Role.PREFILL)).ready("sim")
    assert not picture_of(report(phase=ReplicaPhase.DRAINING)).ready("sim")
    assert picture_of(report()).ready("sim")
    assert not picture_of(report()).ready("other")


def test_listeners_hear_of_a_new_picture_and_of_every_release():
    picture = picture_of(report())
    heard = []
    picture.on_change(lambda: heard.append(1))
    picture.apply(fleet(report(), version=5))
    assert (len(heard), picture.version) == (1, 5)
    dispatch = picture.dispatch(ReplicaId("a"), signals(), computed_elsewhere=False)
    dispatch.release()
    dispatch.release()
    assert len(heard) == 2


def test_services_are_found_by_name():
    service = ServiceReport(service="semantic_cache", replica_id="s", url="http://s", observed_at_s=0.0)
    picture = picture_of()
    assert picture.service_url("semantic_cache") is None
    picture.apply(fleet(services=(service, replace(service, replica_id="t", url="http://t"))))
    assert picture.service_url("semantic_cache") == "http://s"
    assert picture.service_url("nothing") is None


def planned(**speeds):
    """A published plan whose snapshot knows pools of the given prefill times and step lengths."""
    pools = tuple(
        PoolObservation(
            pool=PoolName(name),
            model="sim",
            role=Role.DECODE,
            gpu_type="A100",
            replicas_wanted=1,
            performance=replace(PERFORMANCE, prefill_token_s=prefill_token_s, step_base_s=step_base_s),
        )
        for name, (prefill_token_s, step_base_s) in speeds.items()
    )
    return PublishedPlan(decided_at_s=0.0, policy="unit_commitment", plan=FleetPlan(pools=()), pools=pools)


def test_what_the_snapshot_knows_of_a_pool_is_what_its_replicas_are_taken_for():
    picture = picture_of(report())
    assert view(picture).prefill_tokens_per_s == 500.0, "assumed while nobody knows"
    assert view(picture).step_s == 0.0
    picture.apply(replace(fleet(report()), plan=planned(decode=(0.001, 0.0))))
    assert view(picture).prefill_tokens_per_s == pytest.approx(1000.0)
    picture.apply(replace(fleet(report(prefill_tokens_per_s=700.0)), plan=planned(decode=(0.001, 0.02))))
    assert view(picture).prefill_tokens_per_s == 700.0, "what the replica measured itself is better"
    assert view(picture).step_s == pytest.approx(0.02)


def test_steps_grow_with_what_this_router_has_decoding_there():
    picture = picture_of(report())
    picture.apply(replace(fleet(report()), plan=planned(decode=(0.001, 0.02))))
    dispatch = picture.dispatch("a", signals(400), computed_elsewhere=False)
    dispatch.first_token()
    assert view(picture).step_s == pytest.approx(0.02 + 0.003 + 400 * 1e-5)
    dispatch.release()
    assert view(picture).step_s == pytest.approx(0.02)


def test_a_provisioner_that_is_away_leaves_what_it_knew_of_speeds():
    picture = picture_of(report())
    picture.apply(replace(fleet(report()), plan=planned(decode=(0.001, 0.02))))
    picture.apply(fleet(report(), version=2))
    assert view(picture).step_s == pytest.approx(0.02)


def test_a_prefix_that_was_only_sent_is_doubted_after_a_while_and_known_with_the_first_token():
    now = [100.0]
    picture = FleetPicture(CONFIG, shared=False, now_s=lambda: now[0])
    picture.apply(fleet(report("a", prefill_tokens_per_s=100.0)))
    asked = signals(100, range(10))
    dispatch = picture.dispatch(ReplicaId("a"), asked, computed_elsewhere=False)
    now[0] = 100.0 + 1.0 + CONFIG.prefix_speculative_s
    assert view(picture, asked=asked).cached_tokens == 100
    now[0] += 0.1
    assert view(picture, asked=asked).cached_tokens == 0
    dispatch.first_token()
    assert view(picture, asked=asked).cached_tokens == 100


def test_a_first_token_from_a_replica_that_has_left_is_not_remembered():
    picture = picture_of(report("a"))
    dispatch = picture.dispatch(ReplicaId("a"), signals(100, range(10)), computed_elsewhere=False)
    picture.apply(fleet())
    dispatch.first_token()
    assert len(picture.memory.prefixes) == 0


def test_requests_wait_until_their_first_token():
    picture = picture_of(report("a"))
    one, two = (picture.dispatch(ReplicaId("a"), signals(), computed_elsewhere=False) for _ in range(2))
    one.first_token()
    assert (view(picture).requests_waiting, view(picture).requests_in_flight) == (1, 2)
    two.release()
    assert (view(picture).requests_waiting, view(picture).requests_in_flight) == (0, 1)


def test_an_emptied_prefix_cache_is_believed_in_no_more():
    picture = picture_of(report(prefix_cache=PrefixCacheReport(tokens=50)))
    prompt = signals(30, hashes=(1, 2, 3))
    picture.dispatch(ReplicaId("a"), prompt, computed_elsewhere=False).first_token()
    picture.apply(fleet(report(prefix_cache=PrefixCacheReport(tokens=80)), version=2))
    assert picture.views(prompt, ANSWERING)[0].cached_tokens == 30
    picture.apply(fleet(report(prefix_cache=PrefixCacheReport(clears=1)), version=3))
    assert picture.views(prompt, ANSWERING)[0].cached_tokens == 0


def test_a_full_prefix_cache_bounds_what_is_believed_of_it():
    picture = picture_of(report(prefix_cache=PrefixCacheReport(tokens=60, tokens_when_full=60)))
    first, second = signals(50, hashes=range(5)), signals(50, hashes=range(10, 15))
    for prompt in (first, second):
        picture.dispatch(ReplicaId("a"), prompt, computed_elsewhere=False).first_token()
    assert picture.views(first, ANSWERING)[0].cached_tokens == 10
    assert picture.views(second, ANSWERING)[0].cached_tokens == 50
