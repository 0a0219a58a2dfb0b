"""Accounts: never more than the limit in any window, whatever routers draw, give back or take with them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.entities.tenancy import Quota, Unit, Window
from cluster.policy.tenancy.account import PLACES_EXPIRY_S, Account, Order, exchange
from cluster.policy.tenancy.windows import forgotten_s, slot_end_s, slot_name, slot_of
from tests.examples import examples

RPM = Quota(window=Window.MINUTE, unit=Unit.REQUESTS, limit=10.0)
DAY = Quota(window=Window.DAY, unit=Unit.USD, limit=2.0)
JOULES = Quota(window=Window.DAY, unit=Unit.ENERGY, limit=100.0)
NOON = 1_798_632_000.0  # 2026-12-30 12:00 UTC


def order(router="r", **fields):
    return Order(tenant="t", router=router, **fields)


def needs(quota, amount, **fields):
    return order(needs={quota.name: amount}, **fields)


def test_what_is_needed_is_granted_until_nothing_is_left():
    account = Account()
    for _ in range(10):
        account, reply = exchange(account, needs(RPM, 1.0), (RPM,), None, NOON)
        assert reply.granted[RPM.name] == 1.0
    account, reply = exchange(account, needs(RPM, 1.0), (RPM,), None, NOON)
    assert reply.granted[RPM.name] == 0.0
    assert reply.remaining[RPM.name] == 0.0
    assert reply.retry_after_s[RPM.name] == pytest.approx(65.0, abs=5.0)
    freed_at_s = NOON + reply.retry_after_s[RPM.name]
    assert exchange(account, needs(RPM, 1.0), (RPM,), None, freed_at_s - 0.01)[1].granted[RPM.name] == 0.0
    assert exchange(account, needs(RPM, 1.0), (RPM,), None, freed_at_s)[1].granted[RPM.name] == 1.0


def test_ahead_is_a_share_of_what_is_left_and_goes_back_to_where_it_was_drawn():
    account, reply = exchange(
        Account(), needs(RPM, 1.0, ahead={RPM.name: 100.0}, share=0.5), (RPM,), None, NOON
    )
    assert reply.granted[RPM.name] == 5.0  # 1 and half of the other 9, whole requests
    back = order(returns=((RPM.name, reply.slots[RPM.name], 4.0),))
    account, reply = exchange(account, back, (RPM,), None, NOON + 4.0)
    assert reply.remaining[RPM.name] == 9.0
    late = order(returns=((RPM.name, reply.slots[RPM.name], 1.0),))
    after, reply = exchange(account, late, (RPM,), None, NOON + 70.0)
    assert reply.remaining[RPM.name] == 10.0
    assert after == Account()


def test_what_was_used_beyond_the_limit_is_counted_too():
    account, _ = exchange(Account(), needs(DAY, 1.5), (DAY,), None, NOON)
    slot = slot_of(Window.DAY, NOON)
    account, reply = exchange(account, order(returns=((DAY.name, slot, -1.0),)), (DAY,), None, NOON)
    assert reply.remaining[DAY.name] == pytest.approx(-0.5)
    assert reply.retry_after_s[DAY.name] == pytest.approx(12 * 3600.0)
    _, reply = exchange(account, needs(DAY, 2.0), (DAY,), None, NOON + 12 * 3600.0)
    assert reply.granted[DAY.name] == 2.0


def test_energy_is_charged_afterwards_and_never_drawn():
    slot = slot_of(Window.DAY, NOON)
    charge = order(needs={JOULES.name: 5.0}, returns=((JOULES.name, slot, -60.0),))
    account, reply = exchange(Account(), charge, (JOULES,), None, NOON)
    assert (reply.granted[JOULES.name], reply.remaining[JOULES.name]) == (0.0, 40.0)
    account, reply = exchange(account, order(returns=((JOULES.name, slot, -50.0),)), (JOULES,), None, NOON)
    assert reply.remaining[JOULES.name] == -10.0
    assert reply.retry_after_s[JOULES.name] == pytest.approx(12 * 3600.0)


def test_places_are_for_all_routers_together_and_come_back_from_the_dead():
    account, reply = exchange(Account(), order("a", places=2), (), 3, NOON)
    assert reply.places == 2
    account, reply = exchange(account, order("b", places=2), (), 3, NOON + 1.0)
    assert reply.places == 1
    account, reply = exchange(account, order("b", places=3), (), 3, NOON + 1.0 + PLACES_EXPIRY_S)
    assert reply.places == 3
    # A lower limit takes no place away from a request that runs.
    account, reply = exchange(account, order("b", places=3), (), 1, NOON + 12.0)
    assert reply.places == 3
    assert exchange(account, order("a", places=1), (), 1, NOON + 12.0)[1].places == 0


def test_windows_are_calendar_days_and_months_and_any_minute():
    assert slot_name(Window.DAY, slot_of(Window.DAY, NOON)) == "2026-12-30"
    assert slot_name(Window.MONTH, slot_of(Window.MONTH, NOON)) == "2026-12"
    assert slot_end_s(Window.MONTH, slot_of(Window.MONTH, NOON)) == NOON + 1.5 * 86_400
    slot = slot_of(Window.MINUTE, NOON)
    assert 60.0 <= forgotten_s(Window.MINUTE, slot) - slot_end_s(Window.MINUTE, slot) <= 65.0


@settings(max_examples=examples(200), deadline=None)
@given(
    limit=st.integers(1, 30),
    steps=st.lists(
        st.tuples(
            st.floats(0.0, 20.0),  # time that passes
            st.sampled_from(["a", "b", "c"]),
            st.integers(1, 12),  # needed
            st.integers(0, 20),  # ahead
            st.floats(0.0, 1.0),  # part that is spent, the rest is given back at once
        ),
        max_size=60,
    ),
)
def test_no_sixty_seconds_see_more_than_the_limit(limit, steps):
    quota = Quota(window=Window.MINUTE, unit=Unit.REQUESTS, limit=float(limit))
    account, now_s = Account(), NOON
    spent: list[tuple[float, float]] = []
    for passed_s, router, need, ahead, part in steps:
        now_s += passed_s
        drawn = Order(
            tenant="t",
            router=router,
            needs={quota.name: float(need)},
            ahead={quota.name: float(ahead)},
            share=0.5,
        )
        account, reply = exchange(account, drawn, (quota,), None, now_s)
        granted = reply.granted[quota.name]
        used = float(int(granted * part))
        spent.append((now_s, used))
        back = order(router, returns=((quota.name, reply.slots[quota.name], granted - used),))
        account, _ = exchange(account, back, (quota,), None, now_s)
    for start_s, _ in spent:
        within = sum(amount for at_s, amount in spent if start_s <= at_s < start_s + 60.0)
        assert within <= limit
