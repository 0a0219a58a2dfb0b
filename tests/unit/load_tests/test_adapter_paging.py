"""The adapter-paging benchmark: its worlds, its oracles, its accounts, its output."""

import json
from itertools import combinations

import numpy as np
import pytest

from cluster.config.paging import PagingConfig
from load_tests import adapter_decisions, adapter_paging
from load_tests.paging.cases import CASES, Entry
from load_tests.paging.oracles import belady_value, effective, static_values
from load_tests.paging.report import interval, recovery_requests, slope, summary
from load_tests.paging.run import run
from load_tests.paging.world import Case, world

SMALL = Case(name="small", adapters=6, planned_slots=2, dimension=6, requests=400)


def test_a_seed_gives_one_world():
    one, again, other = world(SMALL, 1), world(SMALL, 1), world(SMALL, 2)
    assert np.array_equal(one.x, again.x)
    assert np.array_equal(one.utility, again.utility)
    assert not np.array_equal(one.x, other.x)
    assert np.linalg.norm(one.x, axis=1) == pytest.approx(1.0)
    assert one.utility.min() >= 0
    assert one.utility.max() <= 1


def test_specialists_are_best_at_their_tasks_and_generalists_are_even():
    found = world(Case(name="c", requests=2000), 3)
    assert (found.utility[:, :3].std(axis=0) < 1e-9).all()
    assert (found.utility.max(axis=1) > 0.7).mean() > 0.95
    assert len(set(found.utility.argmax(axis=1).tolist())) >= 10


def test_shapes_change_what_they_say():
    shifts = world(Case(name="c", shape="shifts", requests=4000), 0)
    best = shifts.utility.argmax(axis=1)
    assert shifts.shifts == (1000, 2000, 3000)
    parts = [np.bincount(best[start : start + 1000], minlength=15).argmax() for start in range(0, 4000, 1000)]
    assert len(set(parts)) > 1
    late = world(Case(name="c", shape="new_adapters", requests=1000), 0)
    assert sorted(late.arrives.tolist())[-3:] == [300, 500, 700]
    assert np.isneginf(effective(late)[299, late.arrives > 299]).all()
    named = world(Case(name="c", named_share=0.5, requests=1000), 0)
    assert (named.named >= 0).mean() == pytest.approx(0.5, abs=0.05)
    assert (np.isfinite(effective(named)[named.named >= 0]).sum(axis=1) == 1).all()


def test_the_static_oracle_is_the_best_of_all_sets():
    found = world(SMALL, 5)
    utility = effective(found)
    paged = (utility - found.price).max(axis=1)
    best = max(
        np.maximum(utility[:, list(rows)].max(axis=1), paged).mean()
        for rows in combinations(range(SMALL.adapters), SMALL.planned_slots)
    )
    assert static_values(SMALL, found).mean() == pytest.approx(best)


def test_the_large_static_oracle_is_close_to_the_exact_one(monkeypatch):
    case = Case(name="c", requests=1000)
    found = world(case, 6)
    exact = static_values(case, found).mean()
    monkeypatch.setattr("load_tests.paging.oracles._EXACT_SETS_MAX", 0)
    assert exact - 0.002 <= static_values(case, found).mean() <= exact + 1e-12


def test_knowing_the_future_is_worth_more_than_an_unchanging_set_where_popularity_shifts():
    case = Case(name="c", shape="shifts", requests=2000)
    found = world(case, 1)
    assert belady_value(case, found) > static_values(case, found).mean() + 0.01


@pytest.mark.parametrize("policy", ["lru", "hybrid"])
def test_accounts_add_up(policy):
    found = world(SMALL, 2)
    outcome = run(SMALL, found, PagingConfig(policy=policy, dimension=SMALL.dimension))
    # everything got some adapter's utility less page-ins, each at a price between the extremes
    highest, lowest = found.utility.max(axis=1).sum(), found.utility.min(axis=1).sum()
    assert lowest - outcome.page_ins * found.price.max() <= outcome.net.sum()
    assert outcome.net.sum() <= highest - outcome.page_ins * found.price.min()
    assert outcome.page_ins >= 1
    again = run(SMALL, found, PagingConfig(policy=policy, dimension=SMALL.dimension))
    assert np.array_equal(again.net, outcome.net)


def test_learning_with_sparse_and_late_judgements_is_slower():
    def late_loss(**changes):
        case = Case(name="c", requests=1500, **changes)
        found = world(case, 0)
        outcome = run(case, found, Entry(policy="hybrid", router="amortised").config(case))
        return (found.utility.max(axis=1) - outcome.net).mean()

    assert late_loss() < late_loss(feedback_share=0.05)
    assert late_loss() < late_loss(feedback_delay_requests=700)


def test_the_report_computes_what_it_says():
    assert slope([1, 2, 4], [3, 6, 12]) == pytest.approx(1.0)
    assert slope([1, 4, 16], [1, 2, 4]) == pytest.approx(0.5)
    assert slope([1, 2], [0.0, 1.0]) is None
    low, high = interval(np.array([1.0, 2.0, 3.0, 4.0]))
    assert 1 < low < 2.5 < high < 4
    loss = np.concatenate([np.zeros(500), np.ones(200), np.zeros(800)])
    assert recovery_requests(loss, (500,)) == pytest.approx(200, abs=5)
    assert recovery_requests(loss, ()) is None
    rows = [
        {
            "case": "c",
            "policy": policy,
            "router": router,
            "seed": seed,
            "regret_per_request": base + seed,
            "regret_belady_per_request": base,
            "net_utility_per_request": 0.5,
            "page_ins_per_1000": 10.0,
            "decision_p50_s": 1e-5,
        }
        for policy, router, base in (("hybrid", "amortised", 0.0), ("lru", "oblivious", 0.25))
        for seed in range(4)
    ]
    hybrid, lru = summary(rows)
    assert lru["regret_less_hybrid"] == pytest.approx(0.25)
    assert lru["regret_less_hybrid_ci95"] == pytest.approx([0.25, 0.25])
    assert hybrid["regret_less_lru"] == pytest.approx(-0.25)


def test_the_command_prints_one_json_object(capsys, monkeypatch):
    monkeypatch.setattr(adapter_paging, "CASES", {"small": (SMALL, "own")})
    # git and the processor's name are another's business, and reading them waits
    monkeypatch.setattr(adapter_paging, "circumstances", lambda _config: {})
    adapter_paging.main(["--policies", "lru,hybrid", "--seeds", "2", "--json"])
    result = json.loads(capsys.readouterr().out)
    assert result["benchmark"] == "adapter_paging"
    assert {(row["policy"], row["router"], row["seed"]) for row in result["rows"]} == {
        (policy, router, seed)
        for policy, router in (("lru", "oblivious"), ("lru", "amortised"), ("hybrid", "amortised"))
        for seed in range(2)
    }
    assert all(np.isfinite(row["regret_per_request"]) for row in result["rows"])
    with pytest.raises(SystemExit):
        adapter_paging.main(["--cases", "nothing"])


def test_every_case_can_be_drawn():
    for case, _ in CASES.values():
        found = world(case, 0)
        assert found.x.shape == (case.requests, case.dimension)
        assert np.isfinite(found.utility).all()


def test_decisions_are_timed_on_request(capsys, monkeypatch):
    monkeypatch.setattr(adapter_paging, "circumstances", lambda _config: {})
    monkeypatch.setattr(adapter_decisions, "_LEARNT", 70)
    monkeypatch.setattr(adapter_decisions, "_TIMED", 70)
    assert adapter_paging.main(["--decisions", "20", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["policy"] for row in found["rows"]] == ["router_choice", "node_decision", "plan_afresh"]
    assert all(0 < row["decision_p50_s"] <= row["decision_p99_s"] for row in found["rows"])
