"""The comparison of replica routing policies on a small trace with shared prefixes."""

import json
import random

import numpy as np
import pytest

from cluster.performance.latency import prefill_tokens_per_s
from cluster.performance.profiles import pool_performance
from cluster.simulation.traffic.trace import Trace
from load_tests import replica_routing
from load_tests.replica_routing import main
from load_tests.routing.fleet import FleetShape, with_drawn_gaps, with_routing


@pytest.fixture
def trace(tmp_path):
    """Forty conversations of a few turns, each turn with the whole conversation so far as its prefix."""
    chance = random.Random(7)
    lines, block = [], 0
    for conversation in range(40):
        hashes = [0]
        for turn in range(chance.randint(1, 5)):
            hashes = [*hashes, *range(block + 1, block + 9)]
            block += 8
            row = {"timestamp": 1000 * (conversation + 20 * turn), "hash_ids": hashes}
            lines.append({**row, "input_length": 512 * len(hashes) - 100, "output_length": 50})
    lines.sort(key=lambda row: row["timestamp"])
    path = tmp_path / "turns.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in lines), encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def _without_git(monkeypatch):
    monkeypatch.setattr(replica_routing, "circumstances", lambda _config: {"commit": "c"})


def rows(capsys, *arguments):
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_rows_of_every_policy_and_seed_with_what_was_measured(capsys, trace):
    found = rows(
        capsys, "--trace", str(trace), "--replicas", "4", "--seeds", "2", "--policies", "min_work,round_robin"
    )
    assert found["benchmark"] == "replica_routing"
    assert "--policies min_work,round_robin" in found["command"]
    places = [(row["policy"], row["seed"]) for row in found["rows"]]
    assert places == [("min_work", 0), ("min_work", 1), ("round_robin", 0), ("round_robin", 1)]
    for row in found["rows"]:
        assert row["completed"] == row["requests"] > 40
        assert 0.0 < row["mean_ttft_s"] <= row["p99_ttft_s"]
        assert row["skew"] >= 1.0
    hits = {row["policy"]: row["prefix_hit_ratio"] for row in found["rows"] if row["seed"] == 0}
    assert hits["min_work"] > 1.5 * hits["round_robin"], "conversations stay where their prefix is"


def test_two_kinds_of_replicas_and_several_routers(capsys, trace):
    arguments = (
        "--heterogeneous",
        "--routers",
        "2",
        "--seeds",
        "1",
        "--policies",
        "min_work",
        "--replicas",
        "4",
    )
    (row,) = rows(capsys, "--trace", str(trace), *arguments)["rows"]
    assert row["completed"] == row["requests"]
    assert "half 2 times slower, 2 routers, snapshots every 0.2 s" in row["case"]


def test_both_kinds_together_compute_what_equal_ones_would():
    for count in (8, 5):
        config = FleetShape(replicas=count, slow_ratio=3.0).config()
        rates = {
            name: prefill_tokens_per_s(pool_performance(pool, config.models["llama"]))
            for name, pool in config.pools.items()
        }
        assert rates["fast"] == pytest.approx(3 * rates["slow"])
        total = sum(pool.replicas.min * rates[name] for name, pool in config.pools.items())
        assert total == pytest.approx(count * 9000.0)


def test_other_settings_reach_the_routers():
    config = with_routing(FleetShape().config(), "preble", {"energy_slack_s": 0})
    replicas = config.routing.replicas
    assert (replicas.policy, replicas.energy_slack_s) == ("preble", 0.0)
    assert replicas.prefix_blocks_per_replica_max == 1500


def test_drawn_gaps_keep_order_and_rate_and_differ_by_seed():
    times = np.array([0.0, 1.0, 1.5, 4.0])
    trace = Trace(name="t", arrival_s=times, prompt_tokens=np.full(4, 9), output_tokens=np.full(4, 9))
    one, other = (with_drawn_gaps(trace, seed).arrival_s for seed in (1, 2))
    for drawn in (one, other):
        assert np.all(drawn >= times)
        assert np.all(drawn[:-1] <= times[1:])
        assert drawn[-1] == 4.0
    assert not np.array_equal(one, other)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--policies", "best"], "no policy 'best'; there are min_work"),
        (["--set", "energy_slack_s"], "expected FIELD=JSON"),
        (["--set", "energy_slack_s=x"], "'x' is no JSON"),
        (["--set", "nothing=1"], "nothing"),
    ],
)
def test_what_cannot_be_run_is_said(trace, arguments, words):
    with pytest.raises(SystemExit, match=words):
        main(["--trace", str(trace), *arguments])


def test_a_trace_without_prefixes_needs_a_fleet(tmp_path):
    path = tmp_path / "plain.jsonl"
    path.write_text('{"timestamp": 0, "input_length": 10, "output_length": 5}\n' * 3, encoding="utf-8")
    with pytest.raises(SystemExit, match="says nothing of shared prefixes"):
        main(["--trace", str(path)])
