"""The directory without Ray and without a clock: who is there, who has heard of it, who may go."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.entities.adapters import AdapterCatalogue
from cluster.entities.pool import ReplicaId, ReplicaPhase
from deployments.directory import state as directory
from deployments.directory.state import (
    LEFT_MEMORY_S,
    REPORT_EXPIRY_S,
    WATCHER_EXPIRY_S,
    DirectoryState,
)
from deployments.messages import PublishedAdapters, ServiceReport
from tests.replica_reports import replica_report

A = ReplicaId("a")
REPORT = replica_report("a")
SERVICE = ServiceReport(service="semantic_cache", replica_id="s", url="http://s", observed_at_s=0.0)


@pytest.fixture
def state():
    return DirectoryState(version=100)


def named(name, **changes):
    return replace(REPORT, replica_id=ReplicaId(name), **changes)


def phases(state):
    return {report.replica_id: report.phase for report in state.fleet().replicas}


def test_a_replica_joins_and_everybody_is_to_hear_of_it(state):
    assert state.report(REPORT, now_s=0.0)
    assert state.fleet().replicas == (REPORT,)
    assert state.version == state.fleet().version == 101


def test_a_repeated_report_updates_the_load_but_wakes_nobody(state):
    state.report(REPORT, now_s=0.0)
    assert not state.report(replace(REPORT, requests_running=7), now_s=1.0)
    assert state.fleet().replicas[0].requests_running == 7
    assert state.version == 101


@pytest.mark.parametrize("change", [{"url": "http://elsewhere"}, {"phase": ReplicaPhase.DRAINING}])
def test_a_report_that_routing_must_know_of_wakes(state, change):
    state.report(REPORT, now_s=0.0)
    assert state.report(replace(REPORT, **change), now_s=1.0)
    assert state.version == 102


def test_a_service_joins_moves_and_leaves(state):
    assert state.report_service(SERVICE, now_s=0.0)
    assert not state.report_service(SERVICE, now_s=1.0)
    assert state.report_service(replace(SERVICE, url="http://t"), now_s=2.0)
    assert state.fleet().services == (replace(SERVICE, url="http://t"),)
    assert state.leave("s", now_s=3.0)
    assert state.fleet().services == ()
    assert state.version == 103


def test_who_left_stays_away_even_if_a_late_report_comes(state):
    state.report(REPORT, now_s=0.0)
    assert state.leave(A, now_s=1.0)
    assert state.version == 102
    assert not state.report(REPORT, now_s=1.5)
    assert state.fleet().replicas == ()
    assert not state.leave(A, now_s=2.0)
    assert state.version == 102


def test_a_service_that_left_stays_away_even_if_a_late_report_comes(state):
    state.report_service(SERVICE, now_s=0.0)
    state.leave("s", now_s=1.0)
    state.report_service(SERVICE, now_s=1.5)
    assert state.fleet().services == ()


def test_leaving_is_forgotten_after_a_while_so_that_memory_stays_bounded(state):
    state.leave(A, now_s=0.0)
    state.expire(now_s=LEFT_MEMORY_S)
    assert not state.report(REPORT, now_s=LEFT_MEMORY_S)
    state.expire(now_s=LEFT_MEMORY_S + 0.1)
    assert state._left == {}
    assert state.report(REPORT, now_s=LEFT_MEMORY_S + 0.2)


def test_the_silent_are_dropped_and_may_come_back(state):
    state.report(REPORT, now_s=0.0)
    state.report(named("b"), now_s=5.0)
    state.report_service(SERVICE, now_s=0.0)
    assert not state.expire(now_s=REPORT_EXPIRY_S)
    before = state.version
    assert state.expire(now_s=REPORT_EXPIRY_S + 0.1)
    assert set(phases(state)) == {"b"}
    assert state.fleet().services == ()
    assert state.version == before + 1
    assert not state.expire(now_s=REPORT_EXPIRY_S + 0.1)
    assert state.report(REPORT, now_s=REPORT_EXPIRY_S + 0.2)


def test_draining_takes_out_of_routing_once_and_reports_do_not_undo_it(state):
    assert not state.drain(A)
    state.report(REPORT, now_s=0.0)
    assert state.drain(A)
    assert phases(state) == {A: ReplicaPhase.DRAINING}
    assert state.version == 102
    assert state.drain(A)
    assert not state.report(REPORT, now_s=1.0)
    assert phases(state) == {A: ReplicaPhase.DRAINING}
    assert state.version == 102


def test_draining_survives_a_silence(state):
    state.report(REPORT, now_s=0.0)
    state.drain(A)
    state.expire(now_s=REPORT_EXPIRY_S + 1)
    state.report(REPORT, now_s=REPORT_EXPIRY_S + 2)
    assert phases(state).get(A) is not ReplicaPhase.READY


def test_routed_around_waits_for_exactly_the_live_watchers(state):
    state.report(REPORT, now_s=0.0)
    state.seen("one", 101, now_s=0.0)
    state.seen("two", 101, now_s=0.0)
    assert not state.routed_around(A, now_s=0.0)
    state.drain(A)
    assert not state.routed_around(A, now_s=0.1)
    state.seen("one", 102, now_s=0.2)
    assert not state.routed_around(A, now_s=0.2)
    state.seen("two", 102, now_s=0.3)
    assert state.routed_around(A, now_s=0.3)


def test_a_router_that_starts_during_a_drain_is_waited_for_too(state):
    state.report(REPORT, now_s=0.0)
    state.drain(A)
    assert state.routed_around(A, now_s=0.0)
    state.seen("new", 0, now_s=0.1)
    assert not state.routed_around(A, now_s=0.1)
    state.seen("new", state.version, now_s=0.2)
    assert state.routed_around(A, now_s=0.2)


def test_a_dead_router_is_not_waited_for(state):
    state.report(REPORT, now_s=0.0)
    state.seen("dead", 101, now_s=0.0)
    state.drain(A)
    assert not state.routed_around(A, now_s=WATCHER_EXPIRY_S)
    assert state.routed_around(A, now_s=WATCHER_EXPIRY_S + 0.1)
    state.expire(now_s=WATCHER_EXPIRY_S + 0.1)
    assert state._watchers == {}


def test_later_changes_do_not_delay_a_drain(state):
    state.report(REPORT, now_s=0.0)
    state.drain(A)
    state.seen("one", state.version, now_s=0.0)
    state.report(named("b"), now_s=0.1)
    assert state.routed_around(A, now_s=0.1)


def test_a_replica_that_reports_its_own_draining_is_routed_around_as_well(state):
    state.seen("one", 100, now_s=0.0)
    state.report(REPORT, now_s=0.0)
    state.report(replace(REPORT, phase=ReplicaPhase.DRAINING), now_s=0.1)
    assert not state.routed_around(A, now_s=0.2)
    state.seen("one", state.version, now_s=0.3)
    assert state.routed_around(A, now_s=0.3)


def test_who_is_unknown_is_routed_around(state):
    assert state.routed_around(A, now_s=0.0)
    state.report(REPORT, now_s=0.0)
    state.drain(A)
    state.leave(A, now_s=0.1)
    assert state.routed_around(A, now_s=0.1)
    assert state._marked == {}


def test_new_entries_are_refused_at_the_bound(state, monkeypatch):
    monkeypatch.setattr(directory, "ENTRIES_MAX", 2)
    for name in "abc":
        state.report(named(name), now_s=0.0)
        state.report_service(replace(SERVICE, replica_id=name), now_s=0.0)
        state.seen(name, 1, now_s=0.0)
    assert set(phases(state)) == {"a", "b"}
    assert [service.replica_id for service in state.fleet().services] == ["a", "b"]
    assert set(state._watchers) == {"a", "b"}
    state.seen("a", 2, now_s=1.0)
    assert state._watchers["a"].applied_version == 2


def test_at_the_bound_those_already_known_go_on_reporting(state, monkeypatch):
    monkeypatch.setattr(directory, "ENTRIES_MAX", 2)
    state.report(named("a"), now_s=0.0)
    state.report(named("b"), now_s=0.0)
    state.report(named("a", requests_running=3), now_s=REPORT_EXPIRY_S)
    state.expire(now_s=REPORT_EXPIRY_S + 1)
    assert set(phases(state)) == {"a"}


EVENTS = st.tuples(
    st.sampled_from(["report", "draining", "service", "drain", "leave", "seen", "expire"]),
    st.sampled_from("abc"),
    st.floats(0, 8),
)


def take(state, event, name, now_s):
    """Apply one event; whether watchers are told of it."""
    draining = named(name, phase=ReplicaPhase.DRAINING)
    apply = {
        "report": lambda: state.report(named(name), now_s=now_s),
        "draining": lambda: state.report(draining, now_s=now_s),
        "service": lambda: state.report_service(replace(SERVICE, replica_id=name), now_s=now_s),
        "drain": lambda: state.drain(ReplicaId(name)),
        "leave": lambda: state.leave(name, now_s=now_s),
        "seen": lambda: state.seen(name, state.version, now_s=now_s),
        "expire": lambda: state.expire(now_s=now_s),
    }
    return apply[event]()


def routing_of(fleet):
    return (
        {(r.replica_id, r.phase, r.url) for r in fleet.replicas},
        {(s.replica_id, s.url) for s in fleet.services},
    )


@given(events=st.lists(EVENTS, max_size=40))
def test_the_version_grows_exactly_with_what_routing_must_know(events):
    state, now_s = DirectoryState(version=5), 0.0
    for event, name, passed_s in events:
        now_s += passed_s
        before, version = routing_of(state.fleet()), state.version
        told = take(state, event, name, now_s)
        after = routing_of(state.fleet())
        assert (state.version > version) == (before != after)
        if before != after:
            assert told
        # Marks are kept for draining replicas only: they must not pile up.
        assert set(state._marked) <= {r for r, phase in phases(state).items() if phase == "draining"}


@given(events=st.lists(EVENTS, max_size=40))
def test_a_drained_replica_is_safe_to_stop_only_when_no_watcher_knows_it_as_ready(events):
    """Watchers apply what they see; `routed_around` must agree with what each of them really holds."""
    state, now_s = DirectoryState(version=5), 0.0
    holds: dict[str, tuple[float, dict[str, ReplicaPhase]]] = {}
    for event, name, passed_s in events:
        now_s += passed_s
        take(state, event, name, now_s)
        if event == "seen":
            holds[name] = (now_s, phases(state))
        for replica, phase in phases(state).items():
            if phase is ReplicaPhase.DRAINING and state.routed_around(replica, now_s=now_s):
                live = [held for at_s, held in holds.values() if now_s - at_s <= WATCHER_EXPIRY_S]
                assert all(held.get(replica) is not ReplicaPhase.READY for held in live)


def test_a_new_catalogue_of_adapters_is_news_and_a_round_without_one_is_not():
    state = DirectoryState(version=1)
    assert state.fleet().adapters is None
    first = PublishedAdapters(at_s=1.0, catalogue=AdapterCatalogue(version=5))
    assert state.publish_adapters(first)
    assert (state.version, state.fleet().adapters) == (2, first)
    later = PublishedAdapters(at_s=2.0, catalogue=AdapterCatalogue(version=5))
    assert not state.publish_adapters(later)
    assert (state.version, state.fleet().adapters) == (2, later)
    assert state.publish_adapters(PublishedAdapters(at_s=3.0, catalogue=AdapterCatalogue(version=6)))
    assert state.version == 3


def test_the_age_of_a_report_is_that_of_its_arrival_whatever_it_says_itself(state):
    state.report(named("a", observed_at_s=5.0), now_s=100.0)
    state.report(named("b", observed_at_s=9000.0), now_s=101.5)
    assert state.overview(now_s=102.0).ages_s == {"a": 2.0, "b": 0.5}
