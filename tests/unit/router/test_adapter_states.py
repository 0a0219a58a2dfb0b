"""States of several nodes put together: the surest estimate of each adapter, usable nodes' lowest price."""

import numpy as np
import pytest

from cluster.config.paging import PagingConfig
from cluster.entities.adapters import AdapterCard
from cluster.policy.paging.core import PagerCore
from cluster.policy.paging.interface import Budget, PagedAdapter
from deployments.adapter_messages import (
    ContributionReport,
    LearnedState,
    contributions_from_json,
    contributions_to_json,
)
from deployments.router.adapters.states import LearnedStates

CONFIG = PagingConfig(dimension=4, policy="gdsf")
KEYS = tuple(f"{number}" * 64 for number in range(3))
CARDS = tuple(AdapterCard(name=f"a{n}", base_model="m", source="s", sha256=key) for n, key in enumerate(KEYS))


def core(source="n", keys=KEYS):
    found = PagerCore(CONFIG, Budget(slots=2), source=source)
    found.set_catalogue(PagedAdapter(key=key, bytes=1000) for key in keys)
    return found


def state(node, version="v", **fields):
    return LearnedState(version=version, estimates=node.estimates(), prices=node.prices(), **fields)


def joined(*nodes, cards=CARDS, usable=None, states=None):
    found = states or LearnedStates(CONFIG)
    for name, node in nodes:
        found.take(name, state(node, version=f"{name}{node.statistics.version}"))
    return found.joined("m", cards, 1, usable or [name for name, _ in nodes])


def test_learnt_states_travel_unchanged():
    node = core()
    node.observe(KEYS[0], np.array([1.0, 0.5, 0.0, 0.2]), 0.9)
    sent = state(node, forced=KEYS[2])
    found = LearnedState.from_json(sent.to_json())
    assert (found.version, found.forced, found.estimates.keys) == ("v", KEYS[2], KEYS)
    np.testing.assert_array_equal(found.estimates.theta, sent.estimates.theta)
    np.testing.assert_array_equal(found.prices, sent.prices)
    np.testing.assert_allclose(found.estimates.inverse, sent.estimates.inverse, rtol=1e-6)


@pytest.mark.parametrize("broken", [{}, {"keys": 1}, {"version": "v", "keys": ["a"], "dimension": 2}])
def test_what_is_no_state_is_refused(broken):
    with pytest.raises((ValueError, TypeError, KeyError)):
        LearnedState.from_json(broken)
    body = state(core()).to_json()
    with pytest.raises(ValueError):
        LearnedState.from_json({**body, "theta": body["prices"]})


def test_contributions_travel_bit_by_bit():
    node = core()
    node.observe(KEYS[0], np.array([1 / 3, 0.1, 0.7, 0.0]), 0.123456789)
    report = ContributionReport(source="n", version=1, contributions=node.contributions())
    found = ContributionReport.from_json(report.to_json())
    np.testing.assert_array_equal(found.contributions[0].gram, report.contributions[0].gram)
    assert contributions_from_json(contributions_to_json(report.contributions))[0].count == 1


def test_without_states_priors_and_assumed_prices_count():
    cards = (
        *CARDS[:2],
        AdapterCard(name="new", base_model="m", source="s", prior_utility=0.8, bytes=20_000_000),
    )
    found = joined(cards=cards)
    assert found.estimates.prior.tolist() == [0.5, 0.5, 0.8]
    assert found.versions == {}
    np.testing.assert_allclose(found.lowest_prices([])[2], CONFIG.utility_per_s * CONFIG.page_in_s * 2)


def test_the_surest_node_counts_adapter_by_adapter():
    one, other = core("one"), core("other")
    for _ in range(20):
        one.observe(KEYS[0], np.array([1.0, 0, 0, 0]), 1.0)
        other.observe(KEYS[1], np.array([1.0, 0, 0, 0]), 0.0)
    found = joined(("one", one), ("other", other))
    scored = found.estimates.scored(np.array([1.0, 0, 0, 0]))
    assert scored.mean[0] > 0.9
    assert scored.mean[1] < 0.1
    assert scored.mean[2] == 0.5
    assert scored.width[2] == 1.0
    assert found.versions == {"one": "one20", "other": "other20"}


def test_prices_are_those_of_usable_nodes():
    one, other = core("one"), core("other")
    one.loaded(KEYS[0])
    found = joined(("one", one), ("other", other))
    assert found.lowest_prices(["one", "other"])[0] == 0.0
    assert found.lowest_prices(["other"])[0] > 0.0
    assert found.lowest_prices(["stranger"])[0] > 0.0


def test_catalogues_of_nodes_may_differ_and_be_ordered_otherwise():
    node = core("one", keys=(KEYS[2], "9" * 64, KEYS[0]))
    for _ in range(20):
        node.observe(KEYS[2], np.array([1.0, 0, 0, 0]), 1.0)
    found = joined(("one", node))
    scored = found.estimates.scored(np.array([1.0, 0, 0, 0]))
    assert scored.mean[2] > 0.9
    assert scored.mean[0] == scored.mean[1] == 0.5


def test_it_is_made_anew_only_when_something_changed():
    states, node = LearnedStates(CONFIG), core()
    first = joined(("one", node), states=states)
    assert joined(("one", node), states=states) is first
    node.observe(KEYS[0], np.ones(4), 1.0)
    assert joined(("one", node), states=states) is not first
    states.keep([])
    assert states.heard == 0


def test_another_dimension_is_passed_over():
    states = LearnedStates(PagingConfig(dimension=8))
    states.take("one", state(core()))
    assert states.heard == 0


def test_what_a_node_wants_learnt_is_its_own():
    states = LearnedStates(CONFIG)
    states.take("one", state(core(), forced=KEYS[1]))
    found = states.joined("m", CARDS, 1, ["one"])
    assert found.wanted(["one"]) == 1
    assert found.wanted(["other"]) is None
