"""`tidemill explain`: every decision of a record appears in words."""

from typing import Any

import pytest

from cluster.entities.decision import (
    Attempt,
    CascadeAnswer,
    DecisionRecord,
    ModelDecision,
    PathDecision,
    ReplicaDecision,
)
from cluster.entities.model_routing import Goal, ModelCandidate, ModelChoice, ModelSignals
from cluster.entities.pool import PoolName, ReplicaId, ReplicaView, Role
from cluster.entities.reasons import Reason
from cluster.entities.routing import Path, PathChoice, ReplicaChoice
from cluster.entities.timeline import Timeline
from cluster.entities.workload import RequestSignals, Surface
from cluster.replay import to_json
from cluster.replay.codec import encode
from operators.cli.console import CliError
from operators.cli.explain import explanation


def _view(name: str, in_flight: int) -> ReplicaView:
    return ReplicaView(
        replica_id=ReplicaId(name),
        pool=PoolName("decode-cpu"),
        role=Role.DECODE,
        requests_in_flight=in_flight,
        cached_tokens=32,
    )


def _record() -> dict[str, Any]:
    chosen, other, full = _view("d-1", 1), _view("d-2", 5), _view("d-3", 64)
    choice = ReplicaChoice(
        replica_id=ReplicaId("d-1"),
        scores={ReplicaId("d-2"): 0.9, ReplicaId("d-1"): 0.25},
        energies_j={ReplicaId("d-1"): 41.27},
        reasons=(Reason.LEAST_WORK, Reason.TIE_BROKEN_BY_CHANCE),
        propensity=0.5,
    )
    return to_json(
        DecisionRecord(
            decision_id="d-7",
            router="router-a",
            at_wall_s=1.0,
            signals=RequestSignals(
                surface=Surface.CHAT,
                model="m",
                tenant="t-1",
                prompt_tokens=480,
                max_output_tokens=12,
                stream=True,
            ),
            cache="miss",
            path=Path.COMBINED,
            replica=ReplicaDecision(
                prompt_tokens=480,
                candidates=(other, chosen, full),
                decided_at_s=10.0,
                draw=0.1,
                choice=choice,
            ),
            path_decision=PathDecision(
                decode=chosen,
                prefill=(),
                decided_at_s=10.0,
                choice=PathChoice(path=Path.DISAGGREGATED, reasons=(Reason.PROMPT_LONG,)),
            ),
            attempts=(
                Attempt(
                    replica_id="p-1",
                    role="prefill",
                    outcome="failed",
                    reason=Reason.PREFILL_TIMED_OUT,
                    started_at_s=10.1,
                    ended_at_s=11.1,
                ),
            ),
            reasons=(Reason.RETRIED,),
            status=200,
            timeline=Timeline(
                arrived_at_s=10.0,
                dispatched_at_s=10.05,
                first_token_at_s=11.5,
                ended_at_s=12.6,
                output_tokens=12,
            ),
            prompt_tokens=486,
            cached_tokens=32,
            output_tokens=12,
            config_hash="h",
        )
    )


def _line(start: str) -> str:
    return next(line for line in explanation(_record()) if line.startswith(start))


def test_what_was_asked_and_the_cache() -> None:
    assert "/v1/chat/completions for m: about 480 prompt tokens, at most 12 out, streamed" in _line("asked")
    assert _line("cache").split() == ["cache", "miss"]


def test_path_with_its_reason_and_what_changed_it() -> None:
    lines = explanation(_record())
    assert "path     combined (prompt long)" in lines
    assert any("first chosen: disaggregated" in line for line in lines)
    assert _line("attempt 1") == "attempt 1: prefill on p-1: failed (prefill timed out), 0.100 s to 1.100 s"


def test_candidates_stand_best_first_with_their_scores() -> None:
    lines = explanation(_record())
    start = next(number for number, line in enumerate(lines) if line.startswith("replica:"))
    assert lines[start] == "replica: d-1 (least work, tie broken by chance, picked with probability 0.50)"
    first, second, third = lines[start + 1 : start + 4]
    assert first.split()[:4] == ["→", "0.250", "s", "d-1"]
    assert first.endswith("ready, 41.3 J")
    assert "in flight 5/64" in second
    assert second.endswith("ready")
    assert "filtered out" in third


def _with_a_choice(**changes: Any) -> dict[str, Any]:
    data = _record()
    candidates = (
        ModelCandidate(model="big", cost_usd=0.002, energy_j=120.0, ttft_s=0.5),
        ModelCandidate(model="small", cost_usd=0.0001, energy_j=9.0, ttft_s=0.1),
        ModelCandidate(model="gone", usable=False),
    )
    decision = ModelDecision(
        asked="auto:cheap",
        signals=ModelSignals(
            goal=Goal.CHEAP,
            tenant="t-1",
            category="math",
            category_confidence=0.83,
            language="en",
            complexity=0.25,
            turns=2,
            hints=(("task", "sum"),),
            embedding=(1.0,),
        ),
        candidates=candidates,
        decided_at_s=1.0,
        draw=0.5,
        choice=ModelChoice(
            model="small",
            policy="linucb",
            version=41,
            scores={"big": 0.2, "small": 0.7},
            propensities={"big": 0.01, "small": 0.99},
            reasons=(Reason.HIGHEST_SCORE,),
        ),
    )
    return {**data, "model_choice": encode(decision), **changes}


def test_the_choice_of_a_model_with_everything_it_was_made_from() -> None:
    lines = explanation(_with_a_choice())
    start = next(number for number, line in enumerate(lines) if line.startswith("model"))
    assert lines[start] == (
        "model    small for 'auto:cheap' by linucb, state 41 (highest score, picked with probability 0.99)"
    )
    assert (
        "goal cheap, category math (0.83), language en, complexity 0.25, turn 2, hint task=sum"
        in lines[start + 1]
    )
    first, second, third = lines[start + 2 : start + 5]
    assert first.split()[:4] == ["→", "score", "0.700", "small"]
    assert "picked with 0.01, about $0.002, 120 J, TTFT 0.500 s" in second
    assert third.startswith("    not scored  gone")
    assert third.endswith("not usable")


def test_every_model_of_a_cascade_has_its_line() -> None:
    answers = [
        CascadeAnswer(
            model=model,
            grade=grade,
            accepted=accepted,
            reasons=(reason,),
            prompt_tokens=10,
            output_tokens=3,
            cost_usd=0.001,
            started_at_s=1.0,
            ended_at_s=2.0,
        )
        for model, grade, accepted, reason in (
            ("small", 0.125, False, Reason.BETTER_MODEL_EXPECTED),
            ("big", None, True, Reason.ANSWER_GOOD_ENOUGH),
        )
    ]
    lines = explanation(_with_a_choice(cascade=[encode(answer) for answer in answers]))
    assert (
        "cascade 1: small, graded 0.12, not sent (better model expected); 10 tokens in, 3 out, $0.001"
        in lines
    )
    assert "cascade 2: big, not graded, sent (answer good enough); 10 tokens in, 3 out, $0.001" in lines


def test_latencies_and_tokens() -> None:
    assert _line("time") == "time     dispatched after 0.050 s, TTFT 1.500 s, TPOT 100.0 ms, e2e 2.600 s"
    assert _line("tokens") == "tokens   486 in (32 of them in the prefix cache), 12 out"


def test_a_request_that_got_nothing() -> None:
    record = _record()
    record.update(path=None, replica=None, path_decision=None, attempts=[], status=503, error="no_replica")
    record["timeline"].update(first_token_at_s=None, dispatched_at_s=None, ended_at_s=None)
    record.update(prompt_tokens=None, cached_tokens=None, output_tokens=0)
    lines = explanation(record)
    assert "path     none: nothing was answered" in lines
    assert "status   503, error no_replica" in lines
    assert "tokens   unknown in, 0 out" in lines


def test_a_record_of_another_version_is_one_clear_error() -> None:
    with pytest.raises(CliError, match="cannot be read by this version"):
        explanation({"decision_id": "x"})
