"""Filters narrow the candidates before any policy, and never leave nobody."""

from collections import Counter

import pytest

from cluster.config.routing import ReplicaRoutingConfig
from cluster.entities.pool import PoolName, ReplicaId, ReplicaView, Role
from cluster.entities.workload import RequestSignals, Surface
from cluster.policy.routing.replicas.policies import POLICIES, choose_replica


def view(name, **changes):
    return ReplicaView(replica_id=ReplicaId(name), pool=PoolName("p"), role=Role.COMBINED, **changes)


def choose(*candidates, policy="min_work", filters=("adapter", "session"), **signals):
    request = RequestSignals(surface=Surface.CHAT, model="m", tenant="t", prompt_tokens=1000, **signals)
    config = ReplicaRoutingConfig(policy=policy, filters=filters, session_loss_s_max=2.0)
    return choose_replica(request, candidates, config, now_s=0.0, draw=0.0).replica_id


@pytest.mark.parametrize("policy", POLICIES)
def test_only_replicas_with_the_adapter_are_compared(policy):
    fleet = [
        view("a"),
        view("b", adapters=("law", "code"), requests_in_flight=9),
        view("c", adapters=("law",)),
    ]
    assert choose(*fleet, policy=policy, adapter="code") == "b"


def test_an_adapter_that_nobody_holds_and_no_adapter_narrow_nothing():
    fleet = [view("a"), view("b", adapters=("law",), pending_prefill_tokens=500)]
    assert choose(*fleet, adapter="code") == "a"
    assert choose(*fleet) == "a"


def test_a_replica_with_the_adapter_that_is_full_or_failing_does_not_hold_the_request_up():
    full = view("full", adapters=("law",), requests_in_flight=64)
    aside = view("aside", adapters=("law",), put_aside_until_s=9.0)
    assert choose(full, aside, view("a"), adapter="law") == "a"


def test_sessions_keep_their_home_and_are_spread_evenly():
    fleet = [view(name, pending_prefill_tokens=500 * number) for number, name in enumerate("abcd")]
    homes = {number: choose(*fleet, session=f"s{number}") for number in range(400)}
    assert homes == {number: choose(*reversed(fleet), session=f"s{number}") for number in range(400)}
    assert min(Counter(homes.values()).values()) > 70
    # One leaves: its sessions move, the others stay.
    left = {number: choose(*fleet[:3], session=f"s{number}") for number in range(400)}
    assert all(left[number] == home for number, home in homes.items() if home != "d")


def test_a_session_leaves_its_home_when_that_is_much_later():
    home = choose(view("a"), view("b"), session="s")
    other = "b" if home == "a" else "a"
    near = view(home, pending_prefill_tokens=1900)
    assert choose(near, view(other), session="s") == home
    far = view(home, pending_prefill_tokens=2100)
    assert choose(far, view(other), session="s") == other


def test_without_the_filter_sessions_are_ignored():
    home = choose(view("a"), view("b"), session="s")
    other = "b" if home == "a" else "a"
    busy = view(home, pending_prefill_tokens=500)
    assert choose(busy, view(other), filters=(), session="s") == other
