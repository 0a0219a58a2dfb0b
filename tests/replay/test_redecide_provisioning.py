"""A provisioner's log decides the same again, by every policy; what was changed since is noticed.

The logs come from a seeded synthetic fleet that does what it is told: demand that rises, falls and stops,
replicas that start late, hardware that goes missing, news that grow stale.
"""

import functools
import json
import random

import pytest

from cluster.config import parse_config
from cluster.entities.energy import EnergySource
from cluster.entities.fleet import (
    FleetSnapshot,
    ModelBacklog,
    PoolObservation,
    ProvisionerState,
    ReplicaObservation,
    ReplicaStage,
)
from cluster.entities.reasons import Reason
from cluster.performance.profiles import pool_performance
from cluster.policy.observation import DemandTally
from cluster.policy.provisioning import commitment, forecast
from cluster.policy.provisioning.baselines import (
    behaviour,
    interpolation,
    ongoing_requests,
    two_pool,
    utilisation,
)
from cluster.policy.provisioning.policies import POLICIES, policy_named
from cluster.replay import DecisionLogError
from cluster.replay.provisioning import (
    CHECKPOINT_RECORDS,
    decided,
    header_line,
    record_line,
    record_of,
    redecide_log,
    state_of,
    state_text,
)
from operators.cli.replay import replay
from operators.provisioner.journal import LOG_NAME, Journal

SEED = 20261124
PERIOD_S = 20.0
CONFIG = parse_config("""
models:
  a: {source: s, architecture: llama-3.1-8b, slo: {ttft_s: 2.0, tpot_s: 0.1, attainment: 0.95}}
  b: {source: s, architecture: llama-3.1-8b}
pools:
  a-h100: {model: a, gpu_type: H100, replicas: {min: 0, max: 6, initial: 2}, max_concurrent_requests: 64}
  a-l4: {model: a, gpu_type: L4, replicas: {min: 0, max: 6}, max_concurrent_requests: 8}
  b-decode: {model: b, role: decode, gpu_type: A100, replicas: {min: 1, max: 4}}
  b-prefill: {model: b, role: prefill, gpu_type: H100, replicas: {min: 1, max: 3}}
provisioning:
  period_s: 20
  power_caps: [{from_hour: 6, to_hour: 7, watts: 2500}]
""")
PERFORMANCE = {name: pool_performance(pool, CONFIG.models[pool.model]) for name, pool in CONFIG.pools.items()}


class Fleet:
    """Does what plans say, late, and reports what came of it."""

    def __init__(self, seed=SEED):
        self.chance = random.Random(seed)
        self.now_s = 5.95 * 3600.0  # The power cap begins after three minutes.
        self.tally = DemandTally(CONFIG)
        self.since_s = {name: [0.0] * pool.replicas.start for name, pool in CONFIG.pools.items()}
        self.wanted = {name: pool.replicas.start for name, pool in CONFIG.pools.items()}
        self.number = 0

    def snapshot(self):
        self.now_s += PERIOD_S
        self.number += 1
        rate_per_s = (2.0, 30.0, 6.0, 0.0)[self.number // 15 % 4]
        for model in ("a", "b"):
            for _ in range(int(rate_per_s * PERIOD_S * self.chance.uniform(0.7, 1.3))):
                prompt = self.chance.choice([50, 400, 1500, 9000])
                self.tally.arrived(model, prompt)
                self.tally.completed(model, prompt, prompt // 3, self.chance.randrange(1, 400), slo_met=True)
        return FleetSnapshot(
            observed_at_s=self.now_s,
            pools=tuple(self._pool(name, rate_per_s) for name in sorted(CONFIG.pools)),
            demand=self.tally.take(self.now_s - PERIOD_S, self.now_s),
            backlog=tuple(
                ModelBacklog(model=model, requests=self.chance.choice([0, 0, 40])) for model in ("a", "b")
            ),
        )

    def apply(self, plan):
        for target in plan.pools:
            since_s = self.since_s[target.pool]
            self.wanted[target.pool] = target.replicas
            more = max(0, target.replicas - len(since_s))
            self.since_s[target.pool] = (since_s + [self.now_s] * more)[: target.replicas]

    def _pool(self, name, rate_per_s):
        settings = CONFIG.pools[name]
        lost = name == "a-h100" and 40 <= self.number < 60
        stale = 70 <= self.number < 80
        return PoolObservation(
            pool=name,
            model=settings.model,
            role=settings.role,
            gpu_type=settings.gpu_type,
            replicas=tuple(
                ReplicaObservation(
                    replica_id=f"{name}-{number}",
                    stage=ReplicaStage.READY
                    if self.now_s - since_s >= PERFORMANCE[name].start_s
                    else ReplicaStage.STARTING,
                    requests_running=self.chance.randrange(int(rate_per_s) * 2 + 1),
                    requests_waiting=self.chance.choice([0, 0, 3]),
                    kv_cache_usage=self.chance.random(),
                    since_s=since_s,
                )
                for number, since_s in enumerate(self.since_s[name])
            ),
            replicas_wanted=self.wanted[name],
            replicas_placeable=1 if lost else None,
            unplaced_since_s=self.now_s - 200.0 if lost else None,
            performance=PERFORMANCE[name],
            power_w=self.chance.uniform(100.0, 3000.0),
            power_source=EnergySource.MODELLED,
            reported_at_s=self.now_s - (300.0 if stale else 1.0),
        )


def decisions(name, count=130):
    """(snapshot, state before, decision), one after the other."""
    fleet, state = Fleet(), ProvisionerState()
    for _ in range(count):
        snapshot = fleet.snapshot()
        decision = POLICIES[name](snapshot, state, CONFIG)
        fleet.apply(decision.plan)
        yield snapshot, state, decision
        state = decision.state


@functools.cache
def log_of(name, count=130):
    lines = [header_line(name, CONFIG)]
    for number, (snapshot, before, decision) in enumerate(decisions(name, count)):
        checkpoint = number % CHECKPOINT_RECORDS == 0
        lines.append(record_line(snapshot, decision, state_before=before if checkpoint else None))
    return tuple(lines)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_decides_the_same_again(name):
    again = list(redecide_log(log_of(name)))
    assert [found.line for found in again] == list(range(2, 132))
    assert [found for found in again if found.difference] == []
    wanted = {
        tuple(target["replicas"] for target in json.loads(line)["decided"]["plan"]["pools"])
        for line in log_of(name)[1:]
    }
    assert len(wanted) > 1, f"nothing happened, seed {SEED}"


@pytest.mark.parametrize(
    ("name", "module", "constant", "value"),
    [
        ("unit_commitment", forecast, "_ERROR_START", 0.77),
        ("utilisation", utilisation, "TARGET", 0.71),
        ("queue_length", behaviour, "SCALE_DOWN_WINDOW_S", 240.0),
        ("ongoing_requests", ongoing_requests, "DOWNSCALE_DELAY_S", 300.0),
        ("interpolation", interpolation, "ADJUSTMENT_INTERVAL_S", 200.0),
        ("two_pool", two_pool, "FIRST_S", 100.0),
    ],
)
def test_a_rule_that_was_changed_since_is_noticed(monkeypatch, name, module, constant, value):
    lines = log_of(name)  # Before the change, in whatever order the tests come.
    monkeypatch.setattr(module, constant, value)
    assert any(found.difference for found in redecide_log(lines))


def _edited(lines, number, change):
    data = json.loads(lines[number])
    change(data)
    return [*lines[:number], json.dumps(data) + "\n", *lines[number + 1 :]]


def test_another_logged_plan_is_found_at_its_line():
    lines = _edited(
        log_of("utilisation"), 7, lambda data: data["decided"]["plan"]["pools"][0].update(replicas=5)
    )
    (found,) = [found for found in redecide_log(lines) if found.difference]
    assert found.line == 8
    assert found.difference.startswith('plan: logged {"degraded"')


def test_another_logged_state_is_found_by_its_hash():
    lines = _edited(log_of("utilisation"), 7, lambda data: data["decided"].update(state_sha256="0" * 64))
    (found,) = [found for found in redecide_log(lines) if found.difference]
    assert found.difference.startswith('state_sha256: logged "000')


def test_the_last_bit_of_an_observation_counts():
    def nudge(data):
        for demand in data["snapshot"]["demand"]["classes"]:
            demand["prompt_tokens_squared"] *= 1.0 + 2**-40

    lines = _edited(log_of("unit_commitment"), 3, nudge)
    assert next(found.line for found in redecide_log(lines) if found.difference) == 4


def test_a_torn_last_line_is_skipped():
    lines = log_of("utilisation")
    assert len(list(redecide_log([*lines[:5], lines[5][:-1]]))) == 4
    assert len(list(redecide_log([*lines[:5], lines[5][:40]]))) == 4


def test_a_log_whose_beginning_is_gone_is_taken_up_at_the_next_checkpoint():
    lines = log_of("unit_commitment")
    found = list(redecide_log([lines[0], *lines[30:]]))
    assert len(found) == 130 - CHECKPOINT_RECORDS
    assert [each.difference for each in found] == [None] * len(found)


@pytest.mark.parametrize("name", POLICIES)
def test_another_policy_may_be_asked_what_it_would_have_done(name):
    found = list(redecide_log(log_of("static_peak")[:31], policy=name))
    assert len(found) == 30
    assert any(each.difference for each in found) == (name != "static_peak")


@pytest.mark.parametrize(
    ("before", "line", "message"),
    [
        (
            0,
            '{"tidemill_provisioning": 99, "policy": "utilisation", "config": {}}',
            "line 1: format 99 is not 1",
        ),
        (0, '{"tidemill_provisioning": 1, "policy": "magic", "config": {}}', "line 1: no policy 'magic'"),
        (
            0,
            '{"tidemill_provisioning": 1, "policy": "utilisation", "config": {"pools": 3}}',
            "line 1: config:\n  models: missing",
        ),
        (0, '{"snapshot": 1}', "line 1: record: missing field decided"),
        (1, "[]", "line 2: record: expected an object"),
        (1, "{", "line 2: "),
        (
            3,
            '{"snapshot": {}, "decided": {}, "state_before": null}',
            "line 4: record.snapshot: missing field",
        ),
    ],
)
def test_what_cannot_be_read_is_refused_where_it_is(before, line, message):
    with pytest.raises(DecisionLogError, match=message):
        list(redecide_log([*log_of("utilisation")[:before], line + "\n"]))


def test_a_decision_before_any_header_is_refused():
    with pytest.raises(DecisionLogError, match="line 1: a decision before any header"):
        list(redecide_log(log_of("utilisation")[1:]))


@pytest.mark.parametrize("name", POLICIES)
def test_records_and_states_survive_their_text(name):
    for snapshot, before, decision in decisions(name, 40):
        text = record_line(snapshot, decision, state_before=before)
        record = record_of(json.loads(text))
        assert (record.snapshot, record.state_before, record.decided) == (snapshot, before, decided(decision))
        assert state_of(state_text(decision.state)) == decision.state


def test_a_state_of_another_version_is_refused():
    with pytest.raises(DecisionLogError, match="state: missing field"):
        state_of("{}")
    with pytest.raises(DecisionLogError):
        state_of("{")


# What the provisioner writes, with restarts and a torn end, through the command


def _run(folder, config, count, *, restart_every):
    """What the provisioner does, dying in the middle of a line."""
    fleet, journal, state = Fleet(), None, ProvisionerState()
    for number in range(count):
        if number % restart_every == 0:
            if journal is not None:
                with (folder / LOG_NAME).open("a", encoding="utf-8") as log:
                    log.write('{"snapshot": {"obser')
            journal = Journal(folder, config, "utilisation")
            state = journal.restore()
        snapshot = fleet.snapshot()
        decision = POLICIES["utilisation"](snapshot, state, config)
        journal.write(snapshot, state, decision)
        fleet.apply(decision.plan)
        state = decision.state


def _replayed(log, capsys):
    assert replay(log, config_path=None, policy=None, json_output=True) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["different"] == 0
    return said["decisions"]


@pytest.mark.timeout(60)  # Every record is synced to the disk.
def test_a_journal_with_restarts_decides_the_same_again(tmp_path, capsys):
    _run(tmp_path, CONFIG, 100, restart_every=37)
    assert _replayed(tmp_path / LOG_NAME, capsys) == 100


@pytest.mark.timeout(60)  # Every record is synced to the disk.
def test_a_journal_stays_bounded_and_both_halves_decide_the_same_again(tmp_path, capsys):
    data = CONFIG.model_dump(mode="json")
    data["provisioning"]["log_records_max"] = 100
    _run(tmp_path, type(CONFIG).model_validate(data), 120, restart_every=1000)
    assert sorted(path.name for path in tmp_path.glob("*.jsonl")) == ["decisions.1.jsonl", LOG_NAME]
    assert _replayed(tmp_path / "decisions.1.jsonl", capsys) == 50
    assert _replayed(tmp_path / LOG_NAME, capsys) == 20


def test_the_command_says_which_decision_differs(tmp_path, capsys):
    lines = _edited(
        log_of("utilisation"), 7, lambda data: data["decided"]["plan"]["pools"][0].update(replicas=5)
    )
    log = tmp_path / "log.jsonl"
    log.write_text("".join(lines), encoding="utf-8")
    assert replay(log, config_path=None, policy=None, json_output=False) == 1
    said = capsys.readouterr().out
    assert "130 decisions taken again, 1 came out different" in said
    assert "line 8: plan: logged" in said


def test_a_state_left_by_one_policy_serves_every_other():
    states = {name: [found for *_, found in decisions(name, 12)][-1].state for name in POLICIES}
    fleet = Fleet()
    snapshots = [fleet.snapshot() for _ in range(20)]
    for left in states.values():
        for policy in POLICIES.values():
            state = left
            for snapshot in snapshots:
                decision = policy(snapshot, state, CONFIG)
                state = decision.state
                for target in decision.plan.pools:
                    bounds = CONFIG.pools[target.pool].replicas
                    assert bounds.min <= target.replicas <= bounds.max


def test_what_a_solver_had_no_time_for_is_passed_over_and_the_next_decision_is_taken_again(tmp_path):
    in_time, too_late = policy_named("unit_commitment"), policy_named("unit_commitment", solver_limit_s=1e-9)
    journal, fleet, state = Journal(tmp_path, CONFIG, "unit_commitment"), Fleet(), ProvisionerState()
    commitment._optimum.cache_clear()
    cut_short = []
    for number in range(30):
        snapshot = fleet.snapshot()
        decision = (too_late if number in {7, 8, 20} else in_time)(snapshot, state, CONFIG)
        cut_short += [number] * (Reason.SOLVER_STOPPED in decision.reasons)
        fleet.apply(decision.plan)
        journal.write(snapshot, state, decision)
        state = decision.state
    assert cut_short == [7, 8, 20]
    again = list(redecide_log((tmp_path / LOG_NAME).read_text().splitlines(keepends=True)))
    assert [found.difference for found in again] == [None] * 27
