"""A configuration error names the field, the value found and what would be right."""

import pytest

from cluster.config import ConfigError, check_config, load_config, parse_config
from cluster.entities.model_routing import Goal

GOOD = """
models: {small: {source: simulated, aliases: [auto]}}
pools: {only: {model: small, engine: {kind: simulated}}}
"""


def message(text):
    with pytest.raises(ConfigError) as caught:
        parse_config(text, origin="cluster.yaml")
    return str(caught.value)


def test_a_small_configuration_is_enough():
    config = parse_config(GOOD)
    assert config.default_model == "small"
    assert config.model_for("auto") == "small"
    assert config.model_for("other") is None


def test_an_unknown_field_is_named_with_the_one_probably_meant():
    found = message(GOOD + "gateway: {prot: 8001}\n")
    assert "cluster.yaml" in found
    assert "gateway.prot: unknown field; did you mean 'port'?" in found


def test_an_unknown_field_deep_in_a_pool_is_found_too():
    found = message(GOOD.replace("kind: simulated", "kind: simulated, prefil_tokens_per_s: 5"))
    assert (
        "pools.only.engine.prefil_tokens_per_s: unknown field; did you mean 'prefill_tokens_per_s'?" in found
    )


def test_an_unknown_field_like_no_other_lists_what_is_known():
    assert "gateway.xyzzy: unknown field; known here: admin_key_env, " in message(
        GOOD + "gateway: {xyzzy: 1}\n"
    )


def test_a_key_that_stands_twice_is_an_error_with_its_line():
    found = message(GOOD + "gateway: {port: 1}\ngateway: {port: 2}\n")
    assert "key 'gateway' stands twice" in found
    assert "line 5" in found


def test_a_pool_of_an_unknown_model_lists_the_known_ones():
    found = message(GOOD.replace("model: small", "model: smal"))
    assert "pools.only.model: no model 'smal'; models has: small" in found


@pytest.mark.parametrize("port", [0, 65536, 70000])
def test_a_port_out_of_range_shows_the_value_and_the_bound(port):
    found = message(GOOD + f"gateway: {{port: {port}}}\n")
    assert "gateway.port" in found
    assert f"(found {port})" in found
    assert "equal to" in found


def test_a_model_that_nothing_answers_for_is_an_error():
    found = message(GOOD.replace("model: small,", "model: small, role: prefill,"))
    assert "models.small: no decode or combined pool serves it" in found


def test_a_name_used_twice_is_an_error():
    text = GOOD.replace("aliases: [auto]}", "aliases: [auto]}, auto: {source: simulated}")
    text = text.replace("pools: {", "pools: {other: {model: auto, engine: {kind: simulated}}, ")
    assert "'auto' already names model 'small'" in message(text)


def test_bounds_in_the_wrong_order_say_what_to_change():
    found = message(GOOD.replace("model: small,", "model: small, replicas: {min: 3, max: 2},"))
    assert "pools.only.replicas: min (3) is above max (2); lower min or raise max" in found


def test_a_missing_field_is_named():
    assert "pools.only.model: missing" in message(GOOD.replace("model: small, ", ""))


@pytest.mark.parametrize(
    ("text", "expected"), [("models: [", "not valid YAML"), ("- a\n", "expected a mapping")]
)
def test_what_is_no_mapping_is_refused(text, expected):
    assert expected in message(text)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.yaml: cannot be read"):
        load_config(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("ports", "words"),
    [
        ("gcs_port: 18710", "local_cluster: gcs_port (18710) lies among the ports that Ray hands out itself"),
        ("dashboard_port: 30500", "dashboard_port (30500) lies among the ports"),
        ("gcs_port: 8265", "dashboard_port is the same port as gcs_port (8265)"),
    ],
)
def test_ports_that_ray_needs_itself_are_refused(ports, words):
    assert words in message(GOOD + f"local_cluster: {{{ports}}}\n")


TWO = """
models: {{first: {{source: simulated{alias}}}, second: {{source: simulated}}}}
pools:
  a: {{model: first, engine: {{kind: simulated}}}}
  b: {{model: second, engine: {{kind: simulated}}}}
{more}
"""


def two(*, alias="", more=""):
    return TWO.format(alias=f", aliases: [{alias}]" if alias else "", more=more)


def test_several_models_leave_auto_open_and_one_does_not():
    config = parse_config(two())
    assert config.routes_models
    assert [config.goal_of(name) for name in ("auto", "auto:cheap", "auto:quality")] == list(Goal)
    assert config.goal_of("first") is None
    alone = parse_config(
        "models: {m: {source: simulated}}\npools: {p: {model: m, engine: {kind: simulated}}}"
    )
    assert not alone.routes_models
    assert alone.goal_of("auto") is None


def test_auto_as_a_plain_alias_stays_one():
    config = parse_config(two(alias="auto"))
    assert config.model_for("auto") == "first"
    assert not config.routes_models
    assert "auto:cheap" not in config.client_names


def test_an_alias_that_would_also_leave_the_model_open_is_a_conflict():
    found = message(two(alias="auto", more="routing: {models: {policy: linucb}}"))
    assert "models.first.aliases: 'auto' names this model" in found
    assert "set routing.auto.enabled: false" in found
    renamed = parse_config(
        two(alias="auto", more="routing: {auto: {enabled: true, balanced: any}, models: {policy: linucb}}")
    )
    assert renamed.goal_of("any") is Goal.BALANCED
    assert renamed.model_for("auto") == "first"
    off = parse_config(two(alias="auto", more="routing: {auto: {enabled: false}, models: {policy: linucb}}"))
    assert not off.routes_models


def test_the_three_names_must_differ():
    found = message(two(more="routing: {auto: {cheap: auto}}"))
    assert "balanced, cheap and quality must be three different names" in found


def test_a_configuration_means_the_same_after_a_round_through_json():
    for text in (two(), two(alias="auto")):
        config = parse_config(text)
        again = check_config(config.model_dump(mode="json"))
        assert again.routes_models == config.routes_models


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("? [a, b]\n: c\n", "line 1, column 3"),
        ("models: {{a: b}: c}\n", "line 1, column 10"),
        ("a: " + "[" * 1000 + "]" * 1000, "nested too deeply"),
    ],
)
def test_yaml_that_python_cannot_hold_is_an_error_too(text, words):
    found = message(text)
    assert found.startswith("cluster.yaml: not valid YAML")
    assert words in found


@pytest.mark.parametrize("name", ["vllm", "simulated"])
def test_pools_that_are_called_like_an_engine_are_named_in_errors(name):
    text = GOOD.replace("only:", f"{name}:").replace("model: small", "model: small, rol: decode")
    assert f"pools.{name}.rol: unknown field; did you mean 'role'?" in message(text)


def test_an_engine_without_its_kind_is_told_the_kinds():
    found = message(GOOD.replace("kind: simulated", "args: {}"))
    assert "pools.only.engine.kind: missing; one of 'vllm', 'simulated'" in found


def test_no_number_may_be_infinite():
    found = message(GOOD + "gateway: {request_timeout_s: .inf}\n")
    assert "gateway.request_timeout_s: Input should be a finite number (found inf)" in found


def test_a_power_cap_that_would_never_hold_is_an_error():
    found = message(GOOD + "provisioning: {power_caps: [{from_hour: 8, to_hour: 8, watts: 100}]}\n")
    assert (
        "provisioning.power_caps.0: from_hour and to_hour are both 8; leave them out to cap all day" in found
    )


@pytest.mark.parametrize("where", ["tenants: {store: ", "semantic_cache: {semantic: {documents: "])
def test_an_address_of_redis_says_that_it_is_one(where):
    text = GOOD + where + "{kind: redis, redis_url: 'http://h:6379'}" + "}" * where.count("{") + "\n"
    found = message(text)
    assert "redis_url: String should match pattern" in found
    assert "(found 'http://h:6379')" in found


@pytest.mark.parametrize(
    ("pool", "words"),
    [
        (
            "resources: {gpus: 4}, engine: {kind: vllm, args: {tensor_parallel_size: 4}}",
            "gpus_per_replica is 1 and resources.gpus 4: speed, power and price would be those of 1",
        ),
        (
            "gpus_per_replica: 4, resources: {gpus: 4}",
            "the engine would use 1 of 4 GPUs (resources.gpus); set engine.args.tensor_parallel_size",
        ),
        (
            "resources: {gpus: 1}, engine: {kind: vllm, args: {tensor_parallel_size: 2}}",
            "the engine needs 2 GPUs and gets 1 (resources.gpus); raise it, or lower",
        ),
    ],
)
def test_what_is_said_of_a_replicas_gpus_has_to_agree(pool, words):
    text = f"models: {{m: {{source: s}}}}\npools: {{p: {{model: m, gpu_type: H100, {pool}}}}}\n"
    assert f"pools.p: {words}" in message(text)


@pytest.mark.parametrize(
    "pool",
    [
        "resources: {gpus: 1}",
        "resources: {gpus: 0.5}",
        "gpus_per_replica: 4, resources: {gpus: 4}, engine: {kind: vllm, args: {tensor_parallel_size: 4}}",
        "gpus_per_replica: 4, resources: {gpus: 4}, engine: {kind: vllm, args: {data_parallel_size: 4}}",
        "gpus_per_replica: 8, engine: {kind: simulated}",
    ],
)
def test_gpus_that_agree_are_none_of_them_errors(pool):
    assert parse_config(f"models: {{m: {{source: s}}}}\npools: {{p: {{model: m, gpu_type: H100, {pool}}}}}\n")
