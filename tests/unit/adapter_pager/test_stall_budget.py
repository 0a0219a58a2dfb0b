"""Loads stop running streams no more than the budget says, apart from a debt that is paid back."""

import pytest

from deployments.adapter_pager.stall_budget import StallBudget


def budget(**fields):
    return StallBudget(0.02, **{"debt_s": 0.1, "now_s": 0.0, **fields})


def test_within_the_budget_nothing_waits():
    assert budget().wait_s(0.02, 0.0, urgent=False) == 0


def test_what_is_spent_comes_back_with_time():
    found = budget()
    found.spend(0.02, 0.0)
    assert found.wait_s(0.01, 0.0, urgent=False) == pytest.approx(0.5)
    assert found.wait_s(0.01, 0.5, urgent=False) == pytest.approx(0.0)


def test_waited_for_loads_may_borrow_and_no_more_than_so_much():
    found = budget()
    found.spend(0.02, 0.0)
    assert found.wait_s(0.01, 0.0, urgent=True) == 0
    found.spend(0.1, 0.0)
    assert found.wait_s(0.01, 0.0, urgent=True) == pytest.approx(0.5)


def test_nothing_is_saved_up_beyond_the_burst():
    found = budget()
    assert found.level_s(1000.0) == pytest.approx(0.02)


def test_a_load_larger_than_the_bucket_waits_until_it_is_full():
    found = budget()
    found.spend(0.02, 0.0)
    assert found.wait_s(5.0, 0.0, urgent=False) == pytest.approx(1.0)
    assert found.wait_s(5.0, 1.0, urgent=False) == pytest.approx(0.0)


def test_in_the_long_run_stall_keeps_to_the_rate():
    found, now_s, stalled_s = budget(), 0.0, 0.0
    while now_s < 1000:
        wait_s = found.wait_s(0.013, now_s, urgent=True)
        if wait_s > 0:
            now_s += wait_s
            continue
        found.spend(0.013, now_s)
        stalled_s += 0.013
        now_s += 0.013
    assert stalled_s <= 0.02 * now_s + 0.1 + 0.02 + 0.013
