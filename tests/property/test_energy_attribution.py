"""Energy is neither lost nor made."""

import math

from hypothesis import given
from hypothesis import strategies as st

from cluster.policy.energy_attribution import attribute

amounts = st.floats(0, 1e9)
weights = st.dictionaries(st.integers(0, 30), st.floats(0, 1e7), max_size=20)


@given(energy=amounts, idle=amounts, weights=weights, presence=weights)
def test_shares_and_what_is_nobodys_make_up_what_was_metered(energy, idle, weights, presence):
    found = attribute(energy, idle, weights, presence)
    given_j = math.fsum(share.total_j for share in found.shares.values())
    assert math.isclose(given_j + found.unattributed_j, energy, rel_tol=1e-9, abs_tol=1e-6)
    assert all(share.active_j >= 0 and share.idle_j >= 0 for share in found.shares.values())


@given(energy=amounts, idle=amounts)
def test_without_requests_it_is_nobodys(energy, idle):
    assert attribute(energy, idle, {}, {}).unattributed_j == energy


@given(weights=weights.filter(lambda found: sum(found.values()) > 0))
def test_above_idle_tokens_decide(weights):
    found = attribute(100.0, 0.0, weights, {})
    total = sum(weights.values())
    for key, share in found.shares.items():
        assert math.isclose(share.active_j, 100.0 * weights[key] / total, abs_tol=1e-9)
        assert share.idle_j == 0.0


def test_nonsense_is_not_passed_on():
    found = attribute(-5.0, 10.0, {"a": -1.0, "b": 1.0}, {"a": -2.0})
    assert found.unattributed_j == 0.0
    assert all(share.total_j == 0.0 for share in found.shares.values())
