"""`POST /v1/feedback` and automatic signals: what is learnt from, what is refused, and what moves traffic."""

import asyncio
import random
from collections import Counter

import pytest

from deployments.model_learning.interface import LearnerAwayError
from deployments.router.models import learning

LEARNING = {
    "models": {"sim": {"source": "simulated", "aliases": []}, "vast": {"source": "simulated"}},
    "pools": {"vast": {"model": "vast", "engine": {"kind": "simulated", "step_base_s": 0.001}}},
    "routing": {
        "models": {
            "policy": "linucb",
            "goals": {"balanced": {"cost": 0.0, "latency": 0.0, "energy": 0.0}},
            "exploration_share": 0.3,
        },
        "learning": {"publish_period_s": 0.01, "automatic": {"retry_weight": 0.5}},
    },
}


@pytest.fixture
async def two(start_cluster, monkeypatch):
    """Two models and a bandit that has learnt nothing."""
    monkeypatch.setattr(learning, "_GATHER_S", 0.005)
    monkeypatch.setattr(learning, "_ASK_AGAIN_S", 0.02)
    cluster = await start_cluster(LEARNING)
    cluster.core.models._draw = random.Random(3).random
    return cluster


async def ask(cluster, text="hello", **fields):
    answer = await cluster.chat(text, model="auto", max_tokens=3, **fields)
    assert answer.status == 200, answer.content
    return answer


def decision_id(answer):
    return answer.headers["x-tidemill-decision-id"]


async def judge(cluster, answer, reward, **fields):
    body = {"decision_id": decision_id(answer), "reward": reward, **fields}
    return await cluster.post("/v1/feedback", body)


async def version(cluster):
    return (await cluster.learner.overview())["version"]


async def test_feedback_right_after_the_answer_counts_once(two):
    answer = await ask(two)
    told = await judge(two, answer, 1)
    assert told.status == 200
    assert told.json == {
        "object": "feedback",
        "decision_id": decision_id(answer),
        "reward": 1.0,
        "source": "caller",
        "status": "counted",
    }
    before = await version(two)
    assert (await judge(two, answer, 1.0)).json["status"] == "repeated"
    refused = await judge(two, answer, 0.5)
    assert (refused.status, refused.json["error"]["code"]) == (409, "feedback_conflict")
    assert (await judge(two, answer, 0.5, source="judge")).json["status"] == "counted"
    assert await version(two) == before + 1
    line = 'tidemill_feedback_total{result="repeated",source="caller"}'
    assert await two.metric(line) == 1


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"{", None),
        (b"[]", None),
        ({"reward": 1}, "decision_id"),
        ({"decision_id": 7, "reward": 1}, "decision_id"),
        ({"decision_id": "x" * 5000, "reward": 1}, "decision_id"),
        ({"decision_id": "d-0190a1b2c3d4-0123456789"}, "reward"),
        ({"decision_id": "d-0190a1b2c3d4-0123456789", "reward": True}, "reward"),
        ({"decision_id": "d-0190a1b2c3d4-0123456789", "reward": 1.01}, "reward"),
        ({"decision_id": "d-0190a1b2c3d4-0123456789", "reward": "good"}, "reward"),
        ({"decision_id": "d-0190a1b2c3d4-0123456789", "reward": 1, "source": "automatic"}, "source"),
        ({"decision_id": "d-0190a1b2c3d4-0123456789", "reward": 1, "sauce": "caller"}, "sauce"),
    ],
)
async def test_malformed_feedback_is_refused_in_openai_s_shape(two, body, param):
    told = await two.post("/v1/feedback", body)
    assert told.status == 400
    assert told.json["error"]["type"] == "invalid_request_error"
    assert told.json["error"]["param"] == param


async def test_an_unknown_decision_is_404_and_only_post_is_there(two):
    told = await two.post("/v1/feedback", {"decision_id": "d-0190a1b2c3d4-0123456789", "reward": 1})
    assert (told.status, told.json["error"]["code"]) == (404, "decision_not_found")
    assert (await two.get("/v1/feedback")).status == 405


async def test_a_named_model_and_a_stored_answer_are_nothing_to_learn_from(two):
    named = await two.chat("hi", model="sim", max_tokens=3)
    assert (await judge(two, named, 1)).status == 404
    for _ in range(2):
        stored = await ask(two, temperature=0)
    assert stored.headers["x-tidemill-cache"] == "exact"
    assert (await judge(two, stored, 1)).status == 404


async def test_feedback_moves_traffic(two):
    """The reward says which model answered; after some of it nearly all that is not explored goes there."""
    asked = Counter()
    for number in range(60):
        answer = await ask(two, f"question {number}")
        model = answer.headers["x-tidemill-model"]
        asked[number >= 30, model] += 1
        assert (await judge(two, answer, float(model == "vast"))).status == 200
    assert asked[True, "vast"] >= 20, asked
    final = await two.decision(answer)
    choice = final["model_choice"]["choice"]
    assert choice["version"] >= 100
    assert choice["propensities"]["vast"] == pytest.approx(0.85)
    assert choice["scores"]["vast"] > choice["scores"]["sim"]


async def test_routing_goes_on_while_the_learner_is_away_and_nothing_is_lost(two, monkeypatch):
    before = await version(two)
    take, judged, watch = two.learner.take, two.learner.judge, two.learner.watch

    async def away(*_):
        raise LearnerAwayError("killed on purpose")

    for name in ("take", "judge", "watch"):
        monkeypatch.setattr(two.learner, name, away)
    answers = [await ask(two, f"meanwhile {number}") for number in range(5)]
    told = await judge(two, answers[0], 1)
    assert told.status == 503
    assert int(told.headers["retry-after"]) >= 1
    for name, method in (("take", take), ("judge", judged), ("watch", watch)):
        monkeypatch.setattr(two.learner, name, method)
    assert (await judge(two, answers[0], 1)).status == 200
    assert await version(two) == before + 6


async def test_the_learner_is_told_what_an_answer_took_and_what_it_was_said_to_take(two):
    answer = await ask(two)
    await judge(two, answer, 1)
    (entry,) = two.learner._learner.pending
    said = {c["model"]: c for c in (await two.decision(answer))["model_choice"]["candidates"]}
    outcome = entry.outcome
    assert outcome.predicted_energy_j == said[outcome.model]["energy_j"] > 0
    assert outcome.latency_s >= outcome.ttft_s > 0
    assert outcome.propensity > 0


async def test_a_full_outbox_drops_and_counts(start_cluster, monkeypatch):
    routing = {**LEARNING["routing"], "learning": {"outbox_max": 2}}
    cluster = await start_cluster({**LEARNING, "routing": routing})

    async def away(*_):
        raise LearnerAwayError("away")

    monkeypatch.setattr(cluster.learner, "take", away)
    for number in range(5):
        await ask(cluster, f"question {number}")
    assert await cluster.metric("tidemill_model_outcomes_dropped_total") == 3


async def test_asking_the_same_again_speaks_against_the_first_answer(two):
    first = await ask(two, "Why?")
    await ask(two, "Something else")
    await ask(two, "Why?")
    await two.chat("Why?", model="auto", max_tokens=3, headers={"authorization": "Bearer other"})

    async def known():
        entries = {entry.outcome.decision_id: entry for entry in two.learner._learner.pending}
        return len(entries) == 4 and {name: entry.rewards for name, entry in entries.items()}

    for _ in range(200):
        found = await known()
        if found and found[decision_id(first)]:
            break
        await asyncio.sleep(0.01)
    assert found[decision_id(first)] == {"automatic:retry": 0.5}
    assert sum(map(bool, found.values())) == 1, "another tenant's words are nobody's retry"


async def test_an_answer_that_is_not_the_json_asked_for_counts_as_bad(two):
    """The simulated engine answers in words, whatever the format."""
    for stream in (False, True):
        answer = await ask(
            two, f"Give me JSON {stream}", stream=stream, response_format={"type": "json_object"}
        )
        await judge(two, answer, 1)
        (entry,) = [e for e in two.learner._learner.pending if e.outcome.decision_id == decision_id(answer)]
        assert entry.rewards == {"automatic:format": 0.0, "caller": 1.0}
