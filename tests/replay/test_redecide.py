"""A log written while the policies ran decides the same again; a log that was tampered with does not.

The records come from seeded synthetic fleets, so that every branch of the policies is met: full, failed and
draining replicas, ties, cached prefixes, busy and missing prefill replicas.
"""

import json
import random
from dataclasses import replace

import orjson
import pytest

from cluster.config.routing import DisaggregationConfig, ReplicaRoutingConfig, RoutingConfig
from cluster.entities.decision import Attempt, DecisionRecord, PathDecision, ReplicaDecision
from cluster.entities.pool import PoolName, ReplicaId, ReplicaPhase, ReplicaView, Role
from cluster.entities.reasons import Reason
from cluster.entities.routing import Path
from cluster.entities.timeline import Timeline
from cluster.entities.workload import RequestSignals, Surface
from cluster.policy.disaggregation import choose_path
from cluster.policy.routing.replicas.policies import POLICIES, choose_replica
from cluster.replay import DecisionLogError, Difference, read_log, redecide, to_json

ROUTING = RoutingConfig()
SEED = 20261123


def make_fleet(chance, role, size, now_s):
    return tuple(
        ReplicaView(
            replica_id=ReplicaId(f"{role}#{number}"),
            pool=PoolName(f"{role}-pool"),
            role=role,
            phase=ReplicaPhase.DRAINING if chance.random() < 0.1 else ReplicaPhase.READY,
            pending_prefill_tokens=chance.choice([0, 0, chance.randrange(60_000)]),
            requests_in_flight=chance.choice([0, 8, chance.randrange(9)]),
            decode_tokens=chance.randrange(50_000),
            cached_tokens=chance.choice([0, 0, chance.randrange(4000)]),
            prefill_tokens_per_s=chance.choice([1000.0, chance.uniform(300, 9000)]),
            max_concurrent_requests=8,
            put_aside_until_s=now_s + chance.uniform(-5, 5) if chance.random() < 0.2 else 0.0,
        )
        for number in range(size)
    )


def decide_replica(signals, candidates, now_s, draw, config=ROUTING.replicas, remembered=None):
    remembered = remembered or {}
    choice = choose_replica(signals, candidates, config, now_s=now_s, draw=draw, remembered=remembered)
    return ReplicaDecision(
        prompt_tokens=signals.prompt_tokens,
        candidates=candidates,
        decided_at_s=now_s,
        draw=draw,
        remembered=remembered,
        choice=choice,
    )


def make_record(chance, number):
    """What a router does with one request, as far as decisions go."""
    now_s = number * 0.037 + chance.random()
    signals = RequestSignals(
        surface=chance.choice(list(Surface)),
        model="m",
        tenant="t",
        prompt_tokens=chance.choice([20, 127, 128, chance.randrange(8000)]),
        block_hashes=(2**64 - 1, chance.getrandbits(64)),
        block_tokens=64,
        max_output_tokens=chance.choice([None, 0, 16]),
        splittable=chance.random() < 0.8,
    )
    decode = make_fleet(chance, Role.DECODE, chance.randrange(6), now_s)
    prefill = make_fleet(chance, Role.PREFILL, chance.randrange(4), now_s)
    replica = decide_replica(signals, decode, now_s, chance.random())
    chosen = next((view for view in decode if view.replica_id == replica.choice.replica_id), None)
    path_decision = prefill_decision = None
    if chosen is not None:
        choice = choose_path(signals, chosen, prefill, ROUTING.disaggregation, now_s=now_s)
        path_decision = PathDecision(decode=chosen, prefill=prefill, decided_at_s=now_s, choice=choice)
        if choice.path is Path.DISAGGREGATED:
            prefill_decision = decide_replica(signals, prefill, now_s, chance.random())
    return DecisionRecord(
        decision_id=f"d-{number}",
        router="router#1",
        at_wall_s=1.8e9 + now_s,
        signals=signals,
        cache="miss",
        path=path_decision.choice.path if path_decision else None,
        replica=replica,
        path_decision=path_decision,
        prefill=prefill_decision,
        attempts=(
            Attempt(
                replica_id="decode#0", role="decode", outcome="ok", started_at_s=now_s, ended_at_s=now_s + 1
            ),
        ),
        reasons=(Reason.ADMITTED,),
        status=200 if chosen else 503,
        timeline=Timeline(arrived_at_s=now_s, first_token_at_s=now_s + 0.1, ended_at_s=now_s + 1),
        prompt_tokens=signals.prompt_tokens,
        output_tokens=7,
        config_hash="abc",
    )


@pytest.fixture(scope="module")
def records():
    chance = random.Random(SEED)
    return [make_record(chance, number) for number in range(300)]


def write(path, records, dumps):
    path.write_text("".join(f"{dumps(to_json(record))}\n" for record in records), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "dumps", [json.dumps, lambda data: orjson.dumps(data).decode()], ids=["json", "orjson"]
)
def test_a_log_decides_the_same_again(tmp_path, records, dumps):
    log = write(tmp_path / "decisions.jsonl", records, dumps)
    with log.open(encoding="utf-8") as lines:
        again = list(read_log(lines))
    assert again == records
    assert [redecide(record, ROUTING) for record in again] == [()] * len(records)


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policys_choices_are_taken_again_with_what_it_remembered(records, policy):
    chance = random.Random(SEED)
    routing = RoutingConfig(replicas=ReplicaRoutingConfig(policy=policy))
    for record in records[:100]:
        asked = record.replica
        remembered = {view.replica_id: chance.randrange(500) / 7 for view in asked.candidates}
        decision = decide_replica(
            record.signals,
            asked.candidates,
            asked.decided_at_s,
            chance.random(),
            routing.replicas,
            remembered,
        )
        logged = replace(record, replica=decision, path_decision=None, prefill=None)
        line = json.dumps(to_json(logged)) + "\n"
        assert [redecide(again, routing) for again in read_log([line])] == [()]


def test_the_synthetic_fleets_meet_every_branch(records):
    reasons = {
        reason
        for record in records
        for part in (record.replica, record.path_decision, record.prefill)
        if part is not None
        for reason in part.choice.reasons
    }
    assert reasons >= {
        Reason.PROMPT_LONG,
        Reason.PROMPT_SHORT,
        Reason.PROMPT_CACHED_AT_DECODE,
        Reason.NO_PREFILL_REPLICA,
        Reason.PREFILL_BUSY,
        Reason.NOT_SPLITTABLE,
        Reason.NO_TOKENS_WANTED,
        Reason.LEAST_WORK,
        Reason.TIE_BROKEN_BY_CHANCE,
        Reason.ONLY_CANDIDATE,
        Reason.PREFIX_CACHED,
        Reason.NO_REPLICA,
        Reason.ALL_FULL,
        Reason.ALL_PUT_ASIDE,
    }, f"seed {SEED}"


def disaggregated(records):
    return next(record for record in records if record.prefill is not None and record.prefill.choice.scores)


def test_another_logged_choice_is_found(records):
    record = disaggregated(records)
    choice = replace(record.replica.choice, replica_id=ReplicaId("somebody-else"))
    found = redecide(replace(record, replica=replace(record.replica, choice=choice)), ROUTING)
    assert found == (
        Difference(
            decision="replica",
            field="replica_id",
            logged='"somebody-else"',
            redecided=json.dumps(record.replica.choice.replica_id),
        ),
    )


def test_the_last_bit_of_a_score_counts(records):
    record = disaggregated(records)
    scores = dict(record.prefill.choice.scores)
    first = next(iter(scores))
    scores[first] += 1e-12
    choice = replace(record.prefill.choice, scores=scores)
    found = redecide(replace(record, prefill=replace(record.prefill, choice=choice)), ROUTING)
    assert [(difference.decision, difference.field) for difference in found] == [("prefill", "scores")]


def test_another_input_is_found(records):
    record = disaggregated(records)
    busier = tuple(
        replace(view, pending_prefill_tokens=view.pending_prefill_tokens + 1)
        for view in record.replica.candidates
    )
    found = redecide(replace(record, replica=replace(record.replica, candidates=busier)), ROUTING)
    assert ("replica", "scores") in {(difference.decision, difference.field) for difference in found}


def test_another_configuration_shows_what_it_would_have_changed(records):
    off = RoutingConfig(disaggregation=DisaggregationConfig(enabled=False))
    found = redecide(disaggregated(records), off)
    assert [(d.decision, d.field, d.redecided) for d in found] == [
        ("path_decision", "path", '"combined"'),
        ("path_decision", "reasons", '["disaggregation_off"]'),
    ]
    heavier = RoutingConfig(replicas=ReplicaRoutingConfig(decode_weight_s=5.0))
    assert any(redecide(record, heavier) for record in records)


def lines_of(records):
    return [json.dumps(to_json(record)) + "\n" for record in records]


def test_a_torn_last_line_is_skipped(records):
    whole = lines_of(records[:3])
    torn = [*whole[:2], whole[2][: len(whole[2]) // 2]]
    assert list(read_log(torn)) == records[:2]


def test_a_last_line_that_only_lacks_its_line_break_is_read(records):
    whole = lines_of(records[:2])
    assert list(read_log([whole[0], whole[1].rstrip("\n")])) == records[:2]


def test_an_empty_log_has_no_records():
    assert list(read_log([])) == []


def test_a_broken_line_in_the_middle_is_an_error_with_its_number(records):
    whole = lines_of(records[:3])
    reading = read_log([whole[0], whole[1][:40] + "\n", whole[2]])
    assert next(reading) == records[0]
    with pytest.raises(DecisionLogError, match="line 2"):
        next(reading)


def test_a_complete_last_line_that_is_no_record_is_an_error(records):
    with pytest.raises(DecisionLogError, match="line 2"):
        list(read_log([*lines_of(records[:1]), '{"decision_id": \n']))
    with pytest.raises(DecisionLogError, match="line 1: record: expected an object, found 7"):
        list(read_log(["7\n"]))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("status", "200", 'record.status: expected int, found "200"'),
        ("status", True, "record.status: expected int, found true"),
        ("at_wall_s", None, "record.at_wall_s: expected float, found null"),
        (
            "path",
            "sideways",
            'record.path: expected one of cached, combined, disaggregated, found "sideways"',
        ),
        ("reasons", ["queued", "because"], r"record.reasons\[1\]: expected one of .*, found \"because\""),
        ("attempts", {}, "record.attempts: expected a list"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_where_it_is(records, key, value, message):
    line = json.dumps({**to_json(records[0]), key: value}) + "\n"
    with pytest.raises(DecisionLogError, match=message):
        list(read_log([line]))
