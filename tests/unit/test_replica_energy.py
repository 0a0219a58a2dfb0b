"""The energy of a request on a replica, and when it decides."""

from dataclasses import replace

import pytest

from cluster.config.routing import ReplicaRoutingConfig
from cluster.entities.performance import PowerCurve, Provenance, ReplicaPerformance
from cluster.entities.pool import MarginalEnergy, PoolName, ReplicaId, ReplicaView, Role
from cluster.entities.reasons import Reason
from cluster.entities.workload import RequestSignals, Surface
from cluster.performance.latency import step_s
from cluster.performance.power import decode_w
from cluster.policy.routing.replicas.energy import marginal_energy, request_energy_j
from cluster.policy.routing.replicas.policies import choose_replica

PERFORMANCE = ReplicaPerformance(
    step_base_s=0.01,
    step_per_sequence_s=0.001,
    step_per_context_token_s=1e-7,
    prefill_token_s=1e-4,
    batch_tokens_max=2000,
    sequences_max=64,
    kv_tokens_max=100_000,
    kv_block_tokens=16,
    kv_token_bytes=1e5,
    transfer_bytes_per_s=1e10,
    transfer_latency_s=0.01,
    start_s=60.0,
    start_j=6000.0,
    power=PowerCurve(idle_w=100.0, range_w=300.0, steepness=1.0, midpoint_log2=3.0, prefill_w=600.0),
    price_usd_per_h=1.0,
    gpus=1,
    provenance=Provenance.CONFIGURED,
)
FRUGAL = MarginalEnergy(prefill_token_j=0.1, decode_token_j=1.0, context_token_j=0.0)
HUNGRY = MarginalEnergy(prefill_token_j=0.3, decode_token_j=3.0, context_token_j=0.0)
CONFIG = ReplicaRoutingConfig(energy_slack_s=0.1, decode_weight_s=0.0, tie_s=0.0, assumed_output_tokens=100)


def view(name, role=Role.COMBINED, **changes):
    return ReplicaView(replica_id=ReplicaId(name), pool=PoolName("p"), role=role, **changes)


def request(**changes):
    given = {"surface": Surface.CHAT, "model": "m", "tenant": "t", "prompt_tokens": 1000}
    return RequestSignals(**{**given, **changes})


def choose(*candidates, config=CONFIG, draw=0.0):
    return choose_replica(request(), candidates, config, now_s=0.0, draw=draw)


def test_a_prompt_token_costs_the_power_above_idle_for_its_share_of_a_full_step():
    energy = marginal_energy(PERFORMANCE, sequences=0, context_tokens=0)
    assert energy.prefill_token_j == pytest.approx((600.0 - 100.0) * (0.01 + 2000 * 1e-4) / 2000)


def test_the_steps_that_others_need_anyway_are_not_charged():
    sequences, context, own = 7, 5000, 800

    def above_idle_j(count, tokens):
        step = step_s(PERFORMANCE, sequences=count, context_tokens=tokens, prefill_tokens=0.0)
        return (decode_w(PERFORMANCE.power, count) - 100.0) * step

    energy = marginal_energy(PERFORMANCE, sequences=sequences, context_tokens=context)
    assert energy.decode_token_j + own * energy.context_token_j == pytest.approx(
        above_idle_j(sequences + 1, context + own) - above_idle_j(sequences, context)
    )


def test_joining_a_batch_is_cheaper_than_waking_an_idle_engine():
    # Where a single sequence already draws half of the range, what another one adds shrinks with the batch.
    performance = replace(PERFORMANCE, power=replace(PERFORMANCE.power, midpoint_log2=0.0))
    alone = marginal_energy(performance, sequences=0, context_tokens=0)
    together = marginal_energy(performance, sequences=10, context_tokens=0)
    assert together.decode_token_j < alone.decode_token_j


def test_cached_tokens_and_a_bounded_answer_cost_less():
    def energy_j(replica, **changes):
        return request_energy_j(request(**changes), replica, assumed_output_tokens=100)

    assert energy_j(view("a", energy=FRUGAL)) == pytest.approx(1000 * 0.1 + 100 * 1.0)
    assert energy_j(view("a", energy=FRUGAL, cached_tokens=400)) == pytest.approx(60.0 + 100.0)
    assert energy_j(view("a", energy=FRUGAL), max_output_tokens=10) == pytest.approx(110.0)
    assert energy_j(view("a", energy=FRUGAL), max_output_tokens=999) == pytest.approx(200.0)
    assert energy_j(view("a", role=Role.PREFILL, energy=FRUGAL)) == pytest.approx(100.0)
    assert energy_j(view("a")) is None


def test_within_the_slack_the_least_energy_wins_and_says_so():
    choice = choose(
        view("fast", energy=HUNGRY, prefill_tokens_per_s=1000.0),
        view("frugal", energy=FRUGAL, prefill_tokens_per_s=950.0),
    )
    assert (choice.replica_id, choice.reasons) == ("frugal", (Reason.LEAST_ENERGY,))
    assert choice.energies_j == {"fast": pytest.approx(600.0), "frugal": pytest.approx(200.0)}


def test_beyond_the_slack_energy_has_no_say():
    choice = choose(
        view("fast", energy=HUNGRY, prefill_tokens_per_s=1000.0),
        view("frugal", energy=FRUGAL, prefill_tokens_per_s=900.0),
    )
    assert (choice.replica_id, choice.reasons, choice.energies_j) == ("fast", (Reason.LEAST_WORK,), {})


@pytest.mark.parametrize("slack_s", [0.0, 0.1])
def test_where_energy_is_off_or_not_known_of_all_the_least_work_wins(slack_s):
    config = CONFIG.model_copy(update={"energy_slack_s": slack_s})
    frugal = view("frugal", energy=FRUGAL, prefill_tokens_per_s=950.0)
    fast = view("fast", energy=HUNGRY if slack_s == 0.0 else None)
    choice = choose(fast, frugal, config=config)
    assert (choice.replica_id, choice.energies_j) == ("fast", {})


def test_equal_energy_leaves_the_choice_to_work_and_then_to_chance():
    same = [view(name, energy=FRUGAL) for name in "abc"]
    behind = view("d", energy=FRUGAL, pending_prefill_tokens=50)
    choices = [choose(*same, behind, draw=draw) for draw in (0.0, 0.5, 0.99)]
    assert [choice.replica_id for choice in choices] == ["a", "b", "c"]
    assert {choice.propensity for choice in choices} == {1 / 3}
    assert {choice.reasons for choice in choices} == {(Reason.TIE_BROKEN_BY_CHANCE,)}


def test_chance_among_the_least_energy_is_logged_with_its_propensity():
    choice = choose(
        view("fast", energy=HUNGRY, prefill_tokens_per_s=1000.0),
        view("frugal-a", energy=FRUGAL, prefill_tokens_per_s=950.0),
        view("frugal-b", energy=FRUGAL, prefill_tokens_per_s=950.0),
        draw=0.7,
    )
    assert choice.replica_id == "frugal-b"
    assert choice.propensity == 0.5
    assert choice.reasons == (Reason.LEAST_ENERGY, Reason.TIE_BROKEN_BY_CHANCE)
