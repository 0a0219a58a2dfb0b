"""What a changed configuration rolls, and what it leaves alone."""

import pytest
import yaml

from cluster.config import TidemillConfig, parse_config
from operators.job.rollout import Running, plan_rollout
from operators.job.versions import part_versions

_CONFIG = """
models:
  first: {source: simulated, aliases: [auto]}
  second: {source: simulated}
pools:
  a: {model: first, role: combined, engine: {kind: simulated}, replicas: {min: 1, max: 4}}
  b: {model: second, role: combined, engine: {kind: simulated}}
"""
_ALL = {
    "pool-a",
    "pool-b",
    "semantic-cache",
    "gateway",
    "actor:directory",
    "actor:provisioner",
}


def config_with(path: str = "", value: object = None) -> TidemillConfig:
    content = yaml.safe_load(_CONFIG)
    if path:
        *parents, last = path.split(".")
        place = content
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return parse_config(yaml.safe_dump(content))


def versions(config: TidemillConfig, **more: object) -> dict[str, str]:
    given = {"code": "1", "environment": {}, "secrets": {"admin_key": "k"}, **more}
    return part_versions(config, **given)  # type: ignore[arg-type]


def changed(config: TidemillConfig, **more: object) -> set[str]:
    before, after = versions(config_with()), versions(config, **more)
    return {part for part in after if before.get(part) != after[part]}


@pytest.mark.parametrize(
    ("path", "value", "rolled"),
    [
        ("pools.a.engine.step_base_s", 0.5, {"pool-a", "actor:provisioner"}),
        ("pools.a.resources", {"cpus": 2}, {"pool-a", "actor:provisioner"}),
        ("pools.a.replicas", {"min": 2, "max": 9}, {"actor:provisioner"}),
        ("pools.a.max_concurrent_requests", 3, {"pool-a", "gateway", "actor:provisioner"}),
        ("models.first.slo", {"ttft_s": 9.0}, {"gateway", "actor:provisioner"}),
        ("models.first.tool_call_parser", "hermes", {"pool-a", "gateway", "actor:provisioner"}),
        ("gateway.queue_timeout_s", 9.0, {"gateway", "actor:provisioner"}),
        (
            "gateway.allowed_media_domains",
            ["images.example.com"],
            {"pool-a", "pool-b", "gateway", "actor:provisioner"},
        ),
        ("gateway.body_bytes_max", 9999, {"gateway", "semantic-cache", "actor:provisioner"}),
        ("semantic_cache.exact", {"lease_s": 9.0}, {"gateway", "semantic-cache", "actor:provisioner"}),
        ("provisioning.period_s", 9.0, {"actor:provisioner"}),
        ("local_cluster.cpus", 9, set()),
        ("kubernetes.namespace", "elsewhere", set()),
        ("tracing.endpoint", "http://collector:4318", _ALL - {"actor:directory"}),
    ],
)
def test_only_what_reads_a_field_is_rolled(path: str, value: object, rolled: set[str]) -> None:
    assert changed(config_with(path, value)) == rolled


def test_other_code_rolls_everything() -> None:
    assert changed(config_with(), code="2") == _ALL
    assert changed(config_with(), environment={"HF_HOME": "/models"}) == _ALL


def test_another_key_rolls_the_gateway() -> None:
    assert changed(config_with(), secrets={"admin_key": "other"}) == {"gateway"}


def test_a_prefill_pool_makes_its_model_s_pools_new_ones() -> None:
    config = config_with("pools.p", {"model": "first", "role": "prefill", "engine": {"kind": "simulated"}})
    assert changed(config) == {"pool-a", "pool-p", "gateway", "actor:provisioner"}


_HEALTHY = {name: Running(healthy=True, replicas=2) for name in _ALL if not name.startswith("actor:")}
_FREE = [{"CPU": 0.5}, {"CPU": 8.0, "GPU": 1.0}]


def test_nothing_is_done_where_everything_runs() -> None:
    wanted = versions(config_with())
    plan = plan_rollout(config_with(), wanted, wanted, _HEALTHY, _FREE)
    assert plan.changed == ()
    assert plan.removed == ()
    assert plan.rollout.applications == frozenset()
    assert set(plan.kept) == _ALL


def test_what_is_gone_or_sick_is_deployed_again() -> None:
    wanted = versions(config_with())
    running = {**_HEALTHY, "pool-a": Running(healthy=False, replicas=1)}
    del running["gateway"]
    plan = plan_rollout(config_with(), wanted, wanted, running, _FREE)
    assert set(plan.changed) == {"pool-a", "gateway"}
    assert plan.rollout.applications == {"pool-a", "gateway"}


def test_a_pool_that_is_no_longer_wanted_is_removed_and_nobody_else_s_application_is() -> None:
    noted = {**versions(config_with()), "pool-old": "x", "actor:learner": "x"}
    running = {
        **_HEALTHY,
        "pool-old": Running(healthy=True, replicas=1),
        "theirs": Running(healthy=True, replicas=1),
    }
    plan = plan_rollout(config_with(), versions(config_with()), noted, running, _FREE)
    assert plan.removed == ("pool-old",)


def test_a_new_version_begins_with_the_size_that_the_pool_has() -> None:
    config = config_with("pools.a.engine.step_base_s", 0.5)
    running = {**_HEALTHY, "pool-a": Running(healthy=True, replicas=3)}
    plan = plan_rollout(config, versions(config), versions(config_with()), running, _FREE)
    assert plan.rollout.replicas["a"] == 3
    fewer = config_with("pools.a.replicas", {"min": 1, "max": 2})
    assert plan_rollout(fewer, versions(fewer), {}, running, _FREE).rollout.replicas["a"] == 2


@pytest.mark.parametrize(
    ("resources", "surges"),
    [
        ({"cpus": 4}, True),
        ({"cpus": 9}, False),
        ({"cpus": 1, "gpus": 1}, True),
        ({"cpus": 1, "gpus": 2}, False),
    ],
)
def test_an_old_replica_stays_until_the_new_one_is_there_if_there_is_room_for_both(
    resources: dict[str, int], surges: bool
) -> None:
    config = config_with("pools.a.resources", resources)
    plan = plan_rollout(config, versions(config), versions(config_with()), _HEALTHY, _FREE)
    assert ("pool-a" in plan.rollout.surging) == surges


def test_what_was_not_there_does_not_surge() -> None:
    config = config_with()
    assert not plan_rollout(config, versions(config), {}, {}, _FREE).rollout.surging


def test_pools_with_adapters_bring_their_coordinator() -> None:
    config = config_with("pools.a.adapters", {})
    assert changed(config) == {"pool-a", "gateway", "actor:provisioner", "actor:coordinator"}
    assert "actor:coordinator" not in versions(config_with())
