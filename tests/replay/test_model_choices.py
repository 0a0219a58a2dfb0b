"""Outcomes in all their forms are joined to their choices; what is wrong is named by its line."""

import json

import pytest

from cluster.entities.decision import DecisionRecord, ModelDecision
from cluster.entities.model_routing import FeedbackSource, ModelChoice, ModelOutcome, ModelSignals
from cluster.entities.timeline import Timeline
from cluster.entities.workload import RequestSignals, Surface
from cluster.replay import DecisionLogError, model_choices, to_json
from cluster.replay.codec import encode
from cluster.replay.model_choices import read_model_log


def read(*lines):
    return read_model_log(
        [("log", [line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines])]
    )


def journal_outcome(**fields):
    outcome = ModelOutcome(
        decision_id="d-1", model="m", signals=ModelSignals(tenant="t"), propensity=0.5, at_s=9.0, **fields
    )
    return {"sequence": 1, "outcome": encode(outcome)}


def journal_feedback(reward, source):
    feedback = {"decision_id": "d-1", "reward": reward, "source": source, "signal": "", "at_s": 10.0}
    return {"sequence": 2, "feedback": feedback}


def test_the_learners_journal_tells_cost_first_and_quality_later():
    known = read(
        journal_outcome(cost_usd=0.01, energy_j=5.0, latency_s=2.0), journal_feedback(0.7, "caller")
    ).outcomes["d-1"]
    assert (known.quality, known.cost_usd, known.energy_j, known.latency_s) == (0.7, 0.01, 5.0, 2.0)


@pytest.mark.parametrize("order", [("caller", "judge", "automatic"), ("automatic", "judge", "caller")])
def test_the_caller_is_trusted_most_whoever_speaks_last(order):
    said = {"caller": 0.1, "judge": 0.5, "automatic": 0.9}
    known = read(*(journal_feedback(said[source], source) for source in order)).outcomes["d-1"]
    assert known.quality == 0.1
    assert known.source is FeedbackSource.CALLER


def test_plain_lines_are_the_callers_and_the_later_one_counts():
    known = read({"decision_id": "d-1", "reward": 0.2}, {"decision_id": "d-1", "reward": 1}).outcomes["d-1"]
    assert (known.quality, known.source) == (1.0, FeedbackSource.CALLER)


def test_a_torn_last_line_is_skipped_and_one_in_the_middle_is_not():
    whole, torn = {"decision_id": "d-1", "reward": 1.0}, '{"decision_id": "d-2", "rew'
    assert set(read(whole, torn).outcomes) == {"d-1"}
    with pytest.raises(DecisionLogError, match="log, line 1"):
        read(torn + "\n", whole)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"reward": 1.0}, "decision_id is missing"),
        ({"decision_id": "d", "reward": 1.5}, "not between 0 and 1"),
        ({"decision_id": "d", "reward": "good"}, "no number"),
        ({"decision_id": "d", "reward": 1.0, "source": "me"}, "me"),
        ({"decision_id": "d", "signals": {}}, "missing field"),
        ([1], "not a JSON object"),
    ],
)
def test_names_the_line_that_is_wrong(line, words):
    with pytest.raises(DecisionLogError, match=f"log, line 2: .*{words}"):
        read({"decision_id": "d-1", "reward": 1.0}, line, {"decision_id": "d-2", "reward": 1.0})


def record(number, *, open_model=True):
    decision = ModelDecision(
        asked="auto",
        signals=ModelSignals(tenant="t"),
        candidates=(),
        decided_at_s=float(number),
        draw=0.5,
        choice=ModelChoice(model="m", policy="static", propensities={"m": 1.0}),
    )
    return to_json(
        DecisionRecord(
            decision_id=f"d-{number}",
            router="r",
            at_wall_s=float(number),
            signals=RequestSignals(
                surface=Surface.CHAT,
                model="m",
                tenant="t",
                prompt_tokens=8,
                max_output_tokens=None,
                stream=False,
            ),
            cache="bypass",
            model_choice=decision if open_model else None,
            status=200,
            timeline=Timeline(arrived_at_s=0.0),
            config_hash="0",
        )
    )


def test_choices_are_in_the_order_of_time_whatever_file_they_are_in():
    log = read_model_log(
        [("a", [json.dumps(record(2)) + "\n"]), ("b", [json.dumps(record(n)) + "\n" for n in (1, 3)])]
    )
    assert [name for name, _ in log.choices] == ["d-1", "d-2", "d-3"]


def test_requests_that_named_their_model_are_no_choices():
    assert [name for name, _ in read(record(1), record(2, open_model=False)).choices] == ["d-1"]


def test_of_too_many_choices_the_newest_are_read(monkeypatch):
    monkeypatch.setattr(model_choices, "CHOICES_MAX", 3)
    log = read(*(record(number) for number in (9, 1, 8, 2, 7, 3, 6, 4, 5)))
    assert [name for name, _ in log.choices] == ["d-7", "d-8", "d-9"]


def test_what_a_policy_would_have_learnt_holds_all_that_is_known():
    log = read(record(1), journal_outcome(cost_usd=0.5, latency_s=2.0), journal_feedback(0.7, "judge"))
    outcome = log.outcome(*log.choices[0])
    assert (outcome.quality, outcome.source, outcome.cost_usd) == (0.7, FeedbackSource.JUDGE, 0.5)
    assert (outcome.model, outcome.propensity, outcome.at_s) == ("m", 1.0, 3.0)
