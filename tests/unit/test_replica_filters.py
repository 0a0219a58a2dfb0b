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


def test_what_is_in_a_slot_comes_before_what_is_in_memory():
    fleet = [view("a"), view("b", adapters_in_host=("law",), requests_in_flight=1)]
    assert choose(*fleet, adapter="law") == "b"
    assert choose(*fleet, view("c", adapters=("law",), requests_in_flight=9), adapter="law") == "c"


def test_no_adapter_narrows_nothing():
    assert choose(view("a", pending_prefill_tokens=500), view("b"), filters=("adapter",)) == "b"


def test_an_adapter_that_nobody_holds_has_one_home_and_adapters_are_spread_over_homes():
    fleet = [view(name, pending_prefill_tokens=300 * number) for number, name in enumerate("abcd")]
    homes = {number: choose(*fleet, adapter=f"a{number}") for number in range(200)}
    assert homes == {number: choose(*reversed(fleet), adapter=f"a{number}") for number in range(200)}
    assert min(Counter(homes.values()).values()) > 30


def test_a_home_that_is_much_later_is_passed_over():
    home = choose(view("a"), view("b"), adapter="law")
    other = "b" if home == "a" else "a"
    assert choose(view(home, pending_prefill_tokens=1900), view(other), adapter="law") == home
    assert choose(view(home, pending_prefill_tokens=2100), view(other), adapter="law") == other


def test_holders_that_cannot_take_a_request_send_it_to_one_other_replica():
    full = view("full", adapters=("law",), requests_in_flight=64)
    aside = view("aside", adapters=("law",), put_aside_until_s=9.0)
    fleet = [view(name) for name in "abcd"]
    chosen = {choose(full, aside, *fleet[n:], *fleet[:n], adapter="law") for n in range(4)}
    assert len(chosen) == 1
    assert chosen <= set("abcd")


def test_a_late_holder_gains_one_helper_and_an_early_one_none():
    """ray-project/ray#65691: an adapter that everybody asked for stayed on one replica."""
    fleet = [view(name) for name in "abcd"]
    near = view("holder", adapters=("law",), pending_prefill_tokens=1900)
    assert choose(near, *fleet, adapter="law") == "holder"
    late = view("holder", adapters=("law",), pending_prefill_tokens=3200)
    helper = choose(late, *fleet, adapter="law")
    assert helper in set("abcd")
    # The helper is late, too, and nobody else is asked before it has loaded the adapter.
    busy = [view(name, pending_prefill_tokens=1000 * (name == helper)) for name in "abcd"]
    assert choose(late, *busy, adapter="law") == helper


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
